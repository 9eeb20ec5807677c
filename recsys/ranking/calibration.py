"""Multiplicative calibration of expected seconds, fitted on validation rows only.

One factor makes predicted and true seconds equal in sum; where the log tells surfaces apart, each
has its own, shrunk towards the common one. Factors are constant within a request, so they
never change its order.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from recsys.errors import ArtefactError

SURFACE = "surface"
PRIOR_IMPRESSIONS = 500.0
"""A surface's factor counts the common one as so many impressions more: the sum of 500 watch
times, whose deviation is about twice their mean, is known to about 9 %."""


@dataclass(frozen=True)
class Calibration:
    """Factors on predicted seconds.

    Args:
        mean_watch_seconds: Unit of the net's watch times.
        factors: By code of the surface; one factor if the log does not tell surfaces apart.
        surface_column: Which column of `user_categorical` holds the surface, None if none.
    """

    mean_watch_seconds: float
    factors: tuple[float, ...]
    surface_column: int | None

    def factors_of(self, user_categorical: np.ndarray) -> np.ndarray:
        """Return the factor of each request: int32 [Q, A] -> float32 [Q]."""
        if self.surface_column is None:
            return np.full(len(user_categorical), self.factors[0], np.float32)
        return np.array(self.factors, np.float32)[user_categorical[:, self.surface_column]]

    def save(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "Calibration":
        """Read what `save` wrote.

        Raises:
            ArtefactError: The file is no calibration.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return cls(**{**content, "factors": tuple(content["factors"])})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArtefactError(
                f"{path}: not a calibration ({error!r}); train the ranking net anew"
            ) from None


def fit_factors(
    predicted: np.ndarray, true: np.ndarray, codes: np.ndarray, num_codes: int
) -> tuple[float, ...]:
    """Fit a factor for each code.

    With f the common factor sum(true) / sum(predicted), m the prior impressions and p the mean
    prediction, code s gets (sum_s true + m f p) / (sum_s predicted + m p); then all are scaled
    so that the calibrated sum is the true one.

    Args:
        predicted, true: float [R], seconds.
        codes: int [R], below `num_codes`.
        num_codes: How many factors.
    """
    predicted, true = predicted.astype(np.float64), true.astype(np.float64)
    if predicted.sum() <= 0 or true.sum() <= 0:
        return (1.0,) * num_codes
    common = true.sum() / predicted.sum()
    prior = PRIOR_IMPRESSIONS * predicted.mean()
    true_sum = np.bincount(codes, true, num_codes)
    predicted_sum = np.bincount(codes, predicted, num_codes)
    factors = (true_sum + prior * common) / (predicted_sum + prior)
    factors *= true.sum() / (predicted_sum @ factors)
    return tuple(factors.tolist())
