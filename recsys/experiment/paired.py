"""Two systems on the same queries: what changes from the first to the second, by user and segment.

Both answer every query, so the difference of a query is taken before anything is averaged: what
makes a user easy or hard for both cancels. Users are the unit, as everywhere in this package.

Letters: Q queries.

References:
    Sakai, Statistical reform in information retrieval?, SIGIR Forum 2014 (paired differences).
    Benjamini, Hochberg, Controlling the false discovery rate, JRSS B 1995.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import stats

from recsys.evaluation.intervals import Interval, ratio_intervals, ratio_standard_error


@dataclass(frozen=True)
class Change:
    """A metric of two systems.

    Args:
        first, second: The metric of each.
        difference: The second's less the first's.
        lift: Difference over the first's; not finite where that is 0.
    """

    first: float
    second: float
    difference: Interval
    lift: Interval


@dataclass(frozen=True)
class SegmentChange:
    """A metric of two systems on some of the queries.

    Args:
        num_queries, num_users: How many there are.
        first, second: The metric of each.
        difference: The second's less the first's; its bounds are for this segment alone.
        p_value: Of no difference, two-sided; 1 where nothing differs.
        adjusted_p_value: Among all segments, after Benjamini and Hochberg.
    """

    num_queries: int
    num_users: int
    first: float
    second: float
    difference: Interval
    p_value: float
    adjusted_p_value: float


def compare_pairs(
    first: Mapping[str, np.ndarray],
    second: Mapping[str, np.ndarray],
    users: np.ndarray,
    *,
    weights: np.ndarray | None = None,
    rounds: int,
    seed: int,
) -> dict[str, Change]:
    """Compare the mean of every metric of two systems, users drawn for both at once.

    Args:
        first, second: Metric -> float [Q] of each system; a query of NaN in either counts in
            neither.
        users: int [Q], the user of each query.
        weights: float [Q], of the queries in the mean; None: all alike.
        rounds: Of the bootstrap.
        seed: Of its draws.
    """
    weight = np.ones(len(users)) if weights is None else weights
    known = {name: ~np.isnan(first[name] + second[name]) for name in first}
    below = {name: weight * known[name] for name in first}
    above, above_new = (
        {name: np.where(known[name], side[name], 0.0) * weight for name in first}
        for side in (first, second)
    )
    change = {name: above_new[name] - above[name] for name in first}
    differences = ratio_intervals(change, below, users, rounds=rounds, seed=seed)
    lifts = ratio_intervals(change, above, users, rounds=rounds, seed=seed)
    return {
        name: Change(
            first=_ratio(above[name], below[name]),
            second=_ratio(above_new[name], below[name]),
            difference=differences[name],
            lift=lifts[name],
        )
        for name in first
    }


def compare_paired_segments(
    first: np.ndarray,
    second: np.ndarray,
    users: np.ndarray,
    segments: Mapping[str, np.ndarray],
    *,
    alpha: float = 0.05,
) -> dict[str, SegmentChange]:
    """Compare the mean of a metric in every segment, and correct for their number.

    Args:
        first, second: float [Q], the metric of each system.
        users: int [Q].
        segments: Name -> bool [Q]; they may overlap, none is empty.
        alpha: Intervals hold 1 - alpha.
    """
    found = {
        name: _compare_segment(first[own], second[own], users[own], alpha)
        for name, own in segments.items()
    }
    if not found:
        return {}
    adjusted = stats.false_discovery_control([each.p_value for each in found.values()])
    return {
        name: SegmentChange(**{**vars(each), "adjusted_p_value": float(p_value)})
        for (name, each), p_value in zip(found.items(), adjusted, strict=True)
    }


def _compare_segment(
    first: np.ndarray, second: np.ndarray, users: np.ndarray, alpha: float
) -> SegmentChange:
    change = second - first
    num_users = len(np.unique(users))
    value = float(change.mean())
    error = ratio_standard_error(change, np.ones(len(change)), users)
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = np.abs(np.float64(value)) / error
    p_value = float(2 * stats.t.sf(statistic, max(num_users - 1, 1)))
    reach = float(stats.t.ppf(1 - alpha / 2, max(num_users - 1, 1))) * error
    return SegmentChange(
        num_queries=len(change),
        num_users=num_users,
        first=float(first.mean()),
        second=float(second.mean()),
        difference=Interval(value, value - reach, value + reach),
        # Nothing differs, or one user: nothing can be told.
        p_value=1.0 if np.isnan(p_value) else p_value,
        adjusted_p_value=1.0,
    )


def _ratio(above: np.ndarray, below: np.ndarray) -> float:
    total = float(below.sum())
    return float(above.sum()) / total if total else float("nan")
