"""Explicit products of inputs, of a degree that grows by one a layer.

References:
    Wang et al. 2021, DCN V2: Improved Deep & Cross Network and Practical Lessons for Web-scale
    Learning to Rank Systems (the low-rank cross layer).
"""

from typing import Any

import keras

from recsys.core.backends import Tensor
from recsys.core.layers.dense import Dense
from recsys.core.random import stream_seed


class LowRankCross(keras.layers.Layer):  # type: ignore[misc]
    """x_{l+1} = x_0 * (U_l (V_l x_l) + b_l) + x_l, products element by element.

    Args:
        num_layers: At least 1.
        rank: Of U_l V_l; below D / 2 it has fewer weights than a full matrix.
        seed: Of initial values.
        precision: Of the products with U and V while training.
    """

    def __init__(
        self,
        num_layers: int,
        rank: int,
        *,
        seed: int,
        precision: str = "float32",
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        self.num_layers, self.rank, self.seed, self.precision = num_layers, rank, seed, precision

    def build(self, inputs_shape: Any) -> None:
        """Make V, float32 [D, rank], U, [rank, D], and b, [D], for inputs of a shape [..., D]."""
        layers, width = range(self.num_layers), inputs_shape[-1]
        self.narrow = [self._dense(self.rank, "narrow", layer, bias=None) for layer in layers]
        self.widen = [self._dense(width, "widen", layer, bias=0.0) for layer in layers]
        for narrow, widen in zip(self.narrow, self.widen, strict=True):
            narrow.build(inputs_shape)
            widen.build((None, self.rank))

    def call(self, inputs: Tensor, training: bool = False) -> Tensor:
        """Return the last layer: float [..., D] -> [..., D]."""
        crossed = inputs
        for narrow, widen in zip(self.narrow, self.widen, strict=True):
            gate = widen(narrow(crossed, training=training), training=training)
            crossed = inputs * gate + crossed
        return crossed

    def _dense(self, units: int, purpose: str, layer: int, *, bias: float | None) -> Dense:
        start = keras.initializers.GlorotUniform(stream_seed(self.seed, purpose, layer))
        return Dense(units, start, bias=bias, precision=self.precision, name=f"{purpose}{layer}")
