"""Prometheus metrics of one server, in a registry of its own."""

from collections import deque

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from recsys.requests import Recommendation

BUNDLES_SHOWN = 4
"""Of a longer row of bundles, the counts of older ones are dropped: each is a label of its own."""
SECONDS_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.1, 0.2, 0.5, 1, 5)


class Metrics:
    """What a server counts and times.

    No label holds an id of a user, item, request or caller: all are words of this code, but for
    the newest few bundles.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._shown: deque[str] = deque()
        self._requests = Counter(
            "recsys_requests", "Finished calls.", ["method", "code"], registry=self.registry
        )
        self._request_seconds = Histogram(
            "recsys_request_duration_seconds",
            "Wall-clock time of a call in the server.",
            ["method"],
            buckets=SECONDS_BUCKETS,
            registry=self.registry,
        )
        self._in_flight = Gauge(
            "recsys_requests_in_flight",
            "Calls being answered.",
            ["method"],
            registry=self.registry,
        )
        self._errors = Counter(
            "recsys_errors",
            "Calls that ended in an error.",
            ["method", "reason"],
            registry=self.registry,
        )
        self._answers = Counter(
            "recsys_answers", "Rankings made.", ["bundle"], registry=self.registry
        )
        self._stage_seconds = Histogram(
            "recsys_stage_duration_seconds",
            "Wall-clock time of a stage of an answer.",
            ["stage"],
            buckets=SECONDS_BUCKETS,
            registry=self.registry,
        )
        self._items = Counter(
            "recsys_items", "Items ranked for answers.", ["source"], registry=self.registry
        )
        self._filtered = Counter(
            "recsys_filtered", "Candidates removed.", ["reason"], registry=self.registry
        )
        self._degraded = Counter(
            "recsys_degraded", "Stages replaced.", ["stage"], registry=self.registry
        )
        self._events = Counter(
            "recsys_events", "Events received.", ["outcome"], registry=self.registry
        )
        self._bundle = Gauge(
            "recsys_bundle_info", "1 for the active bundle.", ["bundle"], registry=self.registry
        )
        self._data_until = Gauge(
            "recsys_bundle_data_until_timestamp_seconds",
            "End of the log that the active bundle learned from.",
            registry=self.registry,
        )
        self._load_seconds = Gauge(
            "recsys_bundle_load_duration_seconds",
            "Verifying, loading and warming the active bundle.",
            registry=self.registry,
        )

    def begin_request(self, method: str) -> None:
        """Count a call as being answered, until `count_request`."""
        self._in_flight.labels(method).inc()

    def count_request(self, method: str, code: str, seconds: float) -> None:
        """Count one finished call."""
        self._in_flight.labels(method).dec()
        self._requests.labels(method, code).inc()
        self._request_seconds.labels(method).observe(seconds)

    def count_error(self, method: str, reason: str) -> None:
        """Count a call that ended in an error."""
        self._errors.labels(method, reason).inc()

    def count_answer(self, answer: Recommendation, bundle_id: str) -> None:
        """Count the stages, drops and sources of one answer."""
        if bundle_id in self._shown:
            self._answers.labels(bundle_id).inc()
        for stage, seconds in answer.stage_seconds.items():
            self._stage_seconds.labels(stage).observe(seconds)
        for reason, count in answer.dropped.items():
            self._filtered.labels(reason).inc(count)
        for stage in answer.degraded_stages:
            self._degraded.labels(stage).inc()
        for item in answer.items:
            self._items.labels(item.source).inc()

    def count_events(self, num_new: int, num_changed: int) -> None:
        """Count recorded events."""
        self._events.labels("new").inc(num_new)
        self._events.labels("changed").inc(num_changed)

    def show_bundle(self, bundle_id: str, data_until: int, load_seconds: float) -> None:
        """Say which bundle is active, and how old its data is (microseconds since the epoch)."""
        self._bundle.clear()
        self._bundle.labels(bundle_id).set(1)
        self._data_until.set(data_until / 1e6)
        self._load_seconds.set(load_seconds)
        if bundle_id in self._shown:
            self._shown.remove(bundle_id)
        self._shown.append(bundle_id)
        self._answers.labels(bundle_id)
        while len(self._shown) > BUNDLES_SHOWN:
            self._answers.remove(self._shown.popleft())
