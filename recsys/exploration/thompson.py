"""Thompson sampling over predicted watch times: an item is shown as often as it may be the best.

The watch time T of a candidate is taken as log-normal, log(1 + T) ~ N(mean, deviation^2), and
candidates are ordered by one draw N_i each. How probable an order is has no closed form, but is one
integral a place: with the order 1, 2, ..., G_0 = 1, and phi_i and Phi_i the density and the
distribution of N_i,

    P(1, ..., j are first, in this order) = integral G_{j-1}(t) phi_j(t) prod_{i > j} Phi_i(t) dt
    G_j(t) = P(N_1 > ... > N_j > t) = integral_t^inf G_{j-1}(s) phi_j(s) ds

The propensity of place j is this probability over that of place j - 1. NumPy only.

References:
    Thompson 1933, On the Likelihood that One Unknown Probability Exceeds Another.
    Chapelle & Li 2011, An Empirical Evaluation of Thompson Sampling.
    Thurstone 1927, A Law of Comparative Judgment (orders by independent Gaussian draws).
"""

import math
from functools import cache
from statistics import NormalDist

import numpy as np

NUM_CELLS = 1024
"""Of the integrals. Of 300 candidates, the propensities of the first 100 places are off by at most
two in a thousand."""
REACH = 8.0
"""Deviations from the mean beyond which no draw is looked for: one in 10^15."""
NUM_LEVELS = 32
"""Places on the axis that each candidate proposes for the cells."""
NUM_COARSE = 256
LOWEST, HIGHEST, STEP = -37.0, 9.0, 0.002
"""Of the table of log Phi. Below, Phi is no number any more, and no draw is so far off."""
SMALLEST = 1e-300


def thompson_scores(
    mean: np.ndarray, deviation: np.ndarray, *, rng: np.random.Generator
) -> np.ndarray:
    """Draw what to order candidates by, one value each: float [..., C] twice -> float64 [..., C].

    Args:
        mean, deviation: Of log(1 + seconds).
        rng: Of the draws.
    """
    return mean + deviation * rng.standard_normal(np.shape(mean))


def thompson_propensities(mean: np.ndarray, deviation: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Return how probable each place's candidate was, given those before it: float64 [K].

    Args:
        mean, deviation: float [C], of log(1 + seconds); deviations above 0.
        order: int [K], different candidates from the first place on, as drawn.
    """
    edges = _edges(mean, deviation, len(order))  # [M + 1]
    z = (edges - mean[:, None]) / deviation[:, None]
    log_cdf = _log_cdf(z)  # [C, M + 1]
    log_mass = np.log(np.maximum(np.diff(np.exp(log_cdf[order]), axis=1), SMALLEST))  # [K, M]
    log_above = _log_cdf(-z[order, -1])  # [K], what lies beyond the last edge
    log_before, log_behind = np.zeros(len(edges)), log_cdf.sum(axis=0)
    propensity, log_total = np.empty(len(order)), 0.0
    for place, candidate in enumerate(order):
        log_behind = log_behind - log_cdf[candidate]
        log_new = _log_sum(log_mass[place] + _log_means(log_before + log_behind))
        propensity[place] = np.exp(log_new - log_total)
        cells = log_mass[place] + _log_means(log_before)
        tail = log_above[place] + log_before[-1]
        log_before = np.logaddexp.accumulate(np.append(tail, cells[::-1]))[::-1]
        log_total = log_new
    return np.minimum(propensity, 1.0)


def _edges(mean: np.ndarray, deviation: np.ndarray, num_places: int) -> np.ndarray:
    """Lay cells where the first places are decided, narrow where many or sure candidates are.

    Each candidate proposes edges over its own reach, closer about its mean, a little beside those
    of the others. Far below, where many more candidates lie above than there are places, is nothing
    to be integrated.
    """
    num_candidates = len(mean)
    beside = (np.arange(num_candidates) + 0.5) / num_candidates
    level = 2 * (np.arange(NUM_LEVELS) + beside[:, None]) / NUM_LEVELS - 1  # [C, NUM_LEVELS]
    z = REACH * level * (0.3 + 0.7 * np.square(level))
    proposed = mean[:, None] + deviation[:, None] * z
    coarse = np.linspace(proposed.min(), proposed.max(), NUM_COARSE)
    above = num_candidates - np.exp(_log_cdf((coarse - mean[:, None]) / deviation[:, None])).sum(0)
    enough = num_places + 8 * math.sqrt(num_places) + 16
    lowest = coarse[max(int((above > enough).sum()) - 1, 0)]
    kept = np.append(proposed[proposed >= lowest], lowest)
    return np.quantile(kept, np.linspace(0, 1, NUM_CELLS + 1))


def _log_means(log_values: np.ndarray) -> np.ndarray:
    """Return logarithms of means over cells, of what is exponential in each: [M + 1] -> [M].

    With logarithms d apart at its ends, the mean over a cell is exp(middle) sinh(d / 2) / (d / 2).
    """
    half = np.maximum(np.abs(np.diff(log_values)) / 2, 1e-6)
    middle = (log_values[1:] + log_values[:-1]) / 2
    return middle + half + np.log(-np.expm1(-2 * half) / (2 * half))


def _log_sum(log_values: np.ndarray) -> float:
    largest = log_values.max()
    return float(largest + np.log(np.exp(log_values - largest).sum()))


@cache
def _log_cdf_table() -> tuple[np.ndarray, np.ndarray]:
    z = np.arange(LOWEST, HIGHEST + STEP, STEP)
    return z, np.log([0.5 * math.erfc(-each / math.sqrt(2)) for each in z.tolist()])


def _log_cdf(z: np.ndarray) -> np.ndarray:
    """Return log Phi: float [...] -> float64 [...], to a millionth."""
    return np.interp(z, *_log_cdf_table())


def expected_seconds(mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """Return E[T] = exp(mean + deviation^2 / 2) - 1: float [...] twice -> float64 [...].

    At least 0: a Gaussian has log(1 + T) below 0 too, which no watch has.
    """
    middle = np.asarray(mean, np.float64)
    return np.maximum(np.expm1(middle + np.square(deviation) / 2), 0.0)


def interval(
    mean: np.ndarray, deviation: np.ndarray, share: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the seconds between which a share of the watches lies: float64 [...] twice.

    Args:
        mean, deviation: float [...], of log(1 + seconds).
        share: 0 to 1, the same left out on both sides; 0.8 is from the 10 % to the 90 % quantile.

    Raises:
        ValueError: The share is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise ValueError(f"expected a share between 0 and 1, got {share}")
    reach = NormalDist().inv_cdf((1 + share) / 2) * np.asarray(deviation, np.float64)
    return np.maximum(np.expm1(mean - reach), 0.0), np.maximum(np.expm1(mean + reach), 0.0)
