"""A weighted sum of equal parts of a vector, for the way past a tower.

Without it, a tower has to learn the identity before it can say that what was watched is like what
will be (He et al. 2016, Deep Residual Learning for Image Recognition).
"""

from typing import Any

import keras
from keras import ops

from recsys.core.backends import Tensor


class WeightedParts(keras.layers.Layer):  # type: ignore[misc]
    """Adds n parts of width D, each times a learned number, 1 / n at the start.

    Args:
        num_parts: n.
    """

    def __init__(self, num_parts: int, *, name: str | None = None) -> None:
        super().__init__(name=name)
        self.num_parts = num_parts

    def build(self, inputs_shape: Any) -> None:
        """Make the weights: float32 [n]."""
        start = keras.initializers.Constant(1 / self.num_parts)
        self.weights_of_parts = self.add_weight(
            shape=(self.num_parts,), initializer=start, name="parts"
        )

    def call(self, inputs: Tensor) -> Tensor:
        """Return the sum: float [R, n * D] -> [R, D]."""
        parts = ops.reshape(inputs, (-1, self.num_parts, inputs.shape[-1] // self.num_parts))
        weights = ops.convert_to_tensor(self.weights_of_parts)
        return ops.sum(parts * weights[:, None], axis=1)
