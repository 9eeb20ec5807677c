"""A shallow tower of codes that adds nothing where all of them are unknown."""

from typing import Any

import keras
from keras import ops

from recsys.core.backends import Tensor
from recsys.core.layers.embedding import Embedding
from recsys.core.random import stream_seed

WIDTH = 16


class ShallowTower(keras.layers.Layer):  # type: ignore[misc]
    """V relu(W [e_1, ..., e_A]), of embedded codes e, without biases: zero codes give zero.

    Added to what a net says, it takes up what a position or a surface does to the log, so that the
    net need not (Zhao et al. 2019, Recommending What Video to Watch Next, section 4.3). V starts at
    0: the net begins as if there were none.

    Args:
        num_codes: Of each column.
        units: Columns of the output.
        hidden_rate: Share of the rows whose codes are all hidden while training.
        seed: Of initial values and of what is hidden.
    """

    def __init__(
        self,
        num_codes: tuple[int, ...],
        units: int,
        hidden_rate: float,
        *,
        seed: int,
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        self.tables = [
            Embedding(number, WIDTH, seed=stream_seed(seed, "table", column))
            for column, number in enumerate(num_codes)
        ]
        start = keras.initializers.HeUniform(stream_seed(seed, "hidden"))
        self.hidden = keras.layers.Dense(WIDTH, use_bias=False, kernel_initializer=start)
        self.outputs = keras.layers.Dense(units, use_bias=False, kernel_initializer="zeros")
        self.hiding = keras.layers.Dropout(hidden_rate, seed=stream_seed(seed, "hiding"))

    def build(self, codes_shape: Any) -> None:
        """Make the tables and weights."""
        for table in self.tables:
            table.build(None)
        self.hidden.build((None, WIDTH * len(self.tables)))
        self.outputs.build((None, WIDTH))

    def call(self, codes: Tensor, training: bool = False) -> Tensor:
        """Return what to add: int32 [B, A] -> float32 [B, units]."""
        columns = [table(codes[:, column]) for column, table in enumerate(self.tables)]
        embedded = ops.concatenate(columns, axis=-1)
        if training:
            kept = self.hiding(ops.ones_like(embedded[:, :1]), training=True)
            embedded = embedded * ops.cast(kept > 0, embedded.dtype)
        return self.outputs(ops.relu(self.hidden(embedded)))
