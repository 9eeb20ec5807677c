"""The tower of hidden layers of both nets."""

from typing import Any

import keras

from recsys.core.backends import Tensor
from recsys.core.layers.activations import activation_of
from recsys.core.layers.dense import new_dense
from recsys.core.layers.normalisation import Normaliser
from recsys.core.layers.residual import ResidualBlock
from recsys.core.random import stream_seed
from recsys.settings.layers import LayerSettings

RELU = LayerSettings()


class HiddenLayer(keras.layers.Layer):  # type: ignore[misc]
    """a(N(x W + b)), then dropout while training.

    Args:
        width: Of the output.
        dropout: Share of the units zeroed.
        layers: Activation a, normalisation N, penalties.
        number: Of the layer in its tower, which names its uses of chance.
        seed: Of the tower.
        precision: Of the product while training.
    """

    def __init__(
        self,
        width: int,
        dropout: float,
        *,
        layers: LayerSettings,
        number: int,
        seed: int,
        precision: str,
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        own_seed = stream_seed(seed, "dense", number)
        self.width, self.activation = width, activation_of(layers.activation)
        self.dense = new_dense(width, layers, seed=own_seed, precision=precision)
        self.normaliser = Normaliser(layers.normalisation)
        self.dropout = keras.layers.Dropout(dropout, seed=stream_seed(seed, "dropout", number))

    def build(self, inputs_shape: tuple[int | None, ...]) -> None:
        """Make the weights for inputs of a shape [..., D]."""
        self.dense.build(inputs_shape)
        self.normaliser.build((*inputs_shape[:-1], self.width))

    def call(
        self, inputs: Tensor, training: bool = False, is_counted: Tensor | None = None
    ) -> Tensor:
        """Return the layer's output: float [..., D] -> [..., width]; `is_counted` bool [...]."""
        hidden = self.dense(inputs, training=training)
        hidden = self.normaliser(hidden, training=training, is_counted=is_counted)
        return self.dropout(self.activation(hidden), training=training)


class Tower(keras.layers.Layer):  # type: ignore[misc]
    """Fully connected layers, or residual blocks, one after another.

    Args:
        widths: Of the layers or blocks; none gives the input back.
        dropout: Share of the units zeroed, behind each layer or within each block.
        layers: What they are made of.
        seed: Of initial values and dropout.
        precision: Of the products while training.
    """

    def __init__(
        self,
        widths: tuple[int, ...],
        dropout: float,
        *,
        layers: LayerSettings = RELU,
        seed: int,
        precision: str = "float32",
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        self.steps: list[HiddenLayer | ResidualBlock] = []
        for number, width in enumerate(widths):
            options: dict[str, Any] = {"layers": layers, "precision": precision}
            if layers.residual == "none":
                self.steps.append(HiddenLayer(width, dropout, number=number, seed=seed, **options))
            else:
                own_seed = stream_seed(seed, "block", number)
                self.steps.append(ResidualBlock(width, dropout, seed=own_seed, **options))
        # What comes out of blocks of version 2 is a bare sum (He et al. 2016, section 4.1).
        self.last_normaliser = None
        if layers.residual == "v2" and widths:
            self.last_normaliser = Normaliser(layers.normalisation)
        self.activation = activation_of(layers.activation)

    def build(self, inputs_shape: tuple[int | None, ...]) -> None:
        """Make the layers for inputs of a shape [..., D]."""
        shape = inputs_shape
        for step in self.steps:
            step.build(shape)
            shape = (*shape[:-1], step.width)
        if self.last_normaliser is not None:
            self.last_normaliser.build(shape)

    def call(
        self, inputs: Tensor, training: bool = False, is_counted: Tensor | None = None
    ) -> Tensor:
        """Return the last hidden layer.

        Args:
            inputs: float [..., D].
            training: Whether dropout is on, and batches are normalised by their own means.
            is_counted: bool [...], the rows that these means are taken over; None: all.

        Returns:
            float [..., widths[-1]].
        """
        hidden: Any = inputs
        for step in self.steps:
            hidden = step(hidden, training=training, is_counted=is_counted)
        if self.last_normaliser is None:
            return hidden
        hidden = self.last_normaliser(hidden, training=training, is_counted=is_counted)
        return self.activation(hidden)
