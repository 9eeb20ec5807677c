"""Batches of impressions with their contexts for the neural process, all of one shape."""

from collections.abc import Iterator

import numpy as np

from recsys.core.random import stream
from recsys.exploration.features import PADDING
from recsys.exploration.rows import ExplorationRows


class ExplorationBatches:
    """Shuffled training batches, their contexts cut to random sizes.

    Args:
        rows: All impressions.
        chosen: int64 [n], those to train on.
        batch_size: Rows a batch; the last one is filled up with rows of weight 0.
        order: Whether the `newest` or `random` watches stay in a cut context.
        seed: Of the order and the cuts.
    """

    def __init__(
        self,
        rows: ExplorationRows,
        chosen: np.ndarray,
        batch_size: int,
        *,
        order: str,
        seed: int,
    ) -> None:
        self._rows, self._chosen, self._batch_size = rows, chosen, batch_size
        self._order, self._seed = order, seed
        self._sizes = rows.context_sizes()
        self._log_seconds = rows.log_seconds

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return -(-len(self._chosen) // self._batch_size)

    def __call__(self, epoch: int) -> Iterator[dict[str, np.ndarray]]:
        """Yield the batches of an epoch, always the same for the same epoch."""
        rng = stream(self._seed, "exploration_batches", epoch)
        order = rng.permutation(self._chosen)
        for start in range(0, len(order), self._batch_size):
            chosen = order[start : start + self._batch_size]
            yield self._batch(chosen, self._cut(chosen, rng))

    def in_order(self) -> Iterator[dict[str, np.ndarray]]:
        """Yield the chosen rows in their own order, with the whole of their contexts."""
        for start in range(0, len(self._chosen), self._batch_size):
            chosen = self._chosen[start : start + self._batch_size]
            yield self._batch(chosen, self._rows.context[chosen])

    def _cut(self, chosen: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Cut each context to a size drawn evenly from 0 to its own: int32 [B, T].

        Sizes drawn from 0 to T alike would leave nearly all of the many short contexts whole.
        """
        context = self._rows.context[chosen]
        if self._order == "random":
            draws = np.where(context == PADDING, 2.0, rng.random(context.shape))
            context = np.take_along_axis(context, np.argsort(draws, axis=1), axis=1)
        size = rng.integers(0, self._sizes[chosen] + 1)
        return np.where(np.arange(context.shape[1]) < size[:, None], context, PADDING)

    def _batch(self, chosen: np.ndarray, context: np.ndarray) -> dict[str, np.ndarray]:
        present = len(chosen)
        missing = self._batch_size - present
        chosen = np.concatenate([chosen, np.repeat(chosen[:1], missing)])
        context = np.concatenate([context, np.repeat(context[:1], missing, axis=0)])
        completed = self._rows.impressions.completed[chosen]
        return self._rows.inputs(chosen, context) | {
            "outcome": self._log_seconds[chosen],
            "completed": (completed > 0).astype(np.float32),
            "completed_weight": (completed >= 0).astype(np.float32),
            "weight": (np.arange(self._batch_size) < present).astype(np.float32),
        }
