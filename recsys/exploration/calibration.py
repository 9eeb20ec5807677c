"""Factors on the predicted spread by the size of the context, fitted on validation rows only.

Watch times of 0 are a mass that no Gaussian has: with one factor, 80 % intervals cover 80 %, but
leave out fewer watches below than above. Hence one factor for each side (split conformal
prediction with quantiles of the standardised residual, of each side and each band of sizes).

References:
    Vovk, Gammerman & Shafer 2005, Algorithmic Learning in a Random World (Mondrian taxonomies).
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

from recsys.errors import ArtefactError
from recsys.exploration.thompson import interval

SHARE = 0.8
"""Of the watches, which lie in an interval."""
FIRST_SIZES = (0, 1, 5, 10, 20)
"""Of the bands of context sizes; a band ends where the next begins."""
MIN_ROWS = 100
"""Rows that a band needs for factors of its own; with fewer it has those of the band before."""


@dataclass(frozen=True)
class Spread:
    """Factors on the deviation of log(1 + seconds), [S] each.

    Args:
        first_sizes: Smallest context of each band, ascending from 0.
        below, above: Of the two sides of an interval of 80 %.
    """

    first_sizes: tuple[int, ...]
    below: tuple[float, ...]
    above: tuple[float, ...]

    def deviations(self, deviation: np.ndarray, context_size: np.ndarray) -> np.ndarray:
        """Return deviations of a Gaussian whose 80 % are as wide: float [...], int [...]."""
        band = self._bands(context_size)
        return deviation * (np.array(self.below)[band] + np.array(self.above)[band]) / 2

    def interval(
        self, mean: np.ndarray, deviation: np.ndarray, context_size: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the seconds between which 80 % of the watches lie: float64 [...] twice.

        Args:
            mean, deviation: float [...], of log(1 + seconds), as the net gives them.
            context_size: int [...].
        """
        band = self._bands(context_size)
        low, _ = interval(mean, deviation * np.array(self.below)[band], SHARE)
        _, high = interval(mean, deviation * np.array(self.above)[band], SHARE)
        return low, high

    def save(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "Spread":
        """Read what `save` wrote.

        Raises:
            ArtefactError: The file is no such calibration.
        """
        try:
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            spread = cls(**{name: tuple(values) for name, values in content.items()})
            lengths = {len(values) for values in vars(spread).values()}
            if lengths != {len(spread.first_sizes)} or spread.first_sizes[:1] != (0,):
                raise ValueError(f"columns of {sorted(lengths)} bands, expected one length, from 0")
        except (OSError, ValueError, TypeError) as error:
            raise ArtefactError(
                f"{path}: not a calibration of spreads ({error!r}); train the neural process anew"
            ) from None
        return spread

    def _bands(self, context_size: np.ndarray) -> np.ndarray:
        return np.searchsorted(self.first_sizes, context_size, side="right") - 1


def fit_spread(residuals: Sequence[np.ndarray], first_sizes: tuple[int, ...]) -> Spread:
    """Fit the factors of all bands.

    Args:
        residuals: (y - mean) / deviation of each band's rows: float [n_s].
        first_sizes: Smallest context of each band.
    """
    below, above = [1.0], [1.0]
    reach = NormalDist().inv_cdf((1 + SHARE) / 2)
    for residual in residuals:
        factors = below[-1], above[-1]
        if len(residual) >= MIN_ROWS:
            tail = (1 - SHARE) / 2
            low, high = np.quantile(residual, [tail, 1 - tail]) / reach
            # A side never turns over: the mean stays inside.
            factors = max(float(-low), 0.0), max(float(high), 0.0)
        below.append(factors[0])
        above.append(factors[1])
    return Spread(first_sizes, tuple(below[1:]), tuple(above[1:]))
