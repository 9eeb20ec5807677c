"""Draws whose mean and variance can be learned.

Reference: Kingma & Welling 2014, Auto-Encoding Variational Bayes, section 2.4: the chance is put
into a variable of its own, so that the gradient goes past it.
"""

import keras
from keras import ops

from recsys.core.backends import Tensor


class GaussianSample(keras.layers.Layer):  # type: ignore[misc]
    """z = m + e^(v / 2) * noise, noise ~ N(0, 1); the mean outside of training.

    Args:
        seed: Of the noise.
    """

    def __init__(self, *, seed: int, name: str | None = None) -> None:
        super().__init__(name=name)
        self.random = keras.random.SeedGenerator(seed)

    def build(self, *_: object) -> None:
        """Make nothing: there is nothing to learn."""

    def call(self, mean: Tensor, log_variance: Tensor, training: bool = False) -> Tensor:
        """Return a draw: float [..., L] mean m and logarithm v of the variance -> [..., L]."""
        if not training:
            return mean
        noise = keras.random.normal(ops.shape(mean), dtype=mean.dtype, seed=self.random)
        return mean + ops.exp(0.5 * log_variance) * noise
