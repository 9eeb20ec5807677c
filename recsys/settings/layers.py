"""What the hidden layers of a net are made of: `[candidates.layers]` and `[ranking.layers]`."""

from typing import Literal

from pydantic import Field

from recsys.settings.base import Settings

Activation = Literal[
    "relu",
    "leaky_relu",
    "elu",
    "selu",
    "silu",
    "swish",
    "sigmoid",
    "tanh",
    "softplus",
    "softmax",
    "gaussian",
]
"""`swish` is `silu`. Keras's exact `gelu` has no form in ONNX."""
Normalisation = Literal["none", "batch", "layer"]
Residual = Literal["none", "v1", "v2", "bottleneck"]


class LayerSettings(Settings):
    """The hidden layers, all alike."""

    activation: Activation = "relu"
    normalisation: Normalisation = "none"
    """Before the activation. `batch` takes means over the rows of a step (of weight above 0), and
    running ones when serving; `layer` over the units of a row."""
    residual: Residual = "none"
    """Each width is then a block of two layers, or of three with a narrow one amid (`bottleneck`),
    which learns what to add to its input: with the activation after the sum (`v1`), or before each
    product, so that the sum passes untouched (`v2`)."""
    l1: float = Field(default=0.0, ge=0)
    l2: float = Field(default=0.0, ge=0)
    """Penalties on the layers' kernels, of the sum of absolute values and of squares, in the loss.
    Unlike `training.weight_decay` they pass through the optimizer, and spare tables."""
    max_norm: float | None = Field(default=None, gt=0)
    """Longest that the weights into one unit may get."""
