"""Calls of a server under a load that is known: from one process, a page for a user each.

Closed: so many calls in flight, a new one for each that ends. Open: calls begin at moments drawn
beforehand, whether or not the server keeps up; a call's time counts from its moment, so that what
waits in the client is not left out (Tene, coordinated omission).
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import grpc
import numpy as np

from serving.client import open_channel
from serving.v1 import recommender_pb2, recommender_pb2_grpc

TIMEOUT_SECONDS = 10.0
DEGRADED = "degraded"

Check = Callable[[str, Any], str]
"""Says what is wrong with the answer that a user got; empty for nothing."""


@dataclass(frozen=True)
class Calls:
    """What became of N calls.

    Args:
        due: float64 [N], moment of each, by `time.perf_counter`.
        milliseconds: float64 [N], from then to its end.
        problems: What was wrong with each: a status, `degraded`, what the check said; or nothing.
        seconds: From the first moment to the last end.
    """

    due: np.ndarray
    milliseconds: np.ndarray
    problems: list[str]
    seconds: float

    def __len__(self) -> int:
        """Return the number of calls."""
        return len(self.problems)

    @property
    def is_answer(self) -> np.ndarray:
        """Say which calls were answered, and nothing was wrong: bool [N]."""
        return np.array([not problem for problem in self.problems], bool)

    @property
    def errors(self) -> dict[str, int]:
        """Count what was wrong."""
        return dict(Counter(problem for problem in self.problems if problem))

    @property
    def per_second(self) -> float:
        """Answers a second, however late."""
        return float(self.is_answer.sum()) / self.seconds

    def per_second_within(self, limit_ms: float) -> float:
        """Answers a second that came in time."""
        return float((self.is_answer & (self.milliseconds <= limit_ms)).sum()) / self.seconds

    def percentile(self, share: float) -> float:
        """Return the time in milliseconds that a percentage of the answers took at most."""
        taken = self.milliseconds[self.is_answer]
        return float(np.percentile(taken, share)) if len(taken) else float("inf")


class Caller:
    """Calls one server.

    Args:
        address: `host:port`.
        user_ids: Asked for at random, with replacement.
        seed: Of users and moments.
        page_size: 0 takes the bundle's default.
        check: Looks at every answer.
        timeout_seconds: Deadline of a call.
    """

    def __init__(
        self,
        address: str,
        user_ids: Sequence[str],
        seed: int = 0,
        *,
        page_size: int = 0,
        check: Check | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        self._channel = open_channel(address, None)
        self._stub = recommender_pb2_grpc.RecommenderServiceStub(self._channel)
        self._user_ids, self._rng = user_ids, random.Random(seed)
        self._page_size, self._check, self._timeout = page_size, check, timeout_seconds

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    def closed(
        self,
        in_flight: int,
        *,
        seconds: float = float("inf"),
        number: float = float("inf"),
        request_id: str = "",
        until_problem: bool = False,
    ) -> Calls:
        """Keep so many calls in flight, until one of the limits.

        Args:
            in_flight: How many.
            seconds: How long calls begin.
            number: How many begin.
            request_id: Of all calls and of one user, so that the first answer serves for all;
                none gives each its own.
            until_problem: Whether the first problem ends it.
        """
        record = _Record(self._check)
        end = time.perf_counter() + seconds
        left = number

        def begin() -> None:
            nonlocal left
            now = time.perf_counter()
            left -= 1
            if now < end and left >= 0 and not (until_problem and record.has_problem):
                self._call(request_id, now, record, begin)

        for _ in range(in_flight):
            begin()
        return record.finish()

    def open(self, rate: float, seconds: float, *, timeout_seconds: float | None = None) -> Calls:
        """Begin `rate` calls a second on average, independently of each other.

        Args:
            rate: Calls a second.
            seconds: How long calls begin.
            timeout_seconds: Deadline of these calls; None for that of all.
        """
        record = _Record(self._check)
        for due in self._moments(rate, seconds):
            time.sleep(max(0.0, due - time.perf_counter()))
            self._call("", due, record, lambda: None, timeout_seconds)
        return record.finish()

    def _moments(self, rate: float, seconds: float) -> Iterator[float]:
        due = time.perf_counter()
        end = due + seconds
        while (due := due + self._rng.expovariate(rate)) < end:
            yield due

    def _call(
        self,
        request_id: str,
        due: float,
        record: "_Record",
        after: Callable[[], None],
        timeout_seconds: float | None = None,
    ) -> None:
        user = self._user_ids[0] if request_id else self._rng.choice(self._user_ids)
        message = recommender_pb2.RecommendItemsRequest(
            user_id=user, request_id=request_id or str(uuid4()), page_size=self._page_size
        )
        record.begin()
        call = self._stub.RecommendItems.future(message, timeout=timeout_seconds or self._timeout)

        def done(answered: grpc.Future) -> None:
            record.end(user, due, answered, after)

        call.add_done_callback(done)


class _Record:
    """Calls as they come in, from the threads of gRPC."""

    def __init__(self, check: Check | None) -> None:
        self._check = check
        self._changed = threading.Condition()
        self._ended: list[tuple[float, float, str]] = []
        self._num_open = 0
        self.has_problem = False

    def begin(self) -> None:
        with self._changed:
            self._num_open += 1

    def end(self, user: str, due: float, call: grpc.Future, after: Callable[[], None]) -> None:
        now = time.perf_counter()
        problem = self._problem(user, call)
        self.has_problem |= bool(problem)
        after()  # before this call counts as ended: else none may be open for a moment
        with self._changed:
            self._ended.append((due, now, problem))
            self._num_open -= 1
            self._changed.notify()

    def finish(self) -> Calls:
        """Wait for all calls."""
        with self._changed:
            self._changed.wait_for(lambda: self._num_open == 0)
        due, ended, problems = zip(*self._ended, strict=True) if self._ended else ((), (), ())
        begun, end = np.array(due), np.array(ended)
        seconds = float(end.max() - begun.min()) if len(end) else 0.0
        return Calls(begun, 1000 * (end - begun), list(problems), max(seconds, 1e-9))

    def _problem(self, user: str, call: grpc.Future) -> str:
        if call.code() is not grpc.StatusCode.OK:
            return str(call.code().name)
        answer = call.result()
        if self._check is not None and (problem := self._check(user, answer)):
            return problem
        return DEGRADED if answer.degraded_stages else ""
