"""Rules that learn the rows of a table each by itself; a row of zero gradient stays as it is.

A rule is given the gradients and slots of some rows, whose duplicates are already summed, and
returns what to subtract from the rows, and their new slots. It does not matter whether rows of zero
gradient are among them, so the rows of a batch and all rows give the same table.

References:
    Duchi, Hazan & Singer 2011, Adaptive Subgradient Methods for Online Learning and Stochastic
    Optimization.
    Kingma & Ba 2015, Adam: A Method for Stochastic Optimization.
    Mudigere et al. 2022, Software-Hardware Co-design for Fast and Scalable Training of Deep
    Learning Recommendation Models (Adagrad with one accumulator a row).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from keras import ops

from recsys.core.backends import Tensor

Shape = tuple[int, ...]


class TableRule(Protocol):
    """How rows change."""

    def slot_shapes(self, shape: Shape) -> tuple[Shape, ...]:
        """Return the shapes of the slots of a table [N, ...]; they start at 0."""

    def __call__(
        self, gradient: Tensor, slots: Sequence[Tensor], learning_rate: Tensor
    ) -> tuple[Tensor, Sequence[Tensor]]:
        """Return what to subtract from rows, and their new slots.

        Args:
            gradient: float [R, ...], of distinct rows.
            slots: float [R, ...] each.
            learning_rate: Scalar.
        """


@dataclass(frozen=True)
class Adagrad:
    """a <- a + g^2; w <- w - lr g / (sqrt(a) + epsilon), Duchi et al. 2011, figure 1, diagonal.

    The accumulator starts at 0, not at Keras's .1, which would drown the squares that come from the
    mean over a batch (1e-6 and less) and leave plain gradient descent with a tiny step.

    Args:
        epsilon: Keeps 0 / 0 away.
    """

    epsilon: float = 1e-8

    def slot_shapes(self, shape: Shape) -> tuple[Shape, ...]:
        """One accumulator an element."""
        return (shape,)

    def __call__(
        self, gradient: Tensor, slots: Sequence[Tensor], learning_rate: Tensor
    ) -> tuple[Tensor, Sequence[Tensor]]:
        """Take one step."""
        (accumulator,) = slots
        accumulator = accumulator + ops.square(gradient)
        return learning_rate * gradient / (ops.sqrt(accumulator) + self.epsilon), (accumulator,)


@dataclass(frozen=True)
class RowAdagrad:
    """a <- a + mean_d g_d^2; w <- w - lr g / (sqrt(a) + epsilon), a one number a row.

    A table of width D has slots of 1 / D of its size, where Adam has twice its size.

    Args:
        epsilon: Keeps 0 / 0 away.
    """

    epsilon: float = 1e-8

    def slot_shapes(self, shape: Shape) -> tuple[Shape, ...]:
        """One accumulator a row."""
        return (_one_a_row(shape),)

    def __call__(
        self, gradient: Tensor, slots: Sequence[Tensor], learning_rate: Tensor
    ) -> tuple[Tensor, Sequence[Tensor]]:
        """Take one step."""
        (accumulator,) = slots
        accumulator = accumulator + _of_rows(ops.mean, ops.square(gradient))
        # One division a row, not one an element.
        return gradient * (learning_rate / (ops.sqrt(accumulator) + self.epsilon)), (accumulator,)


@dataclass(frozen=True)
class LazyAdam:
    """Adam (Kingma & Ba 2015, algorithm 1) over the steps in which a row has a gradient.

    m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) g^2;  t <- t + 1
    w <- w - lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + epsilon)

    t counts the steps of the row, not those of the training as LazyAdam of TensorFlow Addons does:
    with the latter, the moments of a row first met late start at 0, uncorrected, and
    its first step is (1 - b1) / sqrt(1 - b2) = 3.2 learning rates long, its tenth 6.5. Where a row
    has a gradient in every step this is Adam. Elsewhere it is not: dense Adam moves a row on after
    its one gradient, by 30 learning rates in all.

    Args:
        beta_1: b1, of the mean.
        beta_2: b2, of the square.
        epsilon: That of the algorithm. Keras's 1e-7 stands beside sqrt(v) uncorrected: a first step
            on a gradient of 1e-5 is a quarter too short by it.
    """

    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8

    def slot_shapes(self, shape: Shape) -> tuple[Shape, ...]:
        """Both moments of each element, the steps of each row."""
        return (shape, shape, _one_a_row(shape))

    def __call__(
        self, gradient: Tensor, slots: Sequence[Tensor], learning_rate: Tensor
    ) -> tuple[Tensor, Sequence[Tensor]]:
        """Take one step."""
        m, v, t = slots
        is_met = _of_rows(ops.any, ops.not_equal(gradient, 0))
        t = t + ops.cast(is_met, t.dtype)
        m = ops.where(is_met, self.beta_1 * m + (1 - self.beta_1) * gradient, m)
        v = ops.where(is_met, self.beta_2 * v + (1 - self.beta_2) * ops.square(gradient), v)
        steps = ops.maximum(t, 1.0)  # rows never met would divide 0 by 0
        root = ops.sqrt(1 - self.beta_2**steps)
        # One division an element: mean / (sqrt(square) + epsilon), times root above and below.
        change = learning_rate * root / (1 - self.beta_1**steps) * m
        change = change / (ops.sqrt(v) + self.epsilon * root)
        return ops.where(is_met, change, 0.0), (m, v, t)


def _of_rows(reduce: Callable[..., Tensor], values: Tensor) -> Tensor:
    """Reduce each row to one number: [R, ...] -> [R, 1, ...]; a row may be a number already."""
    columns = tuple(range(1, len(values.shape)))
    return reduce(values, axis=columns, keepdims=True) if columns else values


def _one_a_row(shape: Shape) -> Shape:
    return (shape[0], *(1 for _ in shape[1:]))
