"""What one arm's simulated log says of the other arm's policy, beside what is true of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recsys.errors import ComparisonError
from recsys.evaluation.intervals import Interval, ratio_intervals
from recsys.off_policy.policies import LoggedRows, Target, estimate_value
from recsys.off_policy.slates import reward_interaction_ips
from recsys.off_policy.weights import check_overlap, importance_weights
from recsys.recommender import Recommender
from recsys.simulation.arrivals import Arrivals
from recsys.simulation.site import BATCH, Day, Site


@dataclass(frozen=True)
class Judged:
    """R logged pages with what another policy thinks of them.

    Args:
        users: int64 [R].
        seconds: float64 [R, P], watched.
        logging, target: float64 [R, P], probability of each item given those above it, of the
            policy that was logged and of the other; 1 for empty places.
        true_seconds: float64 [R, P], what the truth expects of the other's own page.
    """

    users: np.ndarray
    seconds: np.ndarray
    logging: np.ndarray
    target: np.ndarray
    true_seconds: np.ndarray


def judge(site: Site, arrivals: Arrivals, day: Day, other: Recommender) -> Judged:
    """Ask another policy about the pages of a day whose order was drawn.

    Args:
        site: Where the pages were shown.
        arrivals: Of the simulation.
        day: Its pages.
        other: The policy that was not shown.
    """
    chosen = np.flatnonzero(np.isfinite(day.pages.propensity[:, 0]))
    items = day.pages.items[chosen]
    target, true_ms = np.ones(items.shape), np.zeros(items.shape)
    for start in range(0, len(chosen), BATCH):
        part = slice(start, start + BATCH)
        requests = [day.requests[row] for row in chosen[part].tolist()]
        pages = [[f"i{item}" for item in page if item >= 0] for page in items[part].tolist()]
        for row, found in enumerate(other.propensities(requests, pages), start):
            target[row, items[row] >= 0] = found
        true_ms[part] = site.expected_ms(day.rows[chosen[part]], other.recommend(requests))
    return Judged(
        users=arrivals.user[day.rows[chosen]],
        seconds=day.pages.watch_ms[chosen] / 1000,
        logging=np.where(items >= 0, day.pages.propensity[chosen], 1.0),
        target=target,
        true_seconds=true_ms / 1000,
    )


def estimates(parts: Sequence[Judged], *, rounds: int, seed: int) -> dict[str, Any]:
    """Return estimates of the first place and of whole pages, each beside the true value.

    Args:
        parts: Of all days.
        rounds: Of the bootstrap over users.
        seed: Of its draws.

    Returns:
        "first_place" and "page" -> true, rows, estimates (name -> [value, low, high]),
        effective_rows, refused (why there are no estimates, or "").
    """
    judged = Judged(
        **{name: np.concatenate([getattr(part, name) for part in parts]) for name in vars(parts[0])}
    )
    found = {
        "first_place": _estimate(judged, _first_place, rounds, seed),
        "page": _estimate(judged, _page, rounds, seed),
    }
    found["first_place"]["true"] = _mean(judged.true_seconds[:, 0])
    found["page"]["true"] = _mean(judged.true_seconds.sum(axis=1))
    return found


def _estimate(judged: Judged, estimate: Any, rounds: int, seed: int) -> dict[str, Any]:
    rows = len(judged.users)
    try:
        intervals, effective_rows = estimate(judged, rounds, seed)
    except ComparisonError as error:
        return {"rows": rows, "estimates": {}, "effective_rows": None, "refused": str(error)}
    spelled = {name: [each.value, each.low, each.high] for name, each in intervals.items()}
    return {"rows": rows, "estimates": spelled, "effective_rows": effective_rows, "refused": ""}


def _first_place(judged: Judged, rounds: int, seed: int) -> tuple[dict[str, Interval], float]:
    log = LoggedRows(judged.seconds[:, 0], judged.logging[:, 0], judged.users)
    value = estimate_value(log, Target(judged.target[:, 0]), rounds=rounds, seed=seed)
    return value.estimates, value.overlap.effective_rows


def _page(judged: Judged, rounds: int, seed: int) -> tuple[dict[str, Interval], float]:
    weights = importance_weights(judged.target, judged.logging)
    overlap = check_overlap(weights.prod(axis=1), judged.users)
    terms = reward_interaction_ips(weights, judged.seconds)
    above, below = {"reward_interaction": terms.above}, {"reward_interaction": terms.below}
    found = ratio_intervals(above, below, judged.users, rounds=rounds, seed=seed)
    return found, overlap.effective_rows


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
