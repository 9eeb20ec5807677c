"""The effect of a treatment: difference and lift of a metric, with fixed-horizon intervals.

Of each arm, with the moments of `recsys.experiment.moments`, S their covariance and n its users:

    Y = mean above / mean below          X = the same before the test
    g = gradient of Y - theta X          delta method: (1 / below, -above / below^2) each
    Var = g^T S g / n
    D = (Y_t - theta X_t) - (Y_c - theta X_c)

theta = 0 gives the plain difference. CUPED takes the theta of least variance of D,
sum_arms Cov(Y, X) / n over sum_arms Var(X) / n: since both arms have the same expected X, D keeps
its mean, and its variance falls by the squared correlation of Y and X. The lift D / Y_c has the
gradient of a quotient, with Y_c's own error.

References:
    Deng, Xu, Kohavi, Walker, Improving the sensitivity of online controlled experiments by
        utilizing pre-experiment data, WSDM 2013 (CUPED).
    Deng, Knoblich, Lu, Applying the delta method in metric analytics, KDD 2018.
    Welch, The generalization of Student's problem, Biometrika 1947 (degrees of freedom).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import stats

from recsys.experiment.moments import (
    ABOVE,
    ABOVE_BEFORE,
    BELOW,
    BELOW_BEFORE,
    Moments,
)


@dataclass(frozen=True)
class Effect:
    """What a treatment changed; every array is float64 [...], one value an experiment.

    Args:
        control, treatment: The metric in each arm, unadjusted.
        difference: Treatment less control, adjusted where there is a value before the test.
        standard_error: Of the difference.
        low, high: Bounds of the difference.
        p_value: Of no difference, two-sided; NaN where nothing varies or differs.
        lift: Difference over control; not finite where control is 0.
        lift_error: Its standard error.
        lift_low, lift_high: Its bounds.
        variance_cut: 1 - variance of the difference over that without CUPED.
    """

    control: np.ndarray
    treatment: np.ndarray
    difference: np.ndarray
    standard_error: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p_value: np.ndarray
    lift: np.ndarray
    lift_error: np.ndarray
    lift_low: np.ndarray
    lift_high: np.ndarray
    variance_cut: np.ndarray


def compare(treatment: Moments, control: Moments, *, alpha: float = 0.05) -> Effect:
    """Compare two arms at a horizon that was fixed before the test.

    Looked at earlier or more than once, it finds effects that are none: see
    `recsys.experiment.sequential`.

    Args:
        treatment, control: Of the same metric, experiments [...].
        alpha: Share of tests without an effect that may find one; intervals hold 1 - alpha.
    """
    arms = (treatment, control)
    theta = _theta(arms)
    unadjusted = np.zeros_like(theta)
    (now_t, before_t), (now_c, before_c) = (_ratios(arm) for arm in arms)
    gradients = [_gradient(arm, theta) for arm in arms]
    difference = (now_t - now_c) - theta * (before_t - before_c)
    error, freedom = _error(arms, gradients)
    plain, _ = _error(arms, [_gradient(arm, unadjusted) for arm in arms])
    with np.errstate(divide="ignore", invalid="ignore"):
        lift = difference / now_c
        # d(D / Y_c): the treatment enters through D alone, control through Y_c as well.
        parts = [
            gradients[0] / now_c[..., None],
            -gradients[1] / now_c[..., None]
            - (lift / now_c)[..., None] * _gradient(control, unadjusted),
        ]
        lift_error, _ = _error(arms, parts)
        statistic = np.abs(difference) / error
        cut = 1 - np.square(error / plain)
    reach = stats.t.ppf(1 - alpha / 2, freedom)
    return Effect(
        control=now_c,
        treatment=now_t,
        difference=difference,
        standard_error=error,
        low=difference - reach * error,
        high=difference + reach * error,
        p_value=2 * stats.t.sf(statistic, freedom),
        lift=lift,
        lift_error=lift_error,
        lift_low=lift - reach * lift_error,
        lift_high=lift + reach * lift_error,
        variance_cut=cut,
    )


def user_deviation(moments: Moments) -> np.ndarray:
    """Return the standard deviation of a user's part in the metric, after CUPED: float64 [...].

    What `recsys.experiment.power` asks for; take it from users like those of the test to come.
    """
    gradient = _gradient(moments, _theta((moments,)))
    return np.sqrt(np.maximum(_quadratic(gradient, moments.covariance), 0))


def compare_segments(
    treatment: Mapping[str, Moments], control: Mapping[str, Moments], *, alpha: float = 0.05
) -> dict[str, tuple[Effect, float]]:
    """Compare the arms in every segment, or for every metric, and correct for their number.

    Args:
        treatment, control: Segment -> moments of one experiment, the same names in both.
        alpha: As in `compare`; the intervals are each for themselves.

    Returns:
        Segment -> its effect, and its p-value adjusted after Benjamini & Hochberg (1995): among
        the segments with an adjusted p-value below alpha, at most that share has no effect.
    """
    effects = {name: compare(treatment[name], control[name], alpha=alpha) for name in treatment}
    if not effects:
        return {}
    adjusted = stats.false_discovery_control([float(e.p_value) for e in effects.values()])
    return {name: (effects[name], float(p)) for name, p in zip(effects, adjusted, strict=True)}


def _ratios(arm: Moments) -> tuple[np.ndarray, np.ndarray]:
    """Return Y and X: float64 [...] each."""
    mean = arm.mean
    with np.errstate(divide="ignore", invalid="ignore"):
        return (
            mean[..., ABOVE] / mean[..., BELOW],
            mean[..., ABOVE_BEFORE] / mean[..., BELOW_BEFORE],
        )


def _gradient(arm: Moments, theta: np.ndarray) -> np.ndarray:
    """Return the gradient of Y - theta X with respect to the four means: float64 [..., 4]."""
    now, before = _ratios(arm)
    per, per_before = arm.mean[..., BELOW], arm.mean[..., BELOW_BEFORE]
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = (1 / per, -now / per, -theta / per_before, theta * before / per_before)
    return np.stack(parts, axis=-1)


def _theta(arms: tuple[Moments, ...]) -> np.ndarray:
    """Return the coefficient of least variance, 0 without a value before: float64 [...]."""
    covariance = variance = np.zeros(arms[0].mean.shape[:-1])
    for arm in arms:
        one = np.ones_like(covariance)
        both = _gradient(arm, one)
        now, before = both.copy(), -both
        now[..., ABOVE_BEFORE:] = 0
        before[..., :ABOVE_BEFORE] = 0
        shared = np.einsum("...i,...ij,...j->...", now, arm.covariance, before)
        covariance = covariance + shared / arm.num_users
        variance = variance + _quadratic(before, arm.covariance) / arm.num_users
    return np.divide(covariance, variance, out=np.zeros_like(covariance), where=variance > 0)


def _error(
    arms: tuple[Moments, Moments], gradients: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Return a standard error and its degrees of freedom after Welch: float64 [...] each."""
    variances = [
        _quadratic(gradient, arm.covariance) / arm.num_users
        for arm, gradient in zip(arms, gradients, strict=True)
    ]
    # Where nothing varies, or CUPED explains all of it, rounding may fall below 0.
    total = np.maximum(variances[0] + variances[1], 0)
    below = sum(v**2 / (arm.num_users - 1) for v, arm in zip(variances, arms, strict=True))
    freedom = np.divide(total**2, below, out=np.full_like(total, np.inf), where=below > 0)
    return np.sqrt(total), freedom


def _quadratic(gradient: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    return np.einsum("...i,...ij,...j->...", gradient, covariance, gradient)
