"""The threads that answer calls, and which calls they get: those that can be answered in time.

A call waits in the queue for about (calls before it) x (usual seconds of a call) / (threads). One
that would wait longer than its deadline allows, or than `max_wait_seconds`, is handed to other
threads at once, which only refuse: so who is refused learns it within milliseconds, and the work
done is for answers that somebody still waits for.
"""

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

REFUSING_THREADS = 2
WEIGHT = 0.05
"""Of the newest call in the usual seconds: about the last 20 count."""


class CallPool(Executor):
    """An executor for `grpc.server`.

    Args:
        threads: Calls worked on at once.
        max_wait_seconds: A call that would wait longer is refused, whatever its deadline.
        clock: Returns the seconds since the epoch, as the deadlines that gRPC gives.
    """

    def __init__(
        self, threads: int, max_wait_seconds: float, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._threads, self._max_wait_seconds, self._clock = threads, max_wait_seconds, clock
        self._workers = ThreadPoolExecutor(threads, thread_name_prefix="call")
        self._refusers = ThreadPoolExecutor(REFUSING_THREADS, thread_name_prefix="refuse")
        self._refused = threading.local()
        self._lock = threading.Lock()
        self._num_waiting, self._num_working, self._usual_seconds = 0, 0, 0.0

    @property
    def num_waiting(self) -> int:
        """Calls that no thread works on yet."""
        return self._num_waiting

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
            # With a thread free a call begins, whatever its deadline: the answer may get simpler.
            is_late = wait_seconds > max(self._patience_seconds(arguments), 0)
            self._num_waiting += not is_late
        if is_late:
            return self._refusers.submit(self._refuse, wait_seconds, function, arguments, named)
        return self._workers.submit(self._work, function, arguments, named)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls."""
        for pool in (self._workers, self._refusers):
            pool.shutdown(wait, cancel_futures=cancel_futures)

    def _wait_seconds(self) -> float:
        if self._num_working < self._threads:
            return 0.0
        return (self._num_waiting + 1) * self._usual_seconds / self._threads

    def _patience_seconds(self, arguments: Iterable[Any]) -> float:
        """Return how long a call may wait and still be answered in time."""
        remaining = _deadline(arguments) - self._clock() - self._usual_seconds
        return min(remaining, self._max_wait_seconds)

    def _work(self, function: Callable, arguments: tuple, named: dict) -> Any:
        with self._lock:
            self._num_waiting -= 1
            self._num_working += 1
        started = time.perf_counter()
        try:
            return function(*arguments, **named)
        finally:
            seconds = time.perf_counter() - started
            with self._lock:
                self._num_working -= 1
                self._usual_seconds += WEIGHT * (seconds - self._usual_seconds)

    def _refuse(
        self, wait_seconds: float, function: Callable, arguments: tuple, named: dict
    ) -> Any:
        self._refused.seconds = wait_seconds
        return function(*arguments, **named)


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
