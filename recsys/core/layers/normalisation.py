"""Normalisation by name, with rows that count for nothing left out of the means.

References:
    Ioffe & Szegedy 2015, Batch Normalization: Accelerating Deep Network Training by Reducing
    Internal Covariate Shift.
    Ba, Kiros & Hinton 2016, Layer Normalization.
"""

import keras

from recsys.core.backends import Tensor
from recsys.settings.layers import Normalisation

MOMENTUM = 0.9
"""Of the running means; Keras's .99 has not left its start after the hundred steps of a small log.
"""


class Normaliser(keras.layers.Layer):  # type: ignore[misc]
    """Batch or layer normalisation, or none.

    Args:
        kind: Which.
    """

    def __init__(self, kind: Normalisation, *, name: str | None = None) -> None:
        super().__init__(name=name)
        self.batch = keras.layers.BatchNormalization(momentum=MOMENTUM) if kind == "batch" else None
        self.layer = keras.layers.LayerNormalization() if kind == "layer" else None

    def build(self, inputs_shape: tuple[int | None, ...]) -> None:
        """Make scale, shift and running means for inputs of a shape [..., D]."""
        for part in (self.batch, self.layer):
            if part is not None:
                part.build(inputs_shape)

    def call(
        self, inputs: Tensor, training: bool = False, is_counted: Tensor | None = None
    ) -> Tensor:
        """Return the inputs normalised: float [..., D] -> [..., D].

        Args:
            inputs: float [..., D].
            training: Whether the means are those of this batch.
            is_counted: bool [...], the rows that means of a batch are taken over; None: all.
        """
        if self.batch is not None:
            return self.batch(inputs, training=training, mask=is_counted)
        return inputs if self.layer is None else self.layer(inputs)
