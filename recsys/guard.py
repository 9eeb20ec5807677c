"""Work that may hang, done beside its caller, who waits for it no longer than there is time."""

import math
import threading
import time
import weakref
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import Generic, TypeVar

Result = TypeVar("Result")
USUAL_TIMES, MIN_PATIENCE_SECONDS = 10.0, 0.2
"""Work that takes so many times what is usual, and so long, hangs."""
PATIENT_SHARE = 0.25
"""Of a caller's time, which is waited for in any case: who has much of it bears a slow moment."""
WEIGHT = 0.05
"""Of the newest work in the usual seconds: about the last 20 count."""
PROBE_SECONDS = 1.0
"""While work hangs, one caller in so many seconds tries whether the part works again."""


class BusyError(TimeoutError):
    """Work before this one hangs; this work was not begun."""


class Guard:
    """Does work in threads of its own, and learns how long it usually takes.

    A thread whose work hangs is lost until the work comes back. As long as the newest work that is
    known of hangs, or all threads are lost, work is refused at once: a part that hangs costs a few
    callers their time, and the others none.

    Args:
        num_threads: At most; each is started when it is first needed.
        name: Of the threads.
        usual_seconds: What work takes, as far as is known; None until the first was done, which
            is then waited for as long as its caller can.
        clock: Returns seconds.
    """

    def __init__(
        self,
        num_threads: int,
        name: str,
        *,
        usual_seconds: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._num_threads, self._name = num_threads, name
        self._usual_seconds, self._clock = usual_seconds, clock
        self._waiting: SimpleQueue[_Work | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._begun: dict[_Work, float] = {}
        self._num_started = 0
        self._works_since = self._next_probe = self._rests_until = -math.inf

    def run(self, work: Callable[[], Result], seconds: float) -> Result:
        """Do some work, and return what it returns.

        Args:
            work: Goes on after the caller has stopped waiting; nobody then sees what comes of it.
            seconds: How long to wait, at most; down to a quarter of it where less is usual.

        Raises:
            BusyError: Work before this one hangs.
            TimeoutError: It took longer.
            Exception: What the work raised.
        """
        begun = _Work(work)
        with self._lock:
            now, patience = self._clock(), self._patience_seconds()
            self._refuse_while_hanging(now, patience)
            self._begun[begun] = now
            if self._num_started < len(self._begun):
                self._num_started += 1
                # Of the server's exit a thread that hangs must not keep it.
                work_on = partial(_serve, self._waiting, weakref.ref(self))
                threading.Thread(target=work_on, name=self._name, daemon=True).start()
                weakref.finalize(self, self._waiting.put, None)
        self._waiting.put(begun)
        try:
            return begun.result(min(seconds, max(patience, PATIENT_SHARE * seconds)))
        except TimeoutError:
            with self._lock:
                self._next_probe = self._clock() + PROBE_SECONDS
            raise

    def rest(self) -> None:
        """Refuse work for a while, as if some hung: another has seen that the part does."""
        with self._lock:
            self._rests_until = self._clock() + PROBE_SECONDS

    def _patience_seconds(self) -> float:
        if self._usual_seconds is None:
            return math.inf
        return max(USUAL_TIMES * self._usual_seconds, MIN_PATIENCE_SECONDS)

    def _refuse_while_hanging(self, now: float, patience: float) -> None:
        if now < self._rests_until:
            raise BusyError("a call before this one hangs")
        newer = [moment for moment in self._begun.values() if moment >= self._works_since]
        num_hanging = sum(now - moment > patience for moment in newer)
        if len(self._begun) == self._num_threads or (num_hanging and now < self._next_probe):
            raise BusyError(f"{num_hanging or len(self._begun)} calls before this one hang")
        if num_hanging:
            self._next_probe = now + PROBE_SECONDS

    def end(self, work: "_Work") -> None:
        """Note work that came back."""
        with self._lock:
            self._note(self._begun.pop(work))

    def _note(self, begun: float) -> None:
        """Learn from work that came back; what was begun before it may hang for ever."""
        seconds, patience = self._clock() - begun, self._patience_seconds()
        usual = seconds if self._usual_seconds is None else self._usual_seconds
        if seconds <= patience:
            self._works_since = max(self._works_since, begun)
        else:  # a few that hung are not usual; where all take so long, it grows by and by
            seconds = 2 * usual
        self._usual_seconds = usual + WEIGHT * (seconds - usual)


def _serve(waiting: "SimpleQueue[_Work | None]", guard_of: "weakref.ref[Guard]") -> None:
    """Do what waits, until nobody has the guard any more: a thread that held it would keep it."""
    while (work := waiting.get()) is not None:
        work.do()
        if (guard := guard_of()) is not None:
            guard.end(work)
        work.tell()
        del work, guard


class _Work(Generic[Result]):
    """Something to do, and what came of it."""

    def __init__(self, work: Callable[[], Result]) -> None:
        self._work = work
        self._ended = threading.Lock()
        self._ended.acquire()
        self._error: BaseException | None = None

    def do(self) -> None:
        try:
            self._result = self._work()
        except BaseException as error:  # the caller's to handle, whatever it is
            self._error = error

    def tell(self) -> None:
        self._ended.release()

    def result(self, seconds: float) -> Result:
        if not self._ended.acquire(timeout=max(seconds, 0.0)):
            raise TimeoutError(f"not done after {max(seconds, 0.0):.3f} s")
        if self._error is not None:
            raise self._error
        return self._result
