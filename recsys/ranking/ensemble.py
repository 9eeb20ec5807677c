"""Several ranking nets as one: the mean of their raw outputs.

Outputs are logits and logarithms, so probabilities are averaged as their odds are, geometrically,
and seconds too (Hinton 2002, a product of experts); the calibration that follows puts their level
right. All nets have the same heads, tables of their own, and stand in one exported graph.
"""

from collections.abc import Sequence

import keras

from recsys.core.backends import Batch, Tensor
from recsys.ranking.model import RankingModel


class RankingEnsemble(keras.Model):  # type: ignore[misc]
    """Trained nets of one configuration.

    Args:
        members: Two or more.
    """

    def __init__(self, members: Sequence[RankingModel]) -> None:
        super().__init__(name="ensemble")
        self.members = list(members)
        first = self.members[0]
        self.settings, self.spec, self.heads = first.settings, first.spec, first.heads
        self.objective = first.objective
        self.build()

    def build(self, batch_shape: object = None) -> None:
        """Have nothing to make."""
        self.built = True

    def call(self, batch: Batch, training: bool = False) -> Tensor:
        """Return the mean of the raw outputs: float32 [Q, C, K]."""
        return sum(member(batch, training=training) for member in self.members) / len(self.members)
