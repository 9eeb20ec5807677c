"""A fully connected layer whose products may be taken in a lower precision while it is trained."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from recsys.core.backends import Tensor
from recsys.settings.layers import LayerSettings


def low_matmul(left: Tensor, right: Tensor, precision: str) -> Tensor:
    """Return left @ right as float32, computed from values rounded to a precision.

    bfloat16 keeps the range of float32 and 8 bits of its digits; processors that have it multiply
    at least twice as fast.
    """
    if precision == "float32":
        return ops.matmul(left, right)
    product = ops.matmul(ops.cast(left, precision), ops.cast(right, precision))
    return ops.cast(product, "float32")


class Dense(keras.layers.Layer):  # type: ignore[misc]
    """activation(x W + b). Outside of training, products are float32.

    Args:
        units: U.
        initializer: Of W.
        activation: None for none.
        bias: First value of b; None for no bias.
        regularizer, constraint: Of W; None for none.
        precision: Of the product while training.
    """

    def __init__(
        self,
        units: int,
        initializer: keras.initializers.Initializer,
        *,
        activation: Callable[[Tensor], Tensor] | None = None,
        bias: float | None = 0.0,
        regularizer: keras.regularizers.Regularizer | None = None,
        constraint: keras.constraints.Constraint | None = None,
        precision: str = "float32",
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        self.units, self.initializer, self.first_bias = units, initializer, bias
        self.activation, self.precision = activation, precision
        self.regularizer, self.constraint = regularizer, constraint
        self.bias: keras.Variable | None = None

    def build(self, inputs_shape: tuple[int | None, ...]) -> None:
        """Make W, float32 [D, U], and b, [U], for inputs of a shape [..., D]."""
        self.kernel = self.add_weight(
            shape=(inputs_shape[-1], self.units),
            initializer=self.initializer,
            regularizer=self.regularizer,
            constraint=self.constraint,
            name="kernel",
        )
        if self.first_bias is not None:
            start = keras.initializers.Constant(self.first_bias)
            self.bias = self.add_weight(shape=(self.units,), initializer=start, name="bias")

    def call(self, inputs: Tensor, training: bool = False) -> Tensor:
        """Return the outputs: float [..., D] -> [..., U]."""
        # One product of two matrices is faster than many of a batch with the same one.
        flat = ops.reshape(inputs, (-1, inputs.shape[-1]))
        precision = self.precision if training else "float32"
        outputs: Any = low_matmul(flat, ops.convert_to_tensor(self.kernel), precision)
        if self.bias is not None:
            outputs = outputs + self.bias
        if self.activation is not None:
            outputs = self.activation(outputs)
        return ops.reshape(outputs, (*ops.shape(inputs)[:-1], self.units))


def new_dense(units: int, layers: LayerSettings, *, seed: int, precision: str) -> Dense:
    """Return a layer without activation, its initial values after He et al. 2015b, for ReLU."""
    start = keras.initializers.HeUniform(seed)
    return Dense(units, start, precision=precision, **kernel_rules(layers))


def kernel_rules(layers: LayerSettings) -> dict[str, Any]:
    """Return what holds the kernels of hidden layers back: `regularizer`, `constraint`."""
    has_penalty = layers.l1 > 0 or layers.l2 > 0
    return {
        "regularizer": keras.regularizers.L1L2(layers.l1, layers.l2) if has_penalty else None,
        "constraint": keras.constraints.MaxNorm(layers.max_norm) if layers.max_norm else None,
    }
