"""Whether a test, and what analyses it, can be trusted at all.

References:
    Fabijan et al., Diagnosing sample ratio mismatch in online controlled experiments, KDD 2019.
    Kohavi, Tang, Xu, Trustworthy online controlled experiments, 2020, chapters 19 and 21.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy import stats

from recsys.errors import ComparisonError
from recsys.experiment.effect import Effect, compare
from recsys.experiment.moments import NUM_COLUMNS, Moments

MIN_P_VALUE = 0.001
"""Checks fail by chance once in a thousand sound tests."""
MAX_ASSIGNMENTS = 1 << 22
"""Users times experiments held at once: 32 MB."""


@dataclass(frozen=True)
class SelfTest:
    """What tests without an effect found.

    Args:
        rejected: Share of them that found one.
        low, high: 99.9 % interval of the share that such tests find in the long run.
        p_values: float64 [E].
        alpha: The share that should.
    """

    rejected: float
    low: float
    high: float
    p_values: np.ndarray
    alpha: float

    @property
    def is_sound(self) -> bool:
        """Whether the share found is alpha but for chance."""
        return self.low <= self.alpha <= self.high


def check_sample_ratio(counts: Mapping[str, int], shares: Mapping[str, float]) -> float:
    """Return the p-value of the numbers of users having been drawn with the planned shares.

    Args:
        counts: Arm -> users counted.
        shares: Arm -> planned share of the users in the test; they sum to 1, none is 0.

    Raises:
        ComparisonError: Sample ratio mismatch: p below 0.001. No result of the test holds.
        ValueError: The arms are not the same.
    """
    if set(counts) != set(shares):
        raise ValueError(f"expected users of the arms {sorted(shares)}, got {sorted(counts)}")
    seen = np.array([counts[arm] for arm in shares], np.float64)
    planned = np.array(list(shares.values())) * seen.sum()
    p_value = float(stats.chisquare(seen, planned).pvalue) if seen.sum() else 1.0
    if p_value < MIN_P_VALUE:
        wanted = {arm: round(float(n)) for arm, n in zip(shares, planned, strict=True)}
        raise ComparisonError(
            f"sample ratio mismatch: expected about {wanted} users, got {dict(counts)} "
            f"(p = {p_value:.1e}); users are lost from one arm or counted twice: look for "
            f"crashes, redirects, bots and filters that one arm has and the other has not"
        )
    return p_value


def self_test(
    columns: np.ndarray,
    *,
    num_experiments: int,
    seed: int,
    compare_arms: Callable[[Moments, Moments], Effect] = compare,
    alpha: float = 0.05,
) -> SelfTest:
    """Divide users at random where nothing was changed, again and again, and count the findings.

    A/A tests on your own users find what formulas cannot: rows that are not summed by user,
    users that stand for thousands, a metric too heavy-tailed for the number of users.

    Args:
        columns: float64 [U, 4], of `columns_of`, the users of a past period.
        num_experiments: E.
        seed: Of the divisions.
        compare_arms: The analysis to be tested.
        alpha: Its nominal share of false findings.
    """
    rng = np.random.default_rng(seed)
    chunk = max(1, MAX_ASSIGNMENTS // len(columns))
    p_values = []
    for start in range(0, num_experiments, chunk):
        size = (min(chunk, num_experiments - start), len(columns))
        treatment, control = divide(columns, rng.random(size) < 0.5)
        p_values.append(compare_arms(treatment, control).p_value)
    found = np.concatenate(p_values)
    test = stats.binomtest(int((found < alpha).sum()), num_experiments)
    interval = test.proportion_ci(confidence_level=0.999)
    return SelfTest(test.statistic, interval.low, interval.high, found, alpha)


def divide(columns: np.ndarray, is_treated: np.ndarray) -> tuple[Moments, Moments]:
    """Return the moments of both arms of many divisions of the same users.

    Args:
        columns: float64 [U, 4].
        is_treated: bool [E, U], at least two users in each arm of each division.

    Returns:
        Of treatment and of control, experiments [E].
    """
    # Sums of squares lose digits far from 0: centred first, the means added back.
    centre = columns.mean(axis=0)
    centred = columns - centre
    products = (centred[:, :, None] * centred[:, None, :]).reshape(len(columns), -1)
    sums = np.column_stack([np.ones(len(columns)), centred, products])
    treated = is_treated.astype(np.float64) @ sums
    arms = (treated, sums.sum(axis=0) - treated)
    return _moments(arms[0], centre), _moments(arms[1], centre)


def _moments(sums: np.ndarray, centre: np.ndarray) -> Moments:
    """Return moments from number, sums and sums of products: float64 [E, 1 + 4 + 16]."""
    number = sums[:, 0]
    mean = sums[:, 1 : 1 + NUM_COLUMNS] / number[:, None]
    products = sums[:, 1 + NUM_COLUMNS :].reshape(-1, NUM_COLUMNS, NUM_COLUMNS)
    scatter = products - number[:, None, None] * mean[:, :, None] * mean[:, None, :]
    return Moments(number, mean + centre, scatter / (number - 1)[:, None, None])
