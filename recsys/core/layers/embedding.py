"""Embedding tables whose code 0 is the zero vector: unknown ids, missing values, padding."""

from typing import Any

import keras
import numpy as np
from keras import ops

from recsys.core.backends import Tensor, gather_rows


class Embedding(keras.layers.Layer):  # type: ignore[misc]
    """Rows of a learned table, looked up by code.

    Args:
        num_codes: Rows, the zero row included.
        width: Columns.
        seed: Of the initial values, which are normal.
        deviation: Their standard deviation, 1 / sqrt(width) unless given.
    """

    def __init__(
        self,
        num_codes: int,
        width: int,
        *,
        seed: int,
        deviation: float | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        self.num_codes, self.width, self.seed = num_codes, width, seed
        self.deviation = width**-0.5 if deviation is None else deviation

    def build(self, codes_shape: Any) -> None:
        """Make the table: float32 [num_codes, width]."""
        rng = np.random.default_rng(self.seed)
        values = rng.standard_normal((self.num_codes, self.width), np.float32)
        values *= np.float32(self.deviation)
        values[0] = 0
        self.table = self.add_weight(
            shape=values.shape,
            initializer=lambda shape, dtype: values.astype(dtype, copy=False),
            name="table",
        )

    def call(self, codes: Tensor) -> Tensor:
        """Return the rows of codes: int32 [...] -> float32 [..., width]."""
        # The mask keeps the gradient off row 0, which therefore stays zero.
        known = ops.cast(ops.not_equal(codes, 0), self.table.dtype)
        return gather_rows(self.table, codes) * ops.expand_dims(known, -1)
