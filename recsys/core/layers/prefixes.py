"""Picks what a sequence layer knew at chosen moments."""

from keras import ops

from recsys.core.backends import Tensor


def at_prefixes(states: Tensor, positions: Tensor) -> Tensor:
    """Return the state of each prefix: float [B, S, D], int [B, P] below S -> [B, P, D].

    A product with a matrix of ones and zeros: its gradient is a product too, where that of a
    lookup would add row by row.
    """
    time = ops.arange(ops.shape(states)[1], dtype=positions.dtype)
    chosen = ops.cast(ops.equal(positions[..., None], time), states.dtype)  # [B, P, S]
    return ops.matmul(chosen, states)
