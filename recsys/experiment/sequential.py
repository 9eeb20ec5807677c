"""Intervals that hold at every look at once: a test may be watched, and ended when it is clear.

After N users with standard error s_N, the normal mixture gives, over all N together,

    P(exists N: |D_N - D| > s_N m(N)) <= alpha,
    m(N)^2 = 2 (N rho^2 + 1) / (N rho^2) ln(sqrt(N rho^2 + 1) / alpha)
    rho^2  = (-2 ln alpha + ln(1 - 2 ln alpha)) / N*

asymptotically, for data of any distribution with a variance. The same boundary, read as a test, is
the mixture SPRT: p = sqrt(N rho^2 + 1) exp(-z^2 / 2 . N rho^2 / (N rho^2 + 1)), z = D_N / s_N. At
N = N* the interval is 1.55 times as wide as one of a fixed horizon, at N*/10 twice.

The looks must add users, each with the whole of their value: days of the same users are no new
users, so look at those whose days in the test are all over.

References:
    Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas, Time-uniform central limit theory and asymptotic
        confidence sequences, Annals of Statistics 2024, eq. 9 and appendix B.2 (rho).
    Johari, Koomen, Pekelis, Walsh, Peeking at A/B tests, KDD 2017 (mixture SPRT).
"""

from dataclasses import replace

import numpy as np
from scipy import stats

from recsys.experiment.effect import Effect


def always_valid(
    effect: Effect, num_users: np.ndarray | float, *, tuned_for: float, alpha: float = 0.05
) -> Effect:
    """Widen a fixed-horizon effect so that it may be looked at after any user.

    Args:
        effect: From `compare`, at the same alpha.
        num_users: float [...], N of both arms together.
        tuned_for: N*, users of both arms at which the interval is to be tightest; set before the
            test, and the same at every look.
        alpha: Chance that any look at all finds an effect where there is none.

    Returns:
        The effect with other bounds and p-value. Of several looks the smallest p-value counts
        (`np.minimum.accumulate`); as of any look, bounds may be intersected with earlier ones.
    """
    precision = np.asarray(num_users) * mixture_variance(tuned_for, alpha)
    reach = multiplier(num_users, tuned_for=tuned_for, alpha=alpha)
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = effect.difference / effect.standard_error
    log_p = np.log(precision + 1) / 2 - np.square(statistic) / 2 * precision / (precision + 1)
    return replace(
        effect,
        low=effect.difference - reach * effect.standard_error,
        high=effect.difference + reach * effect.standard_error,
        p_value=np.exp(np.minimum(log_p, 0)),
        lift_low=effect.lift - reach * effect.lift_error,
        lift_high=effect.lift + reach * effect.lift_error,
    )


def multiplier(
    num_users: np.ndarray | float, *, tuned_for: float, alpha: float = 0.05
) -> np.ndarray:
    """Return m(N), standard errors on each side of the estimate: float64 [...]."""
    precision = np.asarray(num_users) * mixture_variance(tuned_for, alpha)
    return np.sqrt(2 * (precision + 1) / precision * np.log(np.sqrt(precision + 1) / alpha))


def mixture_variance(tuned_for: float, alpha: float) -> float:
    """Return rho^2, which makes the interval about as tight as can be at N*."""
    return float((-2 * np.log(alpha) + np.log(1 - 2 * np.log(alpha))) / tuned_for)


def width_ratio(num_users: float, *, tuned_for: float, alpha: float = 0.05) -> float:
    """Return how many times as wide as a fixed-horizon interval this one is."""
    reach = multiplier(num_users, tuned_for=tuned_for, alpha=alpha)
    return float(reach / stats.norm.ppf(1 - alpha / 2))
