"""Activations by name: Keras's own, and the Gaussian."""

from collections.abc import Callable

import keras
from keras import ops

from recsys.core.backends import Tensor
from recsys.settings.layers import Activation


def gaussian(values: Tensor) -> Tensor:
    """Return exp(-x^2 / 2): largest at 0, and small on both sides of it."""
    return ops.exp(-0.5 * ops.square(values))


def activation_of(name: Activation) -> Callable[[Tensor], Tensor]:
    """Return an activation by its name in the settings."""
    return gaussian if name == "gaussian" else keras.activations.get(name)
