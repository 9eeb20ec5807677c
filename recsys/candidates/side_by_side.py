"""Several nets whose vectors stand side by side: one longer vector, one inner product.

The score is the mean of the nets' logits, as of an ensemble: what nets of different kinds get
wrong differs, so the mean is better than any of them.

Reference: Hinton 2002, Training Products of Experts (a mean of logits is a product of softmaxes).
"""

from collections.abc import Sequence

import numpy as np

from recsys.candidates.model import CandidateModel
from recsys.candidates.vectors import BulkTower, Inputs
from recsys.core.backends import to_numpy


class SideBySide:
    """The vectors of some trained nets, joined.

    Args:
        models: One or more, of one log.
    """

    def __init__(self, models: Sequence[CandidateModel]) -> None:
        self.models = list(models)
        self._towers = [BulkTower(model) for model in models]

    @property
    def width(self) -> int:
        """D', of the joined vectors."""
        return sum(model.served_width for model in self.models)

    def factors(self) -> list[float]:
        """Return what each net's user vectors are multiplied with; 1 for a net alone."""
        if len(self.models) == 1:
            return [1.0]
        return [_logit_scale(model) / len(self.models) for model in self.models]

    def user_vectors(self, inputs: Inputs) -> np.ndarray:
        """Return float32 [B, interests, D']; of several nets, one interest."""
        pairs = zip(self._towers, self.factors(), strict=True)
        vectors = [np.float32(factor) * tower(inputs) for tower, factor in pairs]
        return np.concatenate(vectors, axis=2)

    def item_vectors(self) -> np.ndarray:
        """Return float32 [n, D'], without the dimensions of a popularity."""
        return np.concatenate([model.item_vectors() for model in self.models], axis=1)


def _logit_scale(model: CandidateModel) -> float:
    """Return how much a net's inner product of served vectors counts in its softmax."""
    if model.settings.similarity == "cosine":
        return float(np.exp(to_numpy(model.log_scale.value)))
    return 1.0
