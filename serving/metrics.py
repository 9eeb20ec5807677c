"""Prometheus metrics of one server, in a registry of its own."""

from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from recsys.requests import Recommendation
from serving.bundle_metrics import BundleMetrics, ShadowMetrics

SECONDS_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.1, 0.2, 0.5, 1, 5)


class Metrics:
    """What a server counts and times.

    No label holds an id of a user, item, request or caller: all are words of this code, but for
    the newest few bundles.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        counter = partial(Counter, registry=self.registry)
        gauge = partial(Gauge, registry=self.registry)
        seconds = partial(Histogram, buckets=SECONDS_BUCKETS, registry=self.registry)
        ProcessCollector(registry=self.registry)
        self.bundles = BundleMetrics(self.registry, SECONDS_BUCKETS)
        self.shadow = ShadowMetrics(self.registry, SECONDS_BUCKETS)
        self._requests = counter("recsys_requests", "Finished calls.", ["method", "code"])
        self._in_flight = gauge("recsys_requests_in_flight", "Calls being answered.", ["method"])
        self._errors = counter(
            "recsys_errors", "Calls that ended in an error.", ["method", "reason"]
        )
        self._request_seconds = seconds(
            "recsys_request_duration_seconds",
            "Wall-clock time of a call in the server.",
            ["method"],
        )
        self._stage_seconds = seconds(
            "recsys_stage_duration_seconds",
            "Wall-clock time of a stage of an answer.",
            ["stage"],
        )
        self._items = counter("recsys_items", "Items ranked for answers.", ["source"])
        self._candidates = counter("recsys_candidates", "Candidates found.", ["source"])
        self._filtered = counter("recsys_filtered", "Candidates removed.", ["reason"])
        self._degraded = counter("recsys_degraded", "Stages replaced.", ["stage"])
        self._events = counter("recsys_events", "Events received.", ["outcome"])
        self._logged = counter("recsys_answer_log", "Answers for the log.", ["outcome"])
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
        self._in_flight.labels(method).inc()

    def count_request(self, method: str, code: str, seconds: float) -> None:
        """Count one finished call."""
        self._in_flight.labels(method).dec()
        self._requests.labels(method, code).inc()
        self._request_seconds.labels(method).observe(seconds)

    def count_refused(self, method: str, code: str, reason: str) -> None:
        """Count a call that was refused for want of time, and took none."""
        self._requests.labels(method, code).inc()
        self.count_error(method, reason)

    def count_error(self, method: str, reason: str) -> None:
        """Count a call that ended in an error."""
        self._errors.labels(method, reason).inc()

    def count_answer(self, answer: Recommendation, bundle_id: str) -> None:
        """Count the stages, drops and sources of one answer."""
        self.bundles.count(answer, bundle_id)
        for stage, seconds in answer.stage_seconds.items():
            self._stage_seconds.labels(stage).observe(seconds)
        for reason, count in answer.dropped.items():
            self._filtered.labels(reason).inc(count)
        for stage in answer.degraded_stages:
            self._degraded.labels(stage).inc()
        for source, counts in answer.source_counts.items():
            self._candidates.labels(source).inc(counts.candidates)
        for item in answer.items:
            self._items.labels(item.source).inc()

    def count_canary_failure(self) -> None:
        """Count an answer that a canary could not give."""
        self._canary_failures.inc()

    def count_events(self, num_new: int, num_changed: int) -> None:
        """Count recorded events."""
        self._events.labels("new").inc(num_new)
        self._events.labels("changed").inc(num_changed)

    def count_logged_answers(self, outcome: str, number: int) -> None:
        """Count answers for the log: `written`, `dropped` (no room), `failed` (not writable)."""
        self._logged.labels(outcome).inc(number)

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
