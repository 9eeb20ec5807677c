"""Minimisation over all examples at once by SciPy: for heads, calibration, and other small nets.

A loss that is smooth and the same at every call has curvature to learn from, which no optimizer of
single batches can: a convex head is solved in tens of passes. With a large net, a step of Adam on
each batch gets further in the time of one pass.

References:
    Liu & Nocedal 1989, On the Limited Memory BFGS Method for Large Scale Optimization.
    Nocedal & Wright 2006, Numerical Optimization, chapters 5 (nonlinear conjugate gradient, with
    Polak and Ribiere's step in SciPy) and 6 (BFGS).
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import keras
import numpy as np
from scipy import optimize

from recsys.core.backends import ArrayBatch, Loss, gradients_of, to_numpy

Method = Literal["l-bfgs", "bfgs", "cg"]
METHODS = {"l-bfgs": "L-BFGS-B", "bfgs": "BFGS", "cg": "CG"}
"""By the name in the settings. BFGS holds a matrix, as many rows and columns as there are weights.
"""


@dataclass(frozen=True)
class Minimum:
    """Where a minimisation ended.

    Args:
        first_loss, loss: At the start and at the end, penalty included.
        num_iterations: Steps taken.
        num_passes: Over all examples.
        reason: Why it ended, in SciPy's words.
    """

    first_loss: float
    loss: float
    num_iterations: int
    num_passes: int
    reason: str


def minimize(
    loss: Loss,
    variables: Sequence[keras.Variable],
    batches: Callable[[], Iterable[ArrayBatch]],
    *,
    method: Method,
    max_iterations: int,
    penalty: float = 0.0,
    max_seconds: float | None = None,
    is_enough: Callable[[], bool] | None = None,
) -> Minimum:
    """Minimise the mean loss over all batches; the variables are left where it was least.

    Args:
        loss: As of a training, but the same at every call: without dropout.
        variables: What is moved; all others stay as they are.
        batches: The examples, the same at every call.
        method: Of SciPy.
        max_iterations: Steps at most.
        penalty: Times half the squared distance from the start: holds what few examples say back.
        max_seconds: No further step is begun after so long; None for no limit.
        is_enough: Asked after each step, the variables as it left them; ends it when true.
    """
    problem = _Problem(loss, variables, batches, penalty)
    deadline = None if max_seconds is None else time.monotonic() + max_seconds

    def after_step(intermediate_result: optimize.OptimizeResult) -> None:
        if deadline is not None and time.monotonic() > deadline:
            raise StopIteration
        if is_enough is not None:
            problem.assign(intermediate_result.x)
            if is_enough():
                raise StopIteration

    found = optimize.minimize(
        problem,
        problem.start,
        jac=True,
        method=METHODS[method],
        callback=after_step,
        options={"maxiter": max_iterations},
    )
    problem.assign(problem.best)
    return Minimum(
        problem.first_loss, problem.best_loss, int(found.nit), problem.num_passes, found.message
    )


class _Problem:
    """The mean loss and its gradient, of all variables as one vector of float64."""

    def __init__(
        self,
        loss: Loss,
        variables: Sequence[keras.Variable],
        batches: Callable[[], Iterable[ArrayBatch]],
        penalty: float,
    ) -> None:
        self.variables, self.batches, self.penalty = variables, batches, penalty
        self.differentiate = gradients_of(lambda batch: loss(batch)[0], variables)
        self.start = flatten([to_numpy(variable.value) for variable in variables])
        self.best, self.best_loss, self.first_loss = self.start, np.inf, np.nan
        self.num_passes = 0

    def __call__(self, weights: np.ndarray) -> tuple[float, np.ndarray]:
        self.assign(weights)
        total, gradient, count = 0.0, np.zeros_like(weights), 0.0
        for batch in self.batches():
            value, gradients = self.differentiate(batch)
            share = float(np.sum(batch["weight"]))
            total, count = total + share * value, count + share
            gradient += share * flatten(gradients)
        moved = weights - self.start
        value = total / count + self.penalty * float(moved @ moved) / 2
        self._note(weights, value)
        return value, gradient / count + self.penalty * moved

    def assign(self, weights: np.ndarray) -> None:
        """Give the variables their parts of a vector."""
        sizes = [int(np.prod(variable.shape)) for variable in self.variables]
        parts = np.split(weights, np.cumsum(sizes)[:-1])
        for variable, part in zip(self.variables, parts, strict=True):
            variable.assign(part.reshape(variable.shape))

    def _note(self, weights: np.ndarray, value: float) -> None:
        if self.num_passes == 0:
            self.first_loss = value
        self.num_passes += 1
        # A line search that float32 has misled may end above where it has been.
        if value < self.best_loss:
            self.best, self.best_loss = weights.copy(), value


def flatten(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Return arrays one after another as one vector: float64."""
    return np.concatenate([np.ravel(array).astype(np.float64) for array in arrays])
