"""What a test can find, to be asked before it begins.

With z_p the normal quantile, sigma the deviation of one user's part in the metric
(`recsys.experiment.effect.user_deviation`), N users of both arms and s the treatment's share:

    error = sigma sqrt((1/s + 1/(1-s)) / N)
    power = P(|Z + difference / error| > reach)
    minimum detectable effect = (reach + z_power) error

reach is z_(1 - alpha/2) at a fixed horizon; for a test that will be watched give
`recsys.experiment.sequential.multiplier`, which is what the last look will be judged by.

References:
    Kohavi, Tang, Xu, Trustworthy online controlled experiments, 2020, chapter 17.
"""

import math

from scipy import stats

ALPHA, POWER = 0.05, 0.8
FIXED_REACH = float(stats.norm.ppf(1 - ALPHA / 2))


def difference_error(deviation: float, num_users: float, *, treatment_share: float = 0.5) -> float:
    """Return the standard error of the difference of two arms, in the metric's unit.

    Args:
        deviation: sigma, above 0.
        num_users: N.
        treatment_share: s, between 0 and 1.

    Raises:
        ValueError: The share is not between 0 and 1.
    """
    if not 0 < treatment_share < 1:
        raise ValueError(f"expected a treatment share between 0 and 1, got {treatment_share}")
    return deviation * math.sqrt((1 / treatment_share + 1 / (1 - treatment_share)) / num_users)


def minimum_detectable_effect(
    deviation: float,
    num_users: float,
    *,
    treatment_share: float = 0.5,
    power: float = POWER,
    reach: float = FIXED_REACH,
) -> float:
    """Return the difference that a test finds with the given power, in the metric's unit.

    Args:
        deviation: sigma.
        num_users: N.
        treatment_share: s.
        power: Share of tests with this effect that find it.
        reach: Standard errors from 0 at which an effect counts as found.
    """
    error = difference_error(deviation, num_users, treatment_share=treatment_share)
    return float((reach + stats.norm.ppf(power)) * error)


def users_needed(
    deviation: float,
    difference: float,
    *,
    treatment_share: float = 0.5,
    power: float = POWER,
    reach: float = FIXED_REACH,
) -> int:
    """Return the N of both arms that finds a difference with the given power.

    Args:
        deviation: sigma.
        difference: In the metric's unit, not 0.
        treatment_share: s.
        power: Share of tests with this effect that find it.
        reach: Standard errors from 0 at which an effect counts as found.
    """
    one_user = difference_error(deviation, 1, treatment_share=treatment_share)
    return math.ceil(float(((reach + stats.norm.ppf(power)) * one_user / difference) ** 2))


def power_of(
    deviation: float,
    difference: float,
    num_users: float,
    *,
    treatment_share: float = 0.5,
    reach: float = FIXED_REACH,
) -> float:
    """Return the chance to find a difference, on whichever side.

    Args:
        deviation: sigma.
        difference: In the metric's unit.
        num_users: N.
        treatment_share: s.
        reach: Standard errors from 0 at which an effect counts as found.
    """
    shift = difference / difference_error(deviation, num_users, treatment_share=treatment_share)
    return float(stats.norm.sf(reach - shift) + stats.norm.cdf(-reach - shift))
