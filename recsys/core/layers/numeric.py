"""Numeric inputs of a net (Covington et al. 2016, section 4.1.2): quantiles, powers, pieces."""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from recsys.core.backends import Tensor

BEYOND = float(np.finfo(np.float32).max)
"""No value lies above it."""


def powers(share: Tensor) -> Tensor:
    """Put x, x^2 and sqrt(x) side by side: float [..., F] in 0..1 -> [..., 3F]."""
    # The slope of the root at 0 is infinite; no input here is learned, so it is never taken.
    return ops.concatenate([share, ops.square(share), ops.sqrt(share)], axis=-1)


def split_missing(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return values with NaN as 0, and an indicator of NaN: float [..., F] twice."""
    is_missing = ops.isnan(values)
    filled = ops.where(is_missing, ops.zeros_like(values), values)
    return filled, ops.cast(is_missing, values.dtype)


class QuantileRamps(keras.layers.Layer):  # type: ignore[misc]
    """Features as their share of the training distribution, interpolated between quantiles.

    With boundaries q_0 < ... < q_n, a value's share is the mean over the n intervals of
    clip((x - q_i) / (q_{i+1} - q_i), 0, 1). Intervals lie in groups of sqrt(n): those of groups
    below the value's are 1, those above 0, so that only its own group is computed; the ramps of
    all n would be most of what a net costs that ranks. A missing value (NaN) is 0 in all columns
    but its indicator.

    In P pieces, a feature has P columns: the shares of the first n / P intervals, of the next, and
    so on, each 0 to 1 (Gorishniy et al. 2022, On Embeddings for Numerical Features in Tabular Deep
    Learning, the piecewise linear encoding). A net then bends where trees would split.

    Args:
        quantiles: float [F, n + 1], ascending along the last axis, without NaN.
        with_powers: Add the square and the root of the shares.
        num_pieces: P, divides n; powers are of whole shares, so they go with 1.
    """

    def __init__(
        self,
        quantiles: np.ndarray,
        *,
        with_powers: bool = True,
        num_pieces: int = 1,
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        low, width = quantiles[:, :-1].astype(np.float32), np.diff(quantiles.astype(np.float32))
        self.num_features, self.num_ramps = low.shape
        # Plain arrays: a tensor made here would become an input of an exported graph.
        self.length = math.isqrt(self.num_ramps - 1) + 1
        self.low = _in_groups(low, self.length, BEYOND)  # [F, groups, length]
        self.width = _in_groups(np.maximum(width, np.float32(1e-12)), self.length, 1.0)
        self.first = (np.arange(self.num_features) * self.low.shape[1]).astype(np.int32)
        self.with_powers, self.num_pieces = with_powers, num_pieces

    def build(self, values_shape: Any) -> None:
        """Have nothing to learn."""

    def call(self, values: Tensor) -> Tensor:
        """Return shares, their powers, and indicators of missing values.

        Args:
            values: float32 [..., F].

        Returns:
            float32 [..., 4F], without powers [..., (P + 1) F].
        """
        filled, is_missing = split_missing(values)
        place = self._place(filled)
        if self.num_pieces > 1:
            return ops.concatenate([self._pieces(place, is_missing), is_missing], axis=-1)
        share = place / self.num_ramps * (1.0 - is_missing)
        columns = powers(share) if self.with_powers else share
        return ops.concatenate([columns, is_missing], axis=-1)

    def _place(self, values: Tensor) -> Tensor:
        """Return the number of intervals below values, and the part of their own: [..., F]."""
        begins = ops.convert_to_tensor(self.low[..., 0], values.dtype)
        is_above = ops.cast(values[..., None] > begins, values.dtype)
        group = ops.maximum(ops.sum(is_above, axis=-1) - 1.0, 0.0)
        row = ops.convert_to_tensor(self.first) + ops.cast(group, "int32")
        low, width = (
            ops.take(
                ops.convert_to_tensor(each.reshape(-1, self.length), values.dtype), row, axis=0
            )
            for each in (self.low, self.width)
        )
        ramps = ops.clip((values[..., None] - low) / width, 0.0, 1.0)
        return group * float(self.length) + ops.sum(ramps, axis=-1)

    def _pieces(self, place: Tensor, is_missing: Tensor) -> Tensor:
        """Return how much of each piece lies below values: [..., F] -> [..., F P]."""
        per_piece = self.num_ramps // self.num_pieces
        begins = ops.convert_to_tensor(
            np.arange(self.num_pieces, dtype=np.float32) * per_piece, place.dtype
        )
        pieces = ops.clip((place[..., None] - begins) / per_piece, 0.0, 1.0)
        pieces = pieces * (1.0 - is_missing[..., None])
        outer = tuple(ops.shape(is_missing)[:-1])
        return ops.reshape(pieces, (*outer, self.num_features * self.num_pieces))


def _in_groups(values: np.ndarray, length: int, padding: float) -> np.ndarray:
    """Cut rows into groups: float32 [F, n] -> [F, ceil(n / length), length], padded."""
    missing = -values.shape[1] % length
    padded = np.pad(values, ((0, 0), (0, missing)), constant_values=np.float32(padding))
    return padded.reshape(len(values), -1, length)
