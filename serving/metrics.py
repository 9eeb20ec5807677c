"""Prometheus metrics of one server, in a registry of its own."""

from collections import Counter as Counts
from collections.abc import Callable
from functools import cache, partial
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from recsys.requests import Recommendation
from serving.bundle_metrics import BundleMetrics, ShadowMetrics

SECONDS_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.1, 0.2, 0.5, 1, 5)
BATCH_BUCKETS = (1, 2, 3, 4, 6, 8, 12, 16)


class Metrics:
    """What a server counts and times.

    No label holds an id of a user, item, request or caller: all are words of this code, but for
    the newest few bundles.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        counter = partial(Counter, registry=self.registry)
        labelled = partial(_labelled, registry=self.registry)
        gauge = partial(Gauge, registry=self.registry)
        labelled_seconds = partial(labelled, Histogram, buckets=SECONDS_BUCKETS)
        ProcessCollector(registry=self.registry)
        self.bundles = BundleMetrics(self.registry, SECONDS_BUCKETS)
        self.shadow = ShadowMetrics(self.registry, SECONDS_BUCKETS)
        self._requests = labelled(Counter, "recsys_requests", "Finished calls.", ["method", "code"])
        self._in_flight = labelled(
            Gauge, "recsys_requests_in_flight", "Calls being answered.", ["method"]
        )
        self._errors = labelled(
            Counter, "recsys_errors", "Calls that ended in an error.", ["method", "reason"]
        )
        self._request_seconds = labelled_seconds(
            "recsys_request_duration_seconds",
            "Wall-clock time of a call in the server.",
            ["method"],
        )
        self._stage_seconds = labelled_seconds(
            "recsys_stage_duration_seconds",
            "Wall-clock time of a stage of an answer.",
            ["stage"],
        )
        self._batch_size = Histogram(
            "recsys_batch_size",
            "Calls whose rankings were made together.",
            buckets=BATCH_BUCKETS,
            registry=self.registry,
        )
        self._items = labelled(Counter, "recsys_items", "Items ranked for answers.", ["source"])
        self._candidates = labelled(Counter, "recsys_candidates", "Candidates found.", ["source"])
        self._filtered = labelled(Counter, "recsys_filtered", "Candidates removed.", ["reason"])
        self._degraded = labelled(Counter, "recsys_degraded", "Stages replaced.", ["stage"])
        self._events = labelled(Counter, "recsys_events", "Events received.", ["outcome"])
        self._logged = labelled(Counter, "recsys_answer_log", "Answers for the log.", ["outcome"])
        self._canary_failures = counter(
            "recsys_canary_failures", "Answers that the active bundle gave in the canary's place."
        )
        self._bundle = gauge("recsys_bundle_info", "1 for the active bundle.", ["bundle"])
        self._data_until = gauge(
            "recsys_bundle_data_until_timestamp_seconds",
            "End of the log that the active bundle learned from.",
        )
        self._load_seconds = gauge(
            "recsys_bundle_load_duration_seconds",
            "Verifying, loading and warming the active bundle.",
        )
        self._followed = gauge(
            "recsys_counters_followed_timestamp_seconds",
            "When counters last caught up with what other servers recorded.",
        )

    def begin_request(self, method: str) -> None:
        """Count a call as being answered, until `count_request`."""
        self._in_flight(method).inc()

    def count_request(self, method: str, code: str, seconds: float) -> None:
        """Count one finished call."""
        self._in_flight(method).dec()
        self._requests(method, code).inc()
        self._request_seconds(method).observe(seconds)

    def count_refused(self, method: str, code: str, reason: str) -> None:
        """Count a call that was refused for want of time, and took none."""
        self._requests(method, code).inc()
        self.count_error(method, reason)

    def count_error(self, method: str, reason: str) -> None:
        """Count a call that ended in an error."""
        self._errors(method, reason).inc()

    def count_answer(self, answer: Recommendation, bundle_id: str) -> None:
        """Count the stages, drops and sources of one answer."""
        self.bundles.count(answer, bundle_id)
        for stage, seconds in answer.stage_seconds.items():
            self._stage_seconds(stage).observe(seconds)
        for reason, count in answer.dropped.items():
            self._filtered(reason).inc(count)
        for stage in answer.degraded_stages:
            self._degraded(stage).inc()
        for source, counts in answer.source_counts.items():
            self._candidates(source).inc(counts.candidates)
        for source, number in Counts(item.source for item in answer.items).items():
            self._items(source).inc(number)

    def count_batch(self, size: int) -> None:
        """Count one making of rankings, for so many calls."""
        self._batch_size.observe(size)

    def count_canary_failure(self) -> None:
        """Count an answer that a canary could not give."""
        self._canary_failures.inc()

    def count_events(self, num_new: int, num_changed: int) -> None:
        """Count recorded events."""
        self._events("new").inc(num_new)
        self._events("changed").inc(num_changed)

    def count_logged_answers(self, outcome: str, number: int) -> None:
        """Count answers for the log: `written`, `dropped` (no room), `failed` (not writable)."""
        self._logged(outcome).inc(number)

    def show_followed(self, moment: int) -> None:
        """Say when counters caught up with the store (microseconds since the epoch)."""
        self._followed.set(moment / 1e6)

    def show_bundle(self, bundle_id: str, data_until: int, load_seconds: float) -> None:
        """Say which bundle is active, and how old its data is (microseconds since the epoch)."""
        self._bundle.clear()
        self._bundle.labels(bundle_id).set(1)
        self._data_until.set(data_until / 1e6)
        self._load_seconds.set(load_seconds)
        self.bundles.show(bundle_id)


def _labelled(
    kind: Callable[..., Any], name: str, meaning: str, labels: list[str], **options: Any
) -> Callable[..., Any]:
    """Make a metric; return what gives its child by the labels' values, at no cost after the first.

    All their values are words of this code, so the children are few.
    """
    return cache(kind(name, meaning, labels, **options).labels)
