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
    clip((x - q_i) / (q_{i+1} - q_i), 0, 1). A missing value (NaN) is 0 in all columns but
    its indicator.

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
        # Plain arrays: a tensor made here would become an input of an exported graph.
        self.low = quantiles[:, :-1].astype(np.float32)
        self.width = np.maximum(np.diff(quantiles.astype(np.float32)), np.float32(1e-12))
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
        low = ops.convert_to_tensor(self.low, filled.dtype)
        width = ops.convert_to_tensor(self.width, filled.dtype)
        ramps = ops.clip((filled[..., None] - low) / width, 0.0, 1.0)
        if self.num_pieces > 1:
            return ops.concatenate([self._pieces(ramps, is_missing), is_missing], axis=-1)
        share = ops.mean(ramps, axis=-1) * (1.0 - is_missing)
        columns = powers(share) if self.with_powers else share
        return ops.concatenate([columns, is_missing], axis=-1)

    def _pieces(self, ramps: Tensor, is_missing: Tensor) -> Tensor:
        """Average the ramps of each piece: [..., F, n] -> [..., F P]."""
        num_features, num_ramps = self.low.shape
        outer = tuple(ops.shape(is_missing)[:-1])
        shape = (*outer, num_features, self.num_pieces, num_ramps // self.num_pieces)
        # A mean over one ramp would cost as much as the ramps themselves.
        if num_ramps > self.num_pieces:
            ramps = ops.mean(ops.reshape(ramps, shape), axis=-1)
        pieces = ramps * (1.0 - is_missing[..., None])
        return ops.reshape(pieces, (*outer, num_features * self.num_pieces))
