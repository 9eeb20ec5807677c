"""Novelty and primacy: whether the effect of a treatment fades or grows with days of use.

Rows are users' days; day 0 is a user's first in the test, so that late comers count alike. The
regression value = a + b treated + c day + d treated day, with errors that let the rows of a user
depend on each other, has the effect's change a day as d.

References:
    Kohavi, Tang, Xu, Trustworthy online controlled experiments, 2020, chapter 23.
    Liang, Zeger, Longitudinal data analysis using generalized linear models, Biometrika 1986
        (the clustered covariance).
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from recsys.errors import ComparisonError


@dataclass(frozen=True)
class Trend:
    """How an effect changes with the days since a user's first.

    Args:
        effect_by_day: float64 [D], treatment less control on each day; NaN where an arm is empty.
        slope: Change of the effect a day.
        standard_error: Of the slope, over users.
        p_value: Of no change, two-sided.
        reading: "novelty" where the effect shrinks towards 0, "primacy" where it grows away from
            0, "steady" where neither is shown (p of 0.05 and more).
    """

    effect_by_day: np.ndarray
    slope: float
    standard_error: float
    p_value: float
    reading: str


def effect_trend(
    values: np.ndarray, days: np.ndarray, is_treated: np.ndarray, users: np.ndarray
) -> Trend:
    """Fit the effect's change with the days of use.

    Args:
        values: float [B], a user's metric on a day.
        days: int [B], 0 and up, since the user's first day in the test.
        is_treated: bool [B], the same for all rows of a user.
        users: int [B].

    Raises:
        ComparisonError: There is only one day, or an arm has rows on no two days.
    """
    if any(len(np.unique(days[is_treated == arm])) < 2 for arm in (True, False)):
        raise ComparisonError(
            "a trend expects rows of both arms on two days or more; give days since each user's "
            "first day in the test, one row a user and day"
        )
    treated = is_treated.astype(np.float64)
    design = np.column_stack([np.ones(len(days)), treated, days, treated * days])
    coefficients, covariance = clustered_regression(design, values, users)
    slope, error = float(coefficients[3]), float(np.sqrt(covariance[3, 3]))
    p_value = float(2 * stats.norm.sf(abs(slope) / error)) if error else float("nan")
    by_day = _effects(values, days, is_treated)
    middle = coefficients[1] + slope * days.mean()
    grows = slope * middle > 0
    reading = "steady" if not p_value < 0.05 else "primacy" if grows else "novelty"
    return Trend(by_day, slope, error, p_value, reading)


def clustered_regression(
    design: np.ndarray, values: np.ndarray, users: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Fit least squares; rows of a user may depend on each other.

    With A = X^T X and s_u the sum over a user's rows of x e, the covariance is
    c A^-1 (sum_u s_u s_u^T) A^-1, c = U / (U - 1) (B - 1) / (B - P) for few users.

    Args:
        design: float64 [B, P], of full rank.
        values: float [B].
        users: int [B].

    Returns:
        float64 [P] coefficients and float64 [P, P], their covariance.
    """
    num_rows, width = design.shape
    _, user = np.unique(users, return_inverse=True)
    inverse = np.linalg.inv(design.T @ design)
    coefficients = inverse @ (design.T @ values)
    scores = design * (values - design @ coefficients)[:, None]
    sums = np.column_stack([np.bincount(user, column) for column in scores.T])
    num_users = len(sums)
    correction = num_users / (num_users - 1) * (num_rows - 1) / (num_rows - width)
    return coefficients, correction * inverse @ (sums.T @ sums) @ inverse


def _effects(values: np.ndarray, days: np.ndarray, is_treated: np.ndarray) -> np.ndarray:
    """Return the difference of the arms' means on each day: float64 [D]."""
    number = int(days.max()) + 1
    means = []
    for arm in (is_treated, ~is_treated):
        counts = np.bincount(days[arm], minlength=number)
        sums = np.bincount(days[arm], values[arm], minlength=number)
        means.append(np.divide(sums, counts, out=np.full(number, np.nan), where=counts > 0))
    return means[0] - means[1]
