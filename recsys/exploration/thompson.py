"""Thompson sampling over predicted watch times: an item is shown as often as it may be the best.

The watch time T of a candidate is taken as log-normal, log(1 + T) ~ N(mean, deviation^2). NumPy
only.

References:
    Thompson 1933, On the Likelihood that One Unknown Probability Exceeds Another.
    Chapelle & Li 2011, An Empirical Evaluation of Thompson Sampling.
"""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

MAX_VALUES = 1 << 22
"""Draws held at once: 32 MB."""


@dataclass(frozen=True)
class Placement:
    """How often candidates are placed.

    Args:
        probability: float64 [C], sums to the number of places.
        standard_error: float64 [C], of the estimate; that of (count + 1) of (draws + 2), since
            never drawn is not impossible.
    """

    probability: np.ndarray
    standard_error: np.ndarray


def thompson_scores(
    mean: np.ndarray, deviation: np.ndarray, *, rng: np.random.Generator
) -> np.ndarray:
    """Draw what to order candidates by, one value each: float [..., C] twice -> float64 [..., C].

    Args:
        mean, deviation: Of log(1 + seconds).
        rng: Of the draws.
    """
    return mean + deviation * rng.standard_normal(np.shape(mean))


def placement_propensities(
    mean: np.ndarray,
    deviation: np.ndarray,
    num_places: int,
    *,
    num_draws: int,
    rng: np.random.Generator,
) -> Placement:
    """Estimate how probably `thompson_scores` puts each candidate into the first places.

    Args:
        mean, deviation: float [C], of log(1 + seconds).
        num_places: K, 1 for the probability of coming first; with C and more, all are certain.
        num_draws: Monte Carlo draws; the standard error is at most 0.5 / sqrt(num_draws).
        rng: Of the draws.

    Raises:
        ValueError: There are no places, or no draws.
    """
    if num_places < 1 or num_draws < 1:
        raise ValueError(
            f"expected at least one place and one draw, got num_places = {num_places} and "
            f"num_draws = {num_draws}"
        )
    num_candidates = len(mean)
    places = min(num_places, num_candidates)
    counts = np.zeros(num_candidates, np.int64)
    chunk = max(1, MAX_VALUES // max(1, num_candidates))
    for start in range(0, num_draws, chunk):
        shape = (min(chunk, num_draws - start), num_candidates)
        scores = thompson_scores(
            np.broadcast_to(mean, shape), np.broadcast_to(deviation, shape), rng=rng
        )
        first = np.argpartition(-scores, places - 1, axis=1)[:, :places] if places else np.empty(0)
        counts += np.bincount(first.ravel().astype(np.int64), minlength=num_candidates)
    likely = (counts + 1) / (num_draws + 2)
    return Placement(counts / num_draws, np.sqrt(likely * (1 - likely) / num_draws))


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
