"""Calls of a server under a load that is known: from one process, a page for a user each.

Closed: so many calls in flight, a new one for each that ends. Open: calls begin at moments drawn
beforehand, whether or not the server keeps up; a call's time counts from its moment, so that what
waits in the client is not left out (Tene, coordinated omission).
"""

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from uuid import uuid4

import grpc
import numpy as np

from serving.client import open_channel
from serving.v1 import recommender_pb2, recommender_pb2_grpc

TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True)
class Calls:
    """What became of N calls.

    Args:
        milliseconds: float64 [N], from when each was due.
        is_answer: bool [N], answered by all stages.
        errors: Status or `degraded` -> how many.
        seconds: From the first call's moment to the last answer.
    """

    milliseconds: np.ndarray
    is_answer: np.ndarray
    errors: dict[str, int]
    seconds: float

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
    """

    def __init__(self, address: str, user_ids: Sequence[str], seed: int = 0) -> None:
        self._channel = open_channel(address, None)
        self._stub = recommender_pb2_grpc.RecommenderServiceStub(self._channel)
        self._user_ids, self._rng = user_ids, random.Random(seed)

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    def closed(self, in_flight: int, seconds: float, *, request_id: str | None = None) -> Calls:
        """Keep so many calls in flight for a time.

        Args:
            in_flight: How many.
            seconds: How long calls begin.
            request_id: Of all calls and of one user, so that the first answer serves for all;
                None gives each its own.
        """
        user = self._user_ids[0] if request_id else None
        record = _Record()
        end = time.perf_counter() + seconds

        def begin() -> None:
            now = time.perf_counter()
            if now < end:
                self._call(user, request_id, now, record, begin)

        for _ in range(in_flight):
            begin()
        time.sleep(max(0.0, end - time.perf_counter()))
        return record.finish()

    def open(self, rate: float, seconds: float) -> Calls:
        """Begin `rate` calls a second on average, independently of each other."""
        record = _Record()
        for due in self._moments(rate, seconds):
            time.sleep(max(0.0, due - time.perf_counter()))
            self._call(None, None, due, record, lambda: None)
        return record.finish()

    def _moments(self, rate: float, seconds: float) -> Iterator[float]:
        due = time.perf_counter()
        end = due + seconds
        while (due := due + self._rng.expovariate(rate)) < end:
            yield due

    def _call(
        self,
        user: str | None,
        request_id: str | None,
        due: float,
        record: "_Record",
        after: Callable[[], None],
    ) -> None:
        message = recommender_pb2.RecommendItemsRequest(
            user_id=user or self._rng.choice(self._user_ids), request_id=request_id or str(uuid4())
        )
        record.begin(due)
        call = self._stub.RecommendItems.future(message, timeout=TIMEOUT_SECONDS)

        def done(answered: grpc.Future) -> None:
            record.end(due, answered)
            after()

        call.add_done_callback(done)


class _Record:
    """Calls as they come in, from the threads of gRPC."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._milliseconds: list[float] = []
        self._is_answer: list[bool] = []
        self._errors: dict[str, int] = {}
        self._num_open = 0
        self._first, self._last = float("inf"), 0.0

    def begin(self, due: float) -> None:
        with self._changed:
            self._num_open += 1
            self._first = min(self._first, due)

    def end(self, due: float, call: grpc.Future) -> None:
        now = time.perf_counter()
        problem = _problem(call)
        with self._changed:
            self._milliseconds.append(1000 * (now - due))
            self._is_answer.append(not problem)
            if problem:
                self._errors[problem] = self._errors.get(problem, 0) + 1
            self._num_open -= 1
            self._last = now
            self._changed.notify()

    def finish(self) -> Calls:
        """Wait for all calls."""
        with self._changed:
            self._changed.wait_for(lambda: self._num_open == 0, timeout=2 * TIMEOUT_SECONDS)
            return Calls(
                np.array(self._milliseconds),
                np.array(self._is_answer, bool),
                dict(self._errors),
                max(self._last - self._first, 1e-9),
            )


def _problem(call: grpc.Future) -> str:
    if call.code() is not grpc.StatusCode.OK:
        return str(call.code().name)
    return "degraded" if call.result().degraded_stages else ""
