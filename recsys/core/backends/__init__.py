"""What differs between Keras's backends: gradients, compilation. One file each.

A backend module has `compile_step` (one optimizer step), `compile_call` (inference), and what reads
and changes rows of a table. Only the module of the backend that Keras runs on is imported.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Any, Protocol, TypeAlias

import keras
import numpy as np

from recsys.errors import TrainingError

Tensor: TypeAlias = Any
"""A tensor of whichever backend Keras runs on."""

Batch: TypeAlias = Mapping[str, Tensor]
Loss: TypeAlias = Callable[[Batch], tuple[Tensor, dict[str, Tensor]]]
"""Runs the model on a batch: (scalar loss, further scalars to report)."""

ArrayBatch: TypeAlias = Mapping[str, np.ndarray]

RowRule: TypeAlias = Callable[[Tensor, Sequence[Tensor]], tuple[Tensor, Sequence[Tensor]]]
"""(gradient [R, ...], slots [R, ...]) -> (what to subtract from the rows, new slots)."""


class Optimizer(Protocol):
    """What a step needs of an optimizer: one of Keras, or `RowSparse`.

    One that has `sums_repeated_rows = True` is given sparse gradients whose rows may repeat.
    """

    @property
    def variables(self) -> list[keras.Variable]:
        """Everything that changes, which a checkpoint has to hold."""

    def build(self, variables: list[keras.Variable]) -> None:
        """Make the slots of the variables to learn."""

    def apply(self, gradients: list[Tensor], variables: list[keras.Variable]) -> None:
        """Take one step."""

    def finalize_variable_values(self, variables: list[keras.Variable]) -> None:
        """Give variables their averages, where it keeps any."""


def compile_step(
    model: keras.Model, loss: Loss, optimizer: Optimizer, *, has_norm: bool = False
) -> Callable[[ArrayBatch], tuple[Tensor, dict[str, Tensor]]]:
    """Return a compiled function that takes one optimizer step on a batch.

    Args:
        model: Built; its trainable variables are what is learned.
        loss: Written with `keras.ops` only.
        optimizer: Built on the model's trainable variables.
        has_norm: Report the length of all gradients together, `gradient_norm`, as they come.
    """
    return _module().compile_step(model, loss, optimizer, has_norm=has_norm)


def compile_call(
    model: keras.Model, function: Callable[[Batch], Tensor]
) -> Callable[[ArrayBatch], np.ndarray]:
    """Return a compiled function that computes something of a model without changing it."""
    return _module().compile_call(model, function)


def gradients_of(
    function: Callable[[Batch], Tensor],
    variables: Sequence[keras.Variable],
    *,
    is_compiled: bool = True,
) -> Callable[[ArrayBatch], tuple[float, list[np.ndarray]]]:
    """Return a function that gives a scalar of a batch, and its gradients.

    Args:
        function: Batch -> scalar.
        variables: What the gradients are of, dense; zeros where the scalar does not depend on one.
        is_compiled: Pays from a few calls on. All other variables have to stay as they are then.
    """
    return _module().gradients_of(function, variables, is_compiled=is_compiled)


def backend_double_precision() -> AbstractContextManager[None]:
    """Let the backend hold float64 within the block; JAX does not by default."""
    return _module().double_precision()


def gather_rows(table: keras.Variable, codes: Tensor) -> Tensor:
    """Return rows of a table: [N, D], int [...] -> [..., D].

    Keras's own `ops.take` reads the whole variable under TensorFlow, so that each step copies it.
    """
    return _module().gather_rows(table, codes)


def update_rows(
    table: keras.Variable, slots: Sequence[keras.Variable], gradient: Tensor, rule: RowRule
) -> None:
    """Change a table and its slots by a rule that treats each row by itself.

    Under TensorFlow a sparse gradient makes the rule run on its rows alone, repeated ones summed,
    and nothing else of the table and its slots is read or written. A dense gradient, the only kind
    under JAX, makes it run on all rows: a rule must leave a row of zero gradient as it is.

    Args:
        table: [N, ...].
        slots: [N, ...] each.
        gradient: Of the table.
        rule: What becomes of rows.
    """
    _module().update_rows(table, slots, gradient, rule)


def sum_repeated_rows(gradient: Tensor) -> Tensor:
    """Return a gradient in which each row of a table comes once; all else as it is."""
    return _module().sum_repeated_rows(gradient)


def gradient_values(gradient: Tensor) -> Tensor:
    """Return the numbers of a gradient, those of its slices where it is sparse; None for None."""
    return _module().gradient_values(gradient)


def with_gradient_values(gradient: Tensor, values: Tensor) -> Tensor:
    """Return a gradient with other numbers in the same places."""
    return _module().with_gradient_values(gradient, values)


def norm_of(values: Sequence[Tensor]) -> Tensor:
    """Return the length of all values taken together: []; None among them counts for nothing."""
    return _module().norm_of(values)


def to_numpy(tensor: Tensor) -> np.ndarray:
    """Copy a tensor, or the value of a variable, to NumPy.

    Keras's own `convert_to_numpy` warns of a deprecation for TensorFlow's variables.
    """
    return _module().to_numpy(tensor)


def _module() -> ModuleType:
    name = keras.backend.backend()
    if name == "tensorflow":
        from recsys.core.backends import tensorflow

        return tensorflow
    if name == "jax":
        from recsys.core.backends import jax

        return jax
    raise TrainingError(
        f"Keras runs on the backend {name!r}; expected tensorflow or jax: "
        f"set KERAS_BACKEND to one of them before starting"
    )
