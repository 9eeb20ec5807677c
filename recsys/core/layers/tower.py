"""The tower of ReLU layers of both nets."""

from typing import Any

import keras
from keras import ops

from recsys.core.backends import Tensor
from recsys.core.layers.dense import Dense
from recsys.core.random import stream_seed


class Tower(keras.layers.Layer):  # type: ignore[misc]
    """Fully connected ReLU layers, each followed by dropout while training.

    Args:
        widths: Of the hidden layers; none gives the input back.
        dropout: Share of the units zeroed.
        seed: Of initial values and dropout.
        precision: Of the products while training.
    """

    def __init__(
        self,
        widths: tuple[int, ...],
        dropout: float,
        *,
        seed: int,
        precision: str = "float32",
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        self.dense_layers = [
            Dense(
                width,
                keras.initializers.HeUniform(stream_seed(seed, "dense", number)),
                activation=ops.relu,
                precision=precision,
            )
            for number, width in enumerate(widths)
        ]
        self.dropouts = [
            keras.layers.Dropout(dropout, seed=stream_seed(seed, "dropout", number))
            for number, _ in enumerate(widths)
        ]

    def build(self, inputs_shape: tuple[int | None, ...]) -> None:
        """Make the layers for inputs of a shape [..., D]."""
        shape = inputs_shape
        for dense in self.dense_layers:
            dense.build(shape)
            shape = (*shape[:-1], dense.units)

    def call(self, inputs: Tensor, training: bool = False) -> Tensor:
        """Return the last hidden layer: float [..., D] -> [..., widths[-1]]."""
        hidden: Any = inputs
        for dense, dropout in zip(self.dense_layers, self.dropouts, strict=True):
            hidden = dropout(dense(hidden, training=training), training=training)
        return hidden
