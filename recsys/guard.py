"""Work that may hang, done beside its caller, who waits for it no longer than there is time."""

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Generic, TypeVar

Result = TypeVar("Result")


class BusyError(TimeoutError):
    """Every thread has work that hangs; this work was not begun."""


class Guard:
    """Does work in threads of its own.

    A thread whose work hangs is lost until the work comes back. While all of them are, work is
    refused at once, so that a part that hangs costs a few callers their time, and the others none.

    Args:
        num_threads: At most; each is started when it is first needed.
        name: Of the threads.
    """

    def __init__(self, num_threads: int, name: str) -> None:
        self._num_threads, self._name = num_threads, name
        self._waiting: SimpleQueue[_Work] = SimpleQueue()
        self._lock = threading.Lock()
        self._num_busy = self._num_started = 0

    def run(self, work: Callable[[], Result], seconds: float) -> Result:
        """Do some work, and return what it returns.

        Args:
            work: Goes on after the caller has stopped waiting; nobody then sees what comes of it.
            seconds: How long to wait, at most.

        Raises:
            BusyError: Every thread has work that hangs.
            TimeoutError: It took longer.
            Exception: What the work raised.
        """
        begun = _Work(work)
        with self._lock:
            if self._num_busy == self._num_threads:
                raise BusyError(f"{self._num_busy} calls before this one hang")
            self._num_busy += 1
            if self._num_started < self._num_busy:
                self._num_started += 1
                # Of the server's exit a thread that hangs must not keep it.
                threading.Thread(target=self._serve, name=self._name, daemon=True).start()
        self._waiting.put(begun)
        return begun.result(seconds)

    def _serve(self) -> None:
        while True:
            work = self._waiting.get()
            work.do()
            with self._lock:
                self._num_busy -= 1
            work.tell()


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
