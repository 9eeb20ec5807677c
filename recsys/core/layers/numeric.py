"""Numeric inputs of a net (Covington et al. 2016, section 4.1.2): quantiles and powers."""

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

    Args:
        quantiles: float [F, n + 1], ascending along the last axis, without NaN.
        with_powers: Add the square and the root of the shares.
    """

    def __init__(
        self, quantiles: np.ndarray, *, with_powers: bool = True, name: str | None = None
    ) -> None:
        super().__init__(name=name)
        # Plain arrays: a tensor made here would become an input of an exported graph.
        self.low = quantiles[:, :-1].astype(np.float32)
        self.width = np.maximum(np.diff(quantiles.astype(np.float32)), np.float32(1e-12))
        self.with_powers = with_powers

    def build(self, values_shape: Any) -> None:
        """Have nothing to learn."""

    def call(self, values: Tensor) -> Tensor:
        """Return shares, their powers, and indicators of missing values.

        Args:
            values: float32 [..., F].

        Returns:
            float32 [..., 4F] (2F without powers).
        """
        filled, is_missing = split_missing(values)
        low, width = ops.convert_to_tensor(self.low), ops.convert_to_tensor(self.width)
        ramps = ops.clip((filled[..., None] - low) / width, 0.0, 1.0)
        share = ops.mean(ramps, axis=-1) * (1.0 - is_missing)
        columns = powers(share) if self.with_powers else share
        return ops.concatenate([columns, is_missing], axis=-1)
