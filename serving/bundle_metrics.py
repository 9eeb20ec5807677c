"""Metrics of single bundles, by which a canary and a shadow are judged."""

from collections import deque
from collections.abc import Sequence

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary

from recsys.requests import RankedItem, Recommendation

BUNDLES_SHOWN = 4
"""Of a longer row of bundles, the counts of older ones are dropped: each is a label of its own."""
COMPARED_ITEMS = 10
"""First items of an answer whose expected seconds, and whose overlap, are looked at."""
SHARE_BUCKETS = tuple(place / 10 for place in range(11))


class BundleMetrics:
    """Answers of the newest few bundles, each under its id.

    Args:
        registry: Where they are shown.
        seconds_buckets: Of durations.
    """

    def __init__(self, registry: CollectorRegistry, seconds_buckets: Sequence[float]) -> None:
        label = ["bundle"]
        self._shown: deque[str] = deque()
        self._answers = Counter("recsys_answers", "Rankings made.", label, registry=registry)
        self._seconds = Histogram(
            "recsys_answer_duration_seconds",
            "Wall-clock time of the stages of a ranking.",
            label,
            buckets=seconds_buckets,
            registry=registry,
        )
        self._degraded = Counter(
            "recsys_answers_degraded", "Rankings with a stage replaced.", label, registry=registry
        )
        self._expected = Summary(
            "recsys_expected_watch_seconds",
            f"Mean expected watch time of a ranking's first {COMPARED_ITEMS} items.",
            label,
            registry=registry,
        )
        self._share = Gauge(
            "recsys_trial_share",
            "Share of the users (canary) or requests (shadow) that a bundle on trial gets.",
            ["kind", "bundle"],
            registry=registry,
        )

    def show(self, bundle_id: str) -> None:
        """Begin to show a bundle, which is the newest now; the oldest is dropped."""
        if bundle_id in self._shown:
            self._shown.remove(bundle_id)
        self._shown.append(bundle_id)
        for metric in self._all():
            metric.labels(bundle_id)
        while len(self._shown) > BUNDLES_SHOWN:
            oldest = self._shown.popleft()
            for metric in self._all():
                metric.remove(oldest)

    def show_trials(self, shares: dict[tuple[str, str], float]) -> None:
        """Show the trials that there are now: (kind, bundle id) -> share."""
        self._share.clear()
        for (kind, bundle_id), share in shares.items():
            self._share.labels(kind, bundle_id).set(share)

    def count(self, answer: Recommendation, bundle_id: str) -> None:
        """Count an answer of a bundle."""
        if bundle_id not in self._shown:
            return
        self._answers.labels(bundle_id).inc()
        self._seconds.labels(bundle_id).observe(sum(answer.stage_seconds.values()))
        self._degraded.labels(bundle_id).inc(bool(answer.degraded_stages))
        expected = mean_expected_seconds(answer.items)
        if expected is not None:
            self._expected.labels(bundle_id).observe(expected)

    def _all(self) -> tuple[Counter | Histogram | Summary, ...]:
        return self._answers, self._seconds, self._degraded, self._expected


class ShadowMetrics:
    """How the answers of a shadow compare with those that were given.

    Args:
        registry: Where they are shown.
        seconds_buckets: Of durations.
    """

    def __init__(self, registry: CollectorRegistry, seconds_buckets: Sequence[float]) -> None:
        self._outcomes = Counter(
            "recsys_shadow_answers", "Answers for the shadow.", ["outcome"], registry=registry
        )
        self._seconds = Histogram(
            "recsys_shadow_duration_seconds",
            "Wall-clock time of a ranking by the shadow.",
            buckets=seconds_buckets,
            registry=registry,
        )
        self._overlap = Histogram(
            "recsys_shadow_overlap_ratio",
            f"Share of the first {COMPARED_ITEMS} items that the shadow's first hold too.",
            buckets=SHARE_BUCKETS,
            registry=registry,
        )
        # Of both sides apart: a histogram with buckets below 0 has no sum, and so no mean.
        self._expected = Summary(
            "recsys_shadow_expected_watch_seconds",
            f"Mean expected watch time of the first {COMPARED_ITEMS} items of compared answers.",
            ["side"],
            registry=registry,
        )

    def count(self, outcome: str) -> None:
        """Count an answer that was `compared`, `failed`, or `dropped` because of load."""
        self._outcomes.labels(outcome).inc()

    def compare(self, given: Recommendation, shadowed: Recommendation, seconds: float) -> None:
        """Compare an answer that was given with the shadow's, which took so long."""
        self._seconds.observe(seconds)
        self._overlap.observe(overlap(given.items, shadowed.items))
        expected = [mean_expected_seconds(each.items) for each in (given, shadowed)]
        for side, mean in zip(("given", "shadow"), expected, strict=True):
            if mean is not None and None not in expected:
                self._expected.labels(side).observe(mean)
        self.count("compared")


def overlap(given: Sequence[RankedItem], other: Sequence[RankedItem]) -> float:
    """Return which share of the first given items is among the first others; 1 for none given."""
    first, second = ({item.item_id for item in items[:COMPARED_ITEMS]} for items in (given, other))
    return len(first & second) / len(first) if first else 1.0


def mean_expected_seconds(items: Sequence[RankedItem]) -> float | None:
    """Return the mean expected watch time of the first items, None where none is known."""
    first = [item.expected_watch_seconds for item in items[:COMPARED_ITEMS]]
    known = [seconds for seconds in first if seconds is not None]
    return float(np.mean(known)) if known else None
