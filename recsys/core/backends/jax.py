"""Gradients and compilation under JAX: `value_and_grad` over Keras's stateless scope, jitted."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import jax
import keras
import numpy as np

Batch = dict[str, Any]
Values = list[jax.Array]


def compile_step(
    model: keras.Model,
    loss: Callable[[Batch], tuple[jax.Array, dict[str, jax.Array]]],
    optimizer: Any,
    *,
    has_norm: bool,
) -> Callable[[Batch], tuple[jax.Array, dict[str, jax.Array]]]:
    """Return a compiled function that takes one optimizer step on a batch."""
    variables = (model.trainable_variables, model.non_trainable_variables, optimizer.variables)

    def forward(trainable: Values, other: Values, batch: Batch) -> tuple[jax.Array, Any]:
        with keras.StatelessScope(_mapping(model, trainable, other)) as scope:
            value, figures = loss(batch)
        changed = [scope.get_current_value(variable) for variable in variables[1]]
        return value, (figures, changed)

    def update(trainable: Values, slots: Values, gradients: Values) -> tuple[Values, Values]:
        known = [*zip(variables[0], trainable, strict=True), *zip(variables[2], slots, strict=True)]
        with keras.StatelessScope(known) as scope:
            optimizer.apply(gradients, variables[0])
        changed = [scope.get_current_value(variable) for variable in variables[0]]
        return changed, [scope.get_current_value(variable) for variable in variables[2]]

    # The old values are given away: without that, each step copies the tables.
    @partial(jax.jit, donate_argnums=0)
    def step(state: tuple[Values, Values, Values], batch: Batch) -> tuple[Any, Any, Any]:
        trainable, other, slots = state
        differentiate = jax.value_and_grad(forward, has_aux=True)
        (value, (figures, other)), gradients = differentiate(trainable, other, batch)
        if has_norm:
            figures = {**figures, "gradient_norm": norm_of(gradients)}
        trainable, slots = update(trainable, slots, gradients)
        return value, figures, (trainable, other, slots)

    def step_in_place(batch: Batch) -> tuple[jax.Array, dict[str, jax.Array]]:
        state = tuple([variable.value for variable in group] for group in variables)
        value, figures, state = step(state, batch)
        for group, values in zip(variables, state, strict=True):
            for variable, new_value in zip(group, values, strict=True):
                variable.assign(new_value)
        return value, figures

    return step_in_place


def compile_call(
    model: keras.Model, function: Callable[[Batch], jax.Array]
) -> Callable[[Batch], np.ndarray]:
    """Return a compiled function that computes something of a model without changing it."""

    @jax.jit  # type: ignore[untyped-decorator]
    def call(trainable: Values, other: Values, batch: Batch) -> jax.Array:
        with keras.StatelessScope(_mapping(model, trainable, other)):
            return function(batch)

    def call_now(batch: Batch) -> np.ndarray:
        trainable = [variable.value for variable in model.trainable_variables]
        other = [variable.value for variable in model.non_trainable_variables]
        return np.asarray(call(trainable, other, batch))

    return call_now


def gradients_of(
    function: Callable[[Batch], jax.Array],
    variables: Sequence[keras.Variable],
    *,
    is_compiled: bool,
) -> Callable[[Batch], tuple[float, list[np.ndarray]]]:
    """Return a function that gives a scalar of a batch, and its gradients."""

    def of_values(values: Values, batch: Batch) -> jax.Array:
        with keras.StatelessScope(list(zip(variables, values, strict=True))):
            return function(batch)

    differentiate = jax.value_and_grad(of_values)
    ready = jax.jit(differentiate) if is_compiled else differentiate

    def differentiate_now(batch: Batch) -> tuple[float, list[np.ndarray]]:
        value, gradients = ready([variable.value for variable in variables], batch)
        return float(value), [np.asarray(gradient) for gradient in gradients]

    return differentiate_now


def double_precision() -> AbstractContextManager[None]:
    """Let JAX hold float64, which it else makes float32."""
    return jax.enable_x64(True)


def gather_rows(table: keras.Variable, codes: Any) -> jax.Array:
    """Return rows of a table: [N, D], int [...] -> [..., D]."""
    return keras.ops.take(table.value, codes, axis=0)


def sum_repeated_rows(gradient: Any) -> Any:
    """Return the gradient: JAX's are dense."""
    return gradient


def update_rows(
    table: keras.Variable,
    slots: Sequence[keras.Variable],
    gradient: jax.Array,
    rule: Callable[..., tuple[jax.Array, Sequence[jax.Array]]],
) -> None:
    """Change a table by a rule: one pass over it, which XLA fuses with that of the gradient."""
    change, new_values = rule(gradient, [slot.value for slot in slots])
    for slot, value in zip(slots, new_values, strict=True):
        slot.assign(value)
    table.assign(table.value - change)


def gradient_values(gradient: Any) -> Any:
    """Return the gradient: JAX's are dense."""
    return gradient


def with_gradient_values(gradient: Any, values: Any) -> Any:
    """Return the values."""
    return values


def norm_of(values: Sequence[jax.Array]) -> jax.Array:
    """Return the length of all values taken together."""
    return jax.numpy.sqrt(sum(jax.numpy.sum(each**2) for each in values))


def to_numpy(tensor: Any) -> np.ndarray:
    """Copy a tensor, or the value of a variable, to NumPy."""
    return np.array(tensor)


def _mapping(model: keras.Model, trainable: Values, other: Values) -> list[tuple[Any, jax.Array]]:
    known = zip(model.trainable_variables, trainable, strict=True)
    return [*known, *zip(model.non_trainable_variables, other, strict=True)]
