"""Calls that wait for a ranking are answered together: most of its cost is the same for several.

No call waits for others to come. With a place free it is ranked at once, by its own thread. Those
that come while all places are taken wait, and the first of them ranks all together when a place
gets free. So a lone caller pays nothing, and under load a ranking costs less (docs/decisions/0019).
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from recsys.recommender import Recommender
from recsys.requests import Recommendation, Request
from serving.status import DeadlineError

MAX_BATCH = 16
AMPLE_TIMES = 2.0
"""Who has less time than so many times what a batch takes is answered in a smaller one: of a batch
the stages that do not fit the shortest time are left out for all."""
WEIGHT = 0.1
"""Of the newest batch in the usual seconds."""


@dataclass(eq=False)
class _Waiting:
    """A request that somebody waits for, and what comes of it."""

    recommender: Recommender
    request: Request
    time_remaining: Callable[[], float]
    wakes: threading.Lock = field(default_factory=threading.Lock)
    batch: "list[_Waiting]" = field(default_factory=list)
    answer: Recommendation | None = None
    error: Exception | None = None

    def result(self) -> Recommendation:
        if self.error is not None:
            raise self.error
        if self.answer is None:
            raise RuntimeError("the thread that ranked for this call ended without an answer")
        return self.answer


class Batching:
    """Asks recommenders, for several callers at once where they would else wait.

    Args:
        places: Rankings at once.
        max_batch_seconds: How long a batch may take, as far as it can be foreseen.
        note_size: Told how many were ranked together.
        clock: Returns seconds.
    """

    def __init__(
        self,
        places: int,
        max_batch_seconds: float,
        *,
        note_size: Callable[[int], None] = lambda _: None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._num_free, self._max_batch_seconds, self._clock = places, max_batch_seconds, clock
        self._note_size = note_size
        self._queue: deque[_Waiting] = deque()
        self._lock = threading.Lock()
        self._usual_seconds = 0.0

    def recommend(
        self, recommender: Recommender, request: Request, time_remaining: Callable[[], float]
    ) -> Recommendation:
        """Answer a request, as `Recommender.recommend` does.

        Args:
            recommender: Who is asked.
            request: What.
            time_remaining: Seconds until the caller gives up.

        Raises:
            Exception: What the recommender raised for this request.
        """
        mine = _Waiting(recommender, request, time_remaining)
        with self._lock:
            is_free = self._num_free > 0
            if is_free:
                self._num_free -= 1
                mine.batch = [mine]
            else:
                mine.wakes.acquire()
                self._queue.append(mine)
        if not is_free:
            mine.wakes.acquire()  # until there is an answer, or a place to rank at
        if mine.batch:
            try:
                self._rank(mine.batch)
            finally:
                self._give_place()
                for other in mine.batch:
                    if other is not mine:
                        other.wakes.release()
        return mine.result()

    def _rank(self, batch: list[_Waiting]) -> None:
        started = self._clock()
        self._note_size(len(batch))
        if len(batch) == 1 or not self._rank_together(batch):
            for each in batch:
                try:
                    (each.answer,) = each.recommender.recommend(
                        [each.request], time_remaining=each.time_remaining
                    )
                except Exception as error:  # its own caller's to handle
                    each.error = error
        seconds = (self._clock() - started) / len(batch)
        with self._lock:
            usual = self._usual_seconds or seconds
            self._usual_seconds = usual + WEIGHT * (seconds - usual)

    def _rank_together(self, batch: list[_Waiting]) -> bool:
        """Answer a batch; False where it fails, by whichever request: then each is asked alone."""
        try:
            answers = batch[0].recommender.recommend(
                [each.request for each in batch],
                time_remaining=lambda: min(each.time_remaining() for each in batch),
            )
        except Exception:
            return False
        for each, answer in zip(batch, answers, strict=True):
            each.answer = answer
        return True

    def _give_place(self) -> None:
        """Let the first who waits rank those that wait, or leave the place free."""
        with self._lock:
            gone = self._drop_gone()
            first = self._queue[0] if self._queue else None
            if first is None:
                self._num_free += 1
            else:
                first.batch = self._take()
        for each in (*gone, *([first] if first else [])):
            each.wakes.release()

    def _drop_gone(self) -> list[_Waiting]:
        """Take out those whose callers have given up: an answer would be for nobody."""
        gone = [each for each in self._queue if each.time_remaining() <= 0]
        for each in gone:
            each.error = DeadlineError("the deadline passed while the call waited; allow more time")
            self._queue.remove(each)
        return gone

    def _take(self) -> list[_Waiting]:
        """Take the first who waits, and those who can be answered with it."""
        first = self._queue.popleft()
        batch, limit = [first], self._limit(first)
        for each in tuple(self._queue):
            if len(batch) >= limit:
                break
            if each.recommender is first.recommender and self._limit(each) > len(batch):
                batch.append(each)
                limit = min(limit, self._limit(each))
        for each in batch[1:]:
            self._queue.remove(each)
        return batch

    def _limit(self, waiting: _Waiting) -> int:
        """Return how many may be answered together with a request, itself among them."""
        # What is explained costs all of a batch its explanation.
        if self._usual_seconds <= 0 or waiting.request.explained:
            return 1
        seconds = min(self._max_batch_seconds, waiting.time_remaining() / AMPLE_TIMES)
        return max(1, min(MAX_BATCH, int(seconds / self._usual_seconds)))
