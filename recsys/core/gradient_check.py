"""Gradients held against central differences, in float64: of any layer or loss, ours or a user's.

    with double_precision():
        errors = check_layer(Tower((8, 4), 0.0, seed=0), rows, rng=stream(0, "check"))

Goes in: a layer with inputs, or a function of variables. Comes out: the relative error by variable
and by input, each moved along a random direction, so that every element has a say. What has several
outputs is made one number by weights drawn at random: a plain sum would not see an error in, say, a
softmax, whose sum is 1 whatever it computes. Under JAX, Keras's RMS normalisation computes in
float32 whatever it is given: check nets that hold it under TensorFlow.

References:
    Nocedal & Wright 2006, Numerical Optimization, section 8.1 (the error of central differences).
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from recsys.core.backends import Tensor, backend_double_precision, gradients_of, to_numpy

STEP = 1e-5
"""h of (f(x + h u) - f(x - h u)) / 2h: its error is h^2 f''' / 6 and rounding of 1e-16 / h."""
SMALLEST_SLOPE = 1e-4
"""Slopes below it are compared as if they had it: of nothing, rounding is all that is seen."""
LARGEST_ERROR = 1e-5
"""Relative, of a gradient that is right. Wrong ones are off by far more."""
FIRST_DEVIATION = 0.1
"""What learned values are moved by before a check: many begin at 0, where ReLU has a kink."""


@contextlib.contextmanager
def double_precision() -> Iterator[None]:
    """Make what is built and called within in float64."""
    floatx, policy = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    try:
        with backend_double_precision():
            yield
    finally:
        keras.config.set_floatx(floatx)
        keras.config.set_dtype_policy(policy)


def check_layer(
    layer: keras.layers.Layer, *inputs: Any, rng: np.random.Generator, **options: Any
) -> dict[str, float]:
    """Check all that a layer learns, and its inputs.

    Args:
        layer: Made within `double_precision`; its weights are moved a little.
        inputs: Arrays of its call; those of floats are checked, as `input0` and so on.
        rng: Draws the weights of the outputs, and the directions.
        options: Further arguments of its call, `training=True` say.

    Returns:
        Relative error by name; at most `LARGEST_ERROR` where the gradient is right.
    """
    tensors = [_as_variable(values, f"input{n}") for n, values in enumerate(inputs)]
    layer(*map(_as_tensor, tensors), **options)  # builds it
    for variable in layer.trainable_variables:
        noise = FIRST_DEVIATION * rng.standard_normal(variable.shape)
        variable.assign(to_numpy(variable.value) + noise)
    return check_gradients(
        lambda: layer(*map(_as_tensor, tensors), **options),
        [*layer.trainable_variables, *filter(_is_variable, tensors)],
        state=layer.non_trainable_variables,
        rng=rng,
    )


def check_function(
    function: Callable[..., Tensor], *inputs: Any, rng: np.random.Generator
) -> dict[str, float]:
    """Check the inputs of a loss, or of any function of tensors, as `check_layer` does."""
    tensors = [_as_variable(values, f"input{n}") for n, values in enumerate(inputs)]
    return check_gradients(
        lambda: function(*map(_as_tensor, tensors)),
        list(filter(_is_variable, tensors)),
        rng=rng,
    )


def check_gradients(
    function: Callable[[], Tensor],
    variables: Sequence[keras.Variable],
    *,
    state: Sequence[keras.Variable] = (),
    is_compiled: bool = False,
    rng: np.random.Generator,
) -> dict[str, float]:
    """Compare gradients with central differences.

    Args:
        function: Of the variables; a tensor of any shape.
        variables: float64, what the gradient is of.
        state: What a call changes (seeds of dropout, running means): put back before each call.
        is_compiled: Pays for a whole net, not for a layer.
        rng: Draws the weights of the outputs, and the directions.

    Returns:
        |g . u - d| / max(|g . u| + |d|, 1e-4) by path of the variable, u a random direction of
        length 1 and d the slope found along it.

    Raises:
        ValueError: A variable is not float64.
    """
    _check_precision(variables)
    kept = [to_numpy(variable.value) for variable in state]
    weights = rng.standard_normal(np.shape(to_numpy(ops.convert_to_tensor(function()))))

    def weighted(batch: Any) -> Tensor:
        for variable, value in zip(state, kept, strict=True):
            variable.assign(value)
        return ops.sum(function() * ops.convert_to_tensor(weights))

    differentiate = gradients_of(weighted, variables, is_compiled=is_compiled)
    _, gradients = differentiate({})

    def evaluate() -> float:
        return differentiate({})[0] if is_compiled else float(weighted({}))

    errors: dict[str, float] = {}
    for variable, gradient in zip(variables, gradients, strict=True):
        name = variable.path if variable.path not in errors else f"{variable.path}#{len(errors)}"
        errors[name] = _error(variable, gradient, evaluate, rng)
    return errors


def _error(
    variable: keras.Variable,
    gradient: np.ndarray,
    evaluate: Callable[[], float],
    rng: np.random.Generator,
) -> float:
    """Move a variable both ways along a random direction and put it back; compare the slopes."""
    values = to_numpy(variable.value)
    direction = rng.standard_normal(values.shape)
    direction /= np.linalg.norm(direction)
    ends = []
    for step in (STEP, -STEP):
        variable.assign(values + step * direction)
        ends.append(evaluate())
    variable.assign(values)
    slope = (ends[0] - ends[1]) / (2 * STEP)
    expected = float(np.sum(gradient * direction))
    return abs(slope - expected) / max(abs(slope) + abs(expected), SMALLEST_SLOPE)


def _as_variable(values: Any, name: str) -> Any:
    """Make an input of floats one that a gradient can be taken of; leave all else."""
    array = np.asarray(values)
    if not np.issubdtype(array.dtype, np.floating):
        return array
    return keras.Variable(array.astype(np.float64), dtype="float64", name=name)


def _as_tensor(value: Any) -> Tensor:
    # Under TensorFlow, a variable made a tensor is the variable still, which gradients of one's own
    # (`ops.custom_gradient`) do not take.
    return value + 0.0 if _is_variable(value) else ops.convert_to_tensor(value)


def _is_variable(tensor: Any) -> bool:
    return isinstance(tensor, keras.Variable)


def _check_precision(variables: Sequence[keras.Variable]) -> None:
    for variable in variables:
        found = to_numpy(variable.value).dtype
        if found != np.float64:
            raise ValueError(
                f"{variable.path}: expected float64, got {found}; make layer and inputs within "
                f"`with double_precision():`"
            )
