"""Confidence intervals by resampling users: the rows of one user are not independent.

Every metric here is a ratio of two sums over rows (a mean has ones below the line), so a round
of the bootstrap needs no more than how often each user was drawn. Other statistics are
computed anew on the drawn rows, which is slower. Where there are too many users to draw, the
linearised ratio has a standard error in closed form.

References:
    Efron, Tibshirani, An introduction to the bootstrap, 1993, chapter 13 (percentile intervals).
    Deng, Knoblich, Lu, Applying the delta method in metric analytics, KDD 2018, section 3.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

MAX_DRAWS = 1 << 22
"""User draws held at once: 32 MB."""


@dataclass(frozen=True)
class Interval:
    """An estimate and the bounds between which 95 % of the resampled ones lie."""

    value: float
    low: float
    high: float


NOTHING = Interval(float("nan"), float("nan"), float("nan"))
"""Of no rows."""


def mean_intervals(
    values: Mapping[str, np.ndarray], users: np.ndarray, *, rounds: int, seed: int
) -> dict[str, Interval]:
    """Return the mean of each metric with its interval, all from the same draws.

    Args:
        values: Name -> float [Q]; queries of NaN do not count.
        users: int [Q], the user of each query.
        rounds: Resamples.
        seed: Of the draws.
    """
    weights = {name: (~np.isnan(array)).astype(np.float64) for name, array in values.items()}
    filled = {name: np.nan_to_num(array) for name, array in values.items()}
    return ratio_intervals(filled, weights, users, rounds=rounds, seed=seed)


def ratio_intervals(
    numerators: Mapping[str, np.ndarray],
    denominators: Mapping[str, np.ndarray],
    users: np.ndarray,
    *,
    rounds: int,
    seed: int,
) -> dict[str, Interval]:
    """Return sum(numerator) / sum(denominator) of each metric with its interval.

    Args:
        numerators: Name -> float [Q].
        denominators: The same names -> float [Q].
        users: int [Q].
        rounds: Resamples.
        seed: Of the draws.
    """
    above = np.column_stack([numerators[name] for name in numerators])
    below = np.column_stack([denominators[name] for name in numerators])
    if len(users) == 0:
        return dict.fromkeys(numerators, NOTHING)
    estimates = _divide(above.sum(axis=0), below.sum(axis=0))
    drawn = _resampled_ratios(above, below, users, rounds, seed)
    return {name: _interval(float(estimates[m]), drawn[:, m]) for m, name in enumerate(numerators)}


def ratio_difference_intervals(
    first: tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]],
    second: tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]],
    users: np.ndarray,
    *,
    rounds: int,
    seed: int,
) -> dict[str, Interval]:
    """Return the difference of two ratios over the same rows, users drawn for both at once.

    Args:
        first, second: Numerators and denominators by name, float [Q] each, the same names in both.
        users: int [Q].
        rounds: Resamples.
        seed: Of the draws.

    Returns:
        The first's ratio less the second's, by name.
    """
    names = list(first[0])
    if len(users) == 0:
        return dict.fromkeys(names, NOTHING)
    above = np.column_stack([side[0][name] for side in (first, second) for name in names])
    below = np.column_stack([side[1][name] for side in (first, second) for name in names])
    estimates = _divide(above.sum(axis=0), below.sum(axis=0))
    drawn = _resampled_ratios(above, below, users, rounds, seed)
    number = len(names)
    estimate, differences = (
        ratios[..., :number] - ratios[..., number:] for ratios in (estimates, drawn)
    )
    return {name: _interval(float(estimate[m]), differences[:, m]) for m, name in enumerate(names)}


def ratio_standard_error(above: np.ndarray, below: np.ndarray, users: np.ndarray) -> float:
    """Return the standard error of sum(above) / sum(below), linearised, users independent.

    With R the ratio, a user's part in it is the sum of their a - R b (the delta method).

    Args:
        above, below: float [Q].
        users: int [Q].

    Returns:
        NaN with fewer than two users, or where the rows below sum to 0.
    """
    _, user = np.unique(users, return_inverse=True)
    total = below.sum(dtype=np.float64)
    num_users = int(user.max(initial=-1)) + 1
    if num_users < 2 or total == 0:
        return float("nan")
    parts = np.bincount(user, above - above.sum() / total * below)
    # The parts sum to 0: their mean square is their variance.
    return float(np.sqrt(num_users / (num_users - 1) * (parts @ parts)) / abs(total))


def paired_difference(
    first: np.ndarray, second: np.ndarray, users: np.ndarray, *, rounds: int, seed: int
) -> Interval:
    """Return mean(first) - mean(second) over the same queries, users drawn for both at once.

    Args:
        first, second: float [Q], a metric of two systems; a query of NaN in either counts not.
        users: int [Q].
        rounds: Resamples.
        seed: Of the draws.
    """
    difference = {"difference": first - second}
    return mean_intervals(difference, users, rounds=rounds, seed=seed)["difference"]


def statistic_interval(
    statistic: Callable[[np.ndarray], float], users: np.ndarray, *, rounds: int, seed: int
) -> Interval:
    """Return any statistic with its interval, by computing it on each resample.

    Args:
        statistic: Takes the numbers of the drawn rows, int64 [M], a row as often as drawn.
        users: int [Q].
        rounds: Resamples.
        seed: Of the draws.
    """
    if len(users) == 0:
        return NOTHING
    _, user = np.unique(users, return_inverse=True)
    rows_by_user = np.argsort(user, kind="stable")
    counts = np.bincount(user)
    offsets = np.cumsum(counts) - counts
    drawn = np.empty(rounds)
    for r, times in enumerate(_draws(len(counts), rounds, np.random.default_rng(seed))):
        chosen = np.repeat(np.arange(len(counts)), times)
        lengths = counts[chosen]
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        drawn[r] = statistic(rows_by_user[np.repeat(offsets[chosen], lengths) + within])
    return _interval(float(statistic(np.arange(len(users)))), drawn)


def _resampled_ratios(
    above: np.ndarray, below: np.ndarray, users: np.ndarray, rounds: int, seed: int
) -> np.ndarray:
    """Return the ratio of each metric in each round: [Q, M] -> float64 [rounds, M]."""
    _, user = np.unique(users, return_inverse=True)
    num_users, num_metrics = int(user.max()) + 1, above.shape[1]
    sums = np.column_stack(
        [np.bincount(user, column, minlength=num_users) for column in (*above.T, *below.T)]
    )
    rng = np.random.default_rng(seed)
    chunk = max(1, MAX_DRAWS // num_users)
    totals = [
        _draws(num_users, min(chunk, rounds - start), rng) @ sums
        for start in range(0, rounds, chunk)
    ]
    drawn = np.concatenate(totals)
    return _divide(drawn[:, :num_metrics], drawn[:, num_metrics:])


def _draws(num_users: int, rounds: int, rng: np.random.Generator) -> np.ndarray:
    """Return how often each user is drawn in each round: int64 [rounds, U], rows sum to U."""
    drawn = rng.integers(num_users, size=(rounds, num_users))
    slots = drawn + num_users * np.arange(rounds)[:, None]
    return np.bincount(slots.ravel(), minlength=rounds * num_users).reshape(rounds, num_users)


def _interval(estimate: float, drawn: np.ndarray) -> Interval:
    drawn = drawn[~np.isnan(drawn)]
    if len(drawn) == 0:
        return Interval(estimate, float("nan"), float("nan"))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(estimate, float(low), float(high))


def _divide(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.full(above.shape, np.nan), where=below != 0)
