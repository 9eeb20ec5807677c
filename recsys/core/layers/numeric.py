"""Numeric inputs of a net (Covington et al. 2016, section 4.1.2): quantiles, powers, pieces."""

from typing import Any

import keras
import numpy as np
from keras import ops

from recsys.core.backends import Tensor


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
    clip((x - q_i) / (q_{i+1} - q_i), 0, 1): that of the interval it lies in, and 1 of each below.
    Bisection finds the interval in log2(n) looks, where the ramps of all n are most of what a net
    costs that ranks. A missing value (NaN) is 0 in all columns but its indicator.

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
        num_features, self.num_ramps = low.shape
        # A power of two of boundaries a feature, those too many above all values. Plain arrays: a
        # tensor made here would become an input of an exported graph.
        self.padded_length = 1 << int(self.num_ramps).bit_length()
        self.low = np.full((num_features, self.padded_length), np.inf, np.float32)
        self.low[:, : self.num_ramps] = low
        self.width = np.ones_like(self.low)
        self.width[:, : self.num_ramps] = np.maximum(width, np.float32(1e-12))
        self.first = (np.arange(num_features) * self.padded_length).astype(np.int32)
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
        low, width = (
            ops.convert_to_tensor(self.low.ravel()),
            ops.convert_to_tensor(self.width.ravel()),
        )
        first = ops.convert_to_tensor(self.first)
        below = ops.zeros_like(values, dtype="int32")  # boundaries known to be smaller
        step = self.padded_length // 2
        while step:
            boundary = ops.take(low, first + below + (step - 1))
            below = below + step * ops.cast(boundary < values, "int32")
            step //= 2
        interval = ops.maximum(below - 1, 0)
        part = (values - ops.take(low, first + interval)) / ops.take(width, first + interval)
        return ops.cast(interval, values.dtype) + ops.clip(part, 0.0, 1.0)

    def _pieces(self, place: Tensor, is_missing: Tensor) -> Tensor:
        """Return how much of each piece lies below values: [..., F] -> [..., F P]."""
        per_piece = self.num_ramps // self.num_pieces
        begins = ops.convert_to_tensor(np.arange(self.num_pieces, dtype=np.float32) * per_piece)
        pieces = ops.clip((place[..., None] - begins) / per_piece, 0.0, 1.0)
        pieces = pieces * (1.0 - is_missing[..., None])
        outer = tuple(ops.shape(is_missing)[:-1])
        return ops.reshape(pieces, (*outer, len(self.first) * self.num_pieces))
