"""How `recsys compare` holds two bundles against each other."""

from typing import Literal, Self

from pydantic import Field, model_validator

from recsys.settings.base import Settings

Guarded = Literal[
    "coverage",
    "diversity",
    "popularity_percentile",
    "item_age_days",
    "latency_ms",
    "mae_seconds",
    "gauc",
]


class ComparisonSettings(Settings):
    """How much of the log is asked, what decides, and what must not get worse."""

    ks: tuple[int, ...] = Field(default=(10, 50), min_length=1)
    """Lengths of the page; the first is that of the verdict and of the guardrails."""
    primary: Literal["hr", "ndcg", "mrr"] = "ndcg"
    """What decides, at the first of `ks`."""
    max_requests: int = Field(default=20_000, ge=1)
    """A random sample of the held-out watches where there are more."""
    max_impressions: int = Field(default=20_000, ge=1)
    """As many impressions, of whole users, are asked of the rankers."""
    timed_requests: int = Field(default=200, ge=1)
    """Answered one at a time by both bundles in turn, for the latency."""
    seen_removed: bool = True
    """Whether watched items are left out of the answers."""
    persistence: float = Field(default=0.9, gt=0, lt=1)
    """Of the rank-biased overlap: the chance that a reader goes on to the next place."""
    min_segment_users: int = Field(default=50, ge=2)
    """Smaller segments are left out: their intervals would not hold."""
    num_examples: int = Field(default=5, ge=0)
    """Requests shown on which each bundle wins."""
    guardrails: dict[Guarded, float] = {"coverage": 0.1, "diversity": 0.1, "latency_ms": 0.5}
    """Metric -> how much worse the second bundle may be, as a share of the first's value."""
    bootstrap_rounds: int = Field(default=1000, ge=100)
    seed: int = 0

    @model_validator(mode="after")
    def _is_sensible(self) -> Self:
        if min(self.ks) < 1 or len(set(self.ks)) < len(self.ks):
            raise ValueError(f"expected ks of 1 or more, none twice, got {list(self.ks)}")
        if any(margin < 0 for margin in self.guardrails.values()):
            raise ValueError("expected margins of 0 or more: the share by which B may be worse")
        return self
