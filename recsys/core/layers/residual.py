"""Residual blocks: what is learned is added to the input, so that depth never has to be undone.

Where the width changes, the input is projected (option B of He et al. 2015); a block of version 2
projects it as it came, not activated.

References:
    He et al. 2015, Deep Residual Learning for Image Recognition (version 1, the bottleneck).
    He et al. 2016, Identity Mappings in Deep Residual Networks (version 2).
"""

from typing import Any

import keras

from recsys.core.backends import Tensor
from recsys.core.layers.activations import activation_of
from recsys.core.layers.dense import Dense, new_dense
from recsys.core.layers.normalisation import Normaliser
from recsys.core.random import stream_seed
from recsys.settings.layers import LayerSettings

NARROW = 4
"""By how much a bottleneck is narrower than its block."""


class ResidualBlock(keras.layers.Layer):  # type: ignore[misc]
    """a(x + F(x)), F(x) = N W2 a(N W1 x), or x + F(x), F(x) = W2 a(N W1 a(N x)) (version 2).

    Args:
        width: Of the output.
        dropout: Share of the units zeroed within the block.
        layers: Which version, activation a, normalisation N, penalties.
        seed: Of initial values and dropout.
        precision: Of the products while training.
    """

    def __init__(
        self,
        width: int,
        dropout: float,
        *,
        layers: LayerSettings,
        seed: int,
        precision: str = "float32",
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        self.width, self.layers = width, layers
        self.activation = activation_of(layers.activation)
        narrow = max(1, width // NARROW)
        widths = (narrow, narrow, width) if layers.residual == "bottleneck" else (width, width)

        def dense(units: int, *names: str | int) -> Dense:
            return new_dense(units, layers, seed=stream_seed(seed, *names), precision=precision)

        self.dense_layers = [dense(units, "dense", number) for number, units in enumerate(widths)]
        self.normalisers = [Normaliser(layers.normalisation) for _ in widths]
        self.dropout = keras.layers.Dropout(dropout, seed=stream_seed(seed, "dropout"))
        self.projection = dense(width, "projection")
        self.is_projected = False

    def build(self, inputs_shape: tuple[int | None, ...]) -> None:
        """Make the layers for inputs of a shape [..., D]."""
        shape = inputs_shape
        is_before = self.layers.residual == "v2"
        for dense, normaliser in zip(self.dense_layers, self.normalisers, strict=True):
            dense.build(shape)
            after = (*shape[:-1], dense.units)
            normaliser.build(shape if is_before else after)
            shape = after
        self.is_projected = inputs_shape[-1] != self.width
        if self.is_projected:
            self.projection.build(inputs_shape)

    def call(
        self, inputs: Tensor, training: bool = False, is_counted: Tensor | None = None
    ) -> Tensor:
        """Return the block's output: float [..., D] -> [..., width]; `is_counted` bool [...]."""
        shortcut = self.projection(inputs, training=training) if self.is_projected else inputs
        if self.layers.residual == "v2":
            return shortcut + self._activated_before(inputs, training, is_counted)
        return self.activation(shortcut + self._activated_after(inputs, training, is_counted))

    def _activated_before(self, hidden: Any, training: bool, is_counted: Tensor | None) -> Tensor:
        for number, dense in enumerate(self.dense_layers):
            hidden = self.normalisers[number](hidden, training=training, is_counted=is_counted)
            hidden = self.activation(hidden)
            if number == len(self.dense_layers) - 1:
                hidden = self.dropout(hidden, training=training)
            hidden = dense(hidden, training=training)
        return hidden

    def _activated_after(self, hidden: Any, training: bool, is_counted: Tensor | None) -> Tensor:
        for number, dense in enumerate(self.dense_layers):
            if number:
                hidden = self.activation(hidden)
            if number == len(self.dense_layers) - 1:
                hidden = self.dropout(hidden, training=training)
            hidden = dense(hidden, training=training)
            hidden = self.normalisers[number](hidden, training=training, is_counted=is_counted)
        return hidden
