"""Gradients and compilation under JAX: `value_and_grad` over Keras's stateless scope, jitted."""

from collections.abc import Callable
from typing import Any

import jax
import keras
import numpy as np

Batch = dict[str, Any]
Values = list[jax.Array]


def compile_step(
    model: keras.Model,
    loss: Callable[[Batch], tuple[jax.Array, dict[str, jax.Array]]],
    optimizer: keras.Optimizer,
) -> Callable[[Batch], tuple[jax.Array, dict[str, jax.Array]]]:
    """Return a compiled function that takes one optimizer step on a batch."""
    variables = (model.trainable_variables, model.non_trainable_variables, optimizer.variables)

    def forward(trainable: Values, other: Values, batch: Batch) -> tuple[jax.Array, Any]:
        with keras.StatelessScope(_mapping(model, trainable, other)) as scope:
            value, figures = loss(batch)
        changed = [scope.get_current_value(variable) for variable in variables[1]]
        return value, (figures, changed)

    @jax.jit  # type: ignore[untyped-decorator]
    def step(state: tuple[Values, Values, Values], batch: Batch) -> tuple[Any, Any, Any]:
        trainable, other, slots = state
        differentiate = jax.value_and_grad(forward, has_aux=True)
        (value, (figures, other)), gradients = differentiate(trainable, other, batch)
        trainable, slots = optimizer.stateless_apply(slots, gradients, trainable)
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


def gather_rows(table: keras.Variable, codes: Any) -> jax.Array:
    """Return rows of a table: [N, D], int [...] -> [..., D]."""
    return keras.ops.take(table.value, codes, axis=0)


def to_numpy(tensor: Any) -> np.ndarray:
    """Copy a tensor, or the value of a variable, to NumPy."""
    return np.array(tensor)


def _mapping(model: keras.Model, trainable: Values, other: Values) -> list[tuple[Any, jax.Array]]:
    known = zip(model.trainable_variables, trainable, strict=True)
    return [*known, *zip(model.non_trainable_variables, other, strict=True)]
