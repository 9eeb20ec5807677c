"""The threads that answer calls, and which calls they get: those that can be answered in time.

A call waits for about (calls before it, those that are worked on for half) x (seconds from one
answer to the next, while there is work). One that would wait longer than its deadline allows, or
than `max_wait_seconds`, is refused at once, by the thread that brought it: so who is refused learns
it within milliseconds, and the work done is for answers that somebody still waits for.
"""

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, TypeVar

CALL_THREADS = 48
"""Calls begun and not yet answered. Most wait to be ranked together (`serving.batching`)."""
WAIT_SHARE = 0.5
"""Of the time that a caller has, at most, for the wait that is foreseen: it may take longer."""
WEIGHT = 0.05
"""Of the newest call in the usual spacing: about the last 20 count."""

Handler = TypeVar("Handler", bound=Callable[..., Any])


def refusable(handler: Handler) -> Handler:
    """Mark a gRPC handler that asks `CallPool.refused_wait_seconds`, and then waits for nothing.

    All other calls are let in, whatever their wait.
    """
    handler.may_be_refused = True  # type: ignore[attr-defined]
    return handler


class CallPool(Executor):
    """An executor for `grpc.server`.

    Args:
        places: Calls that are worked on at once; as long as there are fewer, none is refused.
        max_wait_seconds: A call that would wait longer is refused, whatever its deadline.
        clock: Returns the seconds since the epoch, as the deadlines that gRPC gives.
    """

    def __init__(
        self, places: int, max_wait_seconds: float, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._places, self._max_wait_seconds, self._clock = places, max_wait_seconds, clock
        self._workers = ThreadPoolExecutor(CALL_THREADS, thread_name_prefix="call")
        self._refused = threading.local()
        self._lock = threading.Lock()
        self._num_calls, self._spacing_seconds, self._last_end = 0, 0.0, 0.0

    @property
    def num_waiting(self) -> int:
        """Calls beyond those that are worked on."""
        return max(self._num_calls - self._places, 0)

    @property
    def refused_wait_seconds(self) -> float | None:
        """What the call that this thread works on would have waited; None if it is to be answered.

        Asked by the interceptor, within the call.
        """
        return getattr(self._refused, "seconds", None)

    def submit(self, function: Callable, /, *arguments: Any, **named: Any) -> Future:
        """Queue a call, or have it refused."""
        with self._lock:
            wait_seconds = self._wait_seconds()
            # With a place free a call begins, whatever its deadline: the answer may get simpler.
            is_late = _is_refusable(arguments) and wait_seconds > max(
                self._patience_seconds(arguments), 0
            )
            self._num_calls += not is_late
        if is_late:
            return self._refuse(wait_seconds, function, arguments, named)
        return self._workers.submit(self._work, function, arguments, named)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls."""
        self._workers.shutdown(wait, cancel_futures=cancel_futures)

    def _wait_seconds(self) -> float:
        if self._num_calls < self._places:
            return 0.0
        return (self._num_calls - self._places / 2) * self._spacing_seconds

    def _patience_seconds(self, arguments: Iterable[Any]) -> float:
        """Return how long a call may wait and still be answered in time, though not foreseen well.

        A longer queue would answer no more calls, and each of them later.
        """
        remaining = _deadline(arguments) - self._clock() - self._spacing_seconds
        return min(WAIT_SHARE * remaining, self._max_wait_seconds)

    def _work(self, function: Callable, arguments: tuple, named: dict) -> Any:
        started = time.perf_counter()
        try:
            return function(*arguments, **named)
        finally:
            self._note_end(started)

    def _note_end(self, started: float) -> None:
        """Learn from a call what one costs: the time since the one before it, or its own."""
        with self._lock:
            now = time.perf_counter()
            spacing = now - max(started, self._last_end)
            self._last_end = now
            self._num_calls -= 1
            self._spacing_seconds += WEIGHT * (spacing - self._spacing_seconds)

    def _refuse(
        self, wait_seconds: float, function: Callable, arguments: tuple, named: dict
    ) -> Future:
        """Refuse a call here and now: gRPC's own thread brings it, and refusing waits for nothing.

        To wake another thread would cost more than to refuse.
        """
        refused: Future = Future()
        self._refused.seconds = wait_seconds
        try:
            refused.set_result(function(*arguments, **named))
        except Exception as error:
            refused.set_exception(error)
        finally:
            self._refused.seconds = None
        return refused


def _is_refusable(arguments: Iterable[Any]) -> bool:
    return any(getattr(argument, "may_be_refused", False) for argument in arguments)


def _deadline(arguments: Iterable[Any]) -> float:
    """Return when the caller gives up, in seconds since the epoch, as far as gRPC tells.

    It hands the call's event to its executor; there is no other place where the deadline of a call
    is known before a thread works on it. If it no longer does so, only `max_wait_seconds` holds.
    """
    for argument in arguments:
        details = getattr(argument, "call_details", None)
        if details is not None:
            return details.deadline
    return float("inf")
