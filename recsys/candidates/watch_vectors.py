"""What users watched, as one row of all items each: 1 where watched, 0 elsewhere."""

from collections.abc import Iterator

import numpy as np

from recsys.candidates.sequences import Labels
from recsys.core.random import stream
from recsys.data.timelines import WatchHistories
from recsys.errors import ConfigError

MAX_ITEMS = 100_000
"""Columns that a batch of rows may have: 100 users are then 40 MB."""


class WatchVectors:
    """Gives the batches of an epoch, a pure function of (seed, epoch): every user once.

    Args:
        labels: Training watches of trained items.
        num_items: N.
        batch_size: B.
        seed: Of the order of users.

    Raises:
        ConfigError: There are too many items.
    """

    def __init__(self, labels: Labels, num_items: int, batch_size: int, *, seed: int) -> None:
        if num_items > MAX_ITEMS:
            raise ConfigError(
                f"candidates.initial_items: an auto-encoder has a column for each item, expected "
                f"at most {MAX_ITEMS:,} of them, got {num_items:,}: take 'skip_gram', or 'random'"
            )
        self._num_items, self._batch_size, self._seed = num_items, batch_size, seed
        order = np.argsort(labels.user, kind="stable")
        self._item = labels.item[order]
        _, counts = np.unique(labels.user, return_counts=True)
        self._offsets = np.concatenate([[0], np.cumsum(counts)])

    def __call__(self, epoch: int) -> Iterator[dict[str, np.ndarray]]:
        """Yield `watched` float32 [B, N] and `weight` float32 [B], 0 for padding."""
        order = stream(self._seed, "users", epoch).permutation(len(self._offsets) - 1)
        for start in range(0, len(order), self._batch_size):
            users = order[start : start + self._batch_size]
            watched = np.zeros((self._batch_size, self._num_items), np.float32)
            for row, user in enumerate(users):
                watched[row, self._item[self._offsets[user] : self._offsets[user + 1]]] = 1
            weight = (np.arange(self._batch_size) < len(users)).astype(np.float32)
            yield {"watched": watched, "weight": weight}

    def num_batches(self) -> int:
        """Return the number of batches of an epoch."""
        return -(-(len(self._offsets) - 1) // self._batch_size)


def known_watches(histories: WatchHistories, labels: Labels, num_items: int) -> np.ndarray:
    """Return what was watched before each label, as far as it was known: float32 [L, N]."""
    watched = np.zeros((len(labels), num_items), np.float32)
    first = histories.offsets[labels.user]
    for row, (start, known) in enumerate(zip(first, labels.known_watches, strict=True)):
        watched[row, histories.code[start : start + known] - 1] = 1
    return watched
