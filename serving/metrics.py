"""Prometheus metrics of one server, in a registry of its own."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from recsys.requests import Recommendation

SECONDS_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.1, 0.2, 0.5, 1, 5)


class Metrics:
    """What a server counts and times; no label holds an id of a user or item."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
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
        self._load_seconds = Gauge(
            "recsys_bundle_load_duration_seconds",
            "Verifying, loading and warming the active bundle.",
            registry=self.registry,
        )

    def count_request(self, method: str, code: str, seconds: float) -> None:
        """Count one finished call."""
        self._requests.labels(method, code).inc()
        self._request_seconds.labels(method).observe(seconds)

    def count_answer(self, answer: Recommendation) -> None:
        """Count the stages, drops and sources of one answer."""
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

    def show_bundle(self, bundle_id: str, load_seconds: float) -> None:
        """Say which bundle is active."""
        self._bundle.clear()
        self._bundle.labels(bundle_id).set(1)
        self._load_seconds.set(load_seconds)
