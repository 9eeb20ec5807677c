"""Gradients cut before a step: each element, then all of them together by their common length.

Keras cuts by the common length too, but makes every gradient dense for it; here the sparse ones of
tables stay so.

Reference: Pascanu, Mikolov & Bengio 2013, On the Difficulty of Training Recurrent Neural Networks.
"""

import keras
from keras import ops

from recsys.core.backends import (
    Optimizer,
    Tensor,
    gradient_values,
    norm_of,
    with_gradient_values,
)


class Clipped:
    """An optimizer that is given gradients of limited size.

    Args:
        optimizer: What takes the steps.
        largest_norm: Of all gradients together; None for no limit.
        largest_value: Of each element; None for no limit. It is applied first.
    """

    def __init__(
        self, optimizer: Optimizer, *, largest_norm: float | None, largest_value: float | None
    ) -> None:
        self.optimizer = optimizer
        self.largest_norm, self.largest_value = largest_norm, largest_value

    @property
    def variables(self) -> list[keras.Variable]:
        """Those of the optimizer."""
        return self.optimizer.variables

    def build(self, variables: list[keras.Variable]) -> None:
        """Make the optimizer's slots."""
        self.optimizer.build(variables)

    def apply(self, gradients: list[Tensor], variables: list[keras.Variable]) -> None:
        """Take one step; a row of a table comes once among the slices of its gradient."""
        self.optimizer.apply(self._clip(gradients), variables)

    def finalize_variable_values(self, variables: list[keras.Variable]) -> None:
        """Give variables their averages, where the optimizer keeps any."""
        self.optimizer.finalize_variable_values(variables)

    def _clip(self, gradients: list[Tensor]) -> list[Tensor]:
        values = [gradient_values(gradient) for gradient in gradients]
        if (limit := self.largest_value) is not None:
            values = [None if each is None else ops.clip(each, -limit, limit) for each in values]
        if self.largest_norm is not None:
            factor = ops.minimum(1.0, self.largest_norm / ops.maximum(norm_of(values), 1e-12))
            values = [None if each is None else each * factor for each in values]
        return [
            with_gradient_values(gradient, each)
            for gradient, each in zip(gradients, values, strict=True)
        ]
