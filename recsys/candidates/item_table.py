"""Rows of items: an own row each, and what they share with others (topics, channel, title words).

    row(i) = own(i) + mean of shared(f) over the features f of item i

An item that was never watched has no own row; its features alone place it near its likes. While
training, own rows are left out now and then (`own_dropout`), so that the shared ones learn to
stand alone, after Volkovs, Yu & Poutanen 2017, DropoutNet: Addressing Cold Start.
"""

from typing import Any

import keras
import numpy as np
from keras import ops

from recsys.core.backends import Tensor, to_numpy
from recsys.core.layers.bag import masked_mean
from recsys.core.layers.embedding import Embedding
from recsys.core.random import stream_seed


class ItemTable(keras.layers.Layer):  # type: ignore[misc]
    """A table of items, looked up by code: trained row + 1, 0 for none.

    Args:
        num_items: N, items with a row of their own.
        width: D.
        features: int32 [at least N, S], codes of shared features of every catalogue row, 0 for
            none; None: items share nothing.
        num_features: Codes of the shared features, 0 included.
        own_dropout: Share of the rows whose own part is left out in training.
        deviation: Of the initial values.
        seed: Of initial values and dropout.
    """

    def __init__(
        self,
        num_items: int,
        width: int,
        *,
        features: np.ndarray | None = None,
        num_features: int = 0,
        own_dropout: float = 0.0,
        deviation: float,
        seed: int,
        name: str,
    ) -> None:
        super().__init__(name=name)
        self.num_items, self.width, self.features = num_items, width, features
        self.own = Embedding(
            num_items + 1, width, seed=stream_seed(seed, "own"), deviation=deviation, name="own"
        )
        self.shared: Embedding | None = None
        self.own_dropout = own_dropout
        self.random = keras.random.SeedGenerator(stream_seed(seed, "own_dropout"))
        if features is not None:
            # Row 0: code 0 has no features.
            self.trained_features = np.concatenate([features[:1] * 0, features[:num_items]])
            self.shared = Embedding(
                num_features,
                width,
                seed=stream_seed(seed, "shared"),
                deviation=deviation,
                name="shared",
            )

    def build(self, codes_shape: Any = None) -> None:
        """Make the tables."""
        self.own.build(None)
        if self.shared is not None:
            self.shared.build(None)

    def call(self, codes: Tensor, training: bool = False) -> Tensor:
        """Return the rows of codes: int32 [...] -> float32 [..., D]."""
        own = self.own(codes)
        if self.shared is None:
            return own
        features = ops.take(ops.convert_to_tensor(self.trained_features), codes, axis=0)
        return self._kept(own, training) + masked_mean(self.shared(features), features)

    def all_rows(self, training: bool = False) -> Tensor:
        """Return the rows of all items with a row of their own: float32 [N, D]."""
        own = ops.convert_to_tensor(self.own.table)[1:]
        if self.shared is None:
            return own
        features = ops.convert_to_tensor(self.trained_features[1:])
        return self._kept(own, training) + masked_mean(self.shared(features), features)

    def served_rows(self) -> np.ndarray:
        """Return the rows of all items that have one: float32 [N or the whole catalogue, D]."""
        own = to_numpy(self.own.table.value)[1:]
        if self.shared is None or self.features is None:
            return own
        shared = to_numpy(self.shared.table.value)
        count = np.maximum(np.count_nonzero(self.features, axis=1), 1)[:, None]
        rows = np.zeros((len(self.features), self.width), np.float32)
        for slot in range(self.features.shape[1]):
            rows += shared[self.features[:, slot]]
        rows /= count
        rows[: self.num_items] += own
        return rows

    def _kept(self, own: Tensor, training: bool) -> Tensor:
        if not training or not self.own_dropout:
            return own
        shape = (*ops.shape(own)[:-1], 1)
        is_kept = keras.random.uniform(shape, seed=self.random) >= self.own_dropout
        return own * ops.cast(is_kept, own.dtype)
