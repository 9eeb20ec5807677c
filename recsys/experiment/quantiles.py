"""The effect on a quantile of rows (p95 of latency, median watch) where users are what is divided.

Rows of one user depend on each other, so the binomial error of a quantile is too small. With F
the share of rows at or below the quantile, a ratio of sums over users with a delta-method error:

    bounds of the quantile = the quantiles at share +- z s_F,   s = (high - low) / 2z

References:
    Deng, Knoblich, Lu, Applying the delta method in metric analytics, KDD 2018, section 4.2.
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from recsys.evaluation.intervals import ratio_standard_error


@dataclass(frozen=True)
class QuantileEffect:
    """What a treatment changed in a quantile.

    Args:
        control, treatment: The quantile in each arm.
        difference: Treatment less control.
        standard_error: Of the difference.
        low, high: Its bounds.
        p_value: Of no difference, two-sided.
    """

    control: float
    treatment: float
    difference: float
    standard_error: float
    low: float
    high: float
    p_value: float


def compare_quantiles(
    treatment: tuple[np.ndarray, np.ndarray],
    control: tuple[np.ndarray, np.ndarray],
    share: float,
    *,
    alpha: float = 0.05,
) -> QuantileEffect:
    """Compare one quantile of the rows of two arms at a fixed horizon.

    Args:
        treatment, control: float [B] values and int [B] users of the rows of an arm.
        share: Of the rows that lie below, 0.95 for p95.
        alpha: Share of tests without an effect that may find one.
    """
    (high, high_error), (base, base_error) = (
        quantile_and_error(values, users, share) for values, users in (treatment, control)
    )
    difference, error = high - base, float(np.hypot(high_error, base_error))
    reach = float(stats.norm.ppf(1 - alpha / 2)) * error
    p_value = float(2 * stats.norm.sf(abs(difference) / error)) if error else float("nan")
    return QuantileEffect(
        base, high, difference, error, difference - reach, difference + reach, p_value
    )


def quantile_and_error(values: np.ndarray, users: np.ndarray, share: float) -> tuple[float, float]:
    """Return a quantile of the rows and its standard error over users.

    Args:
        values: float [B].
        users: int [B].
        share: Between 0 and 1.

    Raises:
        ValueError: The share is not between 0 and 1, or there are no rows.
    """
    if not 0 < share < 1 or len(values) == 0:
        raise ValueError(f"expected rows and a share between 0 and 1, got {share}")
    quantile = float(np.quantile(values, share))
    is_below = np.asarray(values <= quantile, np.float64)
    error = ratio_standard_error(is_below, np.ones(len(values)), users)
    # Where the bounds lie 1.96 errors apart they straddle the density that matters.
    reach = float(stats.norm.ppf(0.975))
    edges = np.clip([share - reach * error, share + reach * error], 0, 1)
    low, high = np.quantile(values, edges)
    return quantile, float(high - low) / (2 * reach)
