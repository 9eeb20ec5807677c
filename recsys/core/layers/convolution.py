"""A history as an image of embeddings, read by convolutions of every prefix's newest watches.

Unlike Tang & Wang, what comes out is as wide as an embedding and not yet activated (the tower of
the net follows), the user has no vector of their own (all is known by the history), and empty
places before the first watch are zero.

References:
    Tang & Wang 2018, Personalized Top-N Sequential Recommendation via Convolutional Sequence
    Embedding (Caser, section 3.2).
"""

from typing import Any

import keras
from keras import ops

from recsys.core.backends import Tensor
from recsys.core.layers.dense import Dense
from recsys.core.random import stream_seed


class PrefixConvolution(keras.layers.Layer):  # type: ignore[misc]
    """Horizontal filters, largest answer over the window, beside vertical ones; for each prefix.

    Args:
        width: D, of rows and output.
        length: L, the newest watches that are read.
        heights: Of the horizontal filters, each at most L.
        num_filters: Of each height.
        num_vertical: Sums over the window, weighted by place.
        seed: Of initial values.
    """

    def __init__(
        self,
        width: int,
        *,
        length: int,
        heights: tuple[int, ...],
        num_filters: int,
        num_vertical: int,
        seed: int,
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        self.width, self.length, self.num_vertical = width, length, num_vertical
        self.seed, self.heights = seed, heights
        self.horizontal = [
            keras.layers.Conv1D(
                num_filters,
                height,
                activation="relu",
                kernel_initializer=keras.initializers.HeUniform(
                    stream_seed(seed, "horizontal", height)
                ),
                name=f"height{height}",
            )
            for height in heights
        ]
        start = keras.initializers.GlorotUniform(stream_seed(seed, "mix"))
        self.mix = Dense(width, start, name="mix")

    def build(self, rows_shape: Any) -> None:
        """Make the filters; the length of the sequences is open."""
        num_columns = self.num_vertical * self.width
        for layer in self.horizontal:
            layer.build((None, None, self.width))
            num_columns += layer.filters
        self.vertical = self.add_weight(
            shape=(self.length, self.num_vertical),
            initializer=keras.initializers.GlorotUniform(stream_seed(self.seed, "vertical")),
            name="vertical",
        )
        self.mix.build((None, None, num_columns))

    def call(self, rows: Tensor, training: bool = False) -> Tensor:
        """Return what each prefix ends with: float [B, T, D], oldest first -> [B, T + 1, D]."""
        padded = ops.pad(rows, [[0, 0], [self.length, 0], [0, 0]])  # [B, L + T, D]
        parts = []
        for height, layer in zip(self.heights, self.horizontal, strict=True):
            answers = layer(padded)  # [B, L + T - height + 1, filters]
            window = self.length - height + 1
            parts.append(ops.max_pool(answers, window, strides=1, padding="valid"))
        num_prefixes = ops.shape(rows)[1] + 1
        windows = ops.stack(
            [padded[:, place : place + num_prefixes] for place in range(self.length)], axis=-1
        )  # [B, T + 1, D, L]
        sums = ops.matmul(windows, ops.convert_to_tensor(self.vertical))  # [B, T + 1, D, vertical]
        shape = (*ops.shape(rows)[:1], num_prefixes, self.num_vertical * self.width)
        parts.append(ops.reshape(sums, shape))
        return self.mix(ops.concatenate(parts, axis=-1), training=training)
