"""Answers computed again by a bundle on trial, in the background, and only compared.

One thread does it, and a short queue feeds it: a shadow that is slower than its share, or calls
that wait for the server, drop comparisons, never answers.
"""

import queue
import threading
import time
from collections.abc import Callable

from recsys.requests import Recommendation, Request
from serving.bundle_metrics import ShadowMetrics
from serving.reload import Bundles

MAX_WAITING = 8


class Shadow:
    """Compares.

    Args:
        bundles: Of which one may be a shadow.
        metrics: Told what came of it.
        is_busy: Says whether calls wait for the server.
    """

    def __init__(
        self, bundles: Bundles, metrics: ShadowMetrics, is_busy: Callable[[], bool]
    ) -> None:
        self._bundles, self._metrics, self._is_busy = bundles, metrics, is_busy
        self._waiting: queue.Queue[tuple[Request, Recommendation] | None] = queue.Queue(MAX_WAITING)
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Leave what waits, and end after what is under way."""
        self._is_stopping = True
        if self._thread.is_alive():
            self._waiting.put(None)
            self._thread.join()

    def offer(self, request: Request, answer: Recommendation) -> None:
        """Take an answer that the active bundle gave, if it is in the share; never waits."""
        trial = self._bundles.shadow
        if trial is None or not trial.takes(request.request_id):
            return
        try:
            if self._is_busy():
                raise queue.Full
            self._waiting.put_nowait((request, answer))
        except queue.Full:
            self._metrics.count("dropped")

    def _run(self) -> None:
        while (work := self._waiting.get()) is not None and not self._is_stopping:
            trial = self._bundles.shadow
            if trial is None:
                continue
            request, given = work
            started = time.perf_counter()
            try:
                shadowed = trial.recommender.recommend([request])[0]
            except Exception:  # whatever is wrong with it must be seen in a metric only
                self._metrics.count("failed")
                continue
            self._metrics.compare(given, shadowed, time.perf_counter() - started)
