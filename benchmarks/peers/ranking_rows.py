"""What every peer of the ranking net is given, and what it gives back."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np

from recsys.ranking.predictions import FeatureMatrix

DURATION = "duration_seconds"

Scores: TypeAlias = Mapping[str, np.ndarray]
"""Any of `expected_seconds`, `median_seconds` and `completion`: float [R] each."""


@dataclass(frozen=True)
class PeerRows:
    """R impressions of one split.

    Args:
        features: Their flat features and labels.
        users: int [R].
    """

    features: FeatureMatrix
    users: np.ndarray

    def __len__(self) -> int:
        """Return the number of impressions."""
        return len(self.users)

    @property
    def watch_seconds(self) -> np.ndarray:
        """Label: float32 [R]."""
        return (self.features.watch_ms / 1000).astype(np.float32)

    @property
    def duration_seconds(self) -> np.ndarray:
        """Of the items: float32 [R], NaN unknown."""
        return self.features.values[:, self.features.names.index(DURATION)]


class Peer(Protocol):
    """Fits on the training rows, stops by the validation rows, scores the test rows."""

    def __call__(
        self, training: PeerRows, validation: PeerRows, test: PeerRows, *, seed: int
    ) -> Scores:
        """Return the scores of the test rows; a head that the peer has not is left out."""
