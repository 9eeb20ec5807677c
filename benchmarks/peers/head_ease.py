"""EASE of the most watched items, for catalogues whose item by item matrix does not fit."""

import numpy as np

from recsys.evaluation.baselines import Ease, Watches

NUM_ITEMS = 8_000


class HeadEase:
    """EASE as if the other items did not exist: it neither knows nor recommends them.

    Args:
        ease: Fitted on the most watched items alone, which are the first rows of a catalogue.
        num_head: How many these are.
    """

    def __init__(self, ease: Ease, num_head: int) -> None:
        self._ease, self._num_head = ease, num_head

    @classmethod
    def fit(cls, watches: Watches, num_items: int) -> "HeadEase":
        """Fit on the watches of the first rows."""
        num_head = min(NUM_ITEMS, num_items)
        return cls(Ease.fit(_head_of(watches, num_head), num_head), num_head)

    def recommend(self, histories: Watches, k: int, *, seen_filtered: bool) -> np.ndarray:
        """Return the k best of the most watched items: int64 [Q, k]."""
        head = _head_of(histories, self._num_head)
        return self._ease.recommend(head, k, seen_filtered=seen_filtered)


def _head_of(watches: Watches, num_items: int) -> Watches:
    kept = watches.items < num_items
    before = np.concatenate([[0], np.cumsum(kept)])
    moments = None if watches.moments is None else watches.moments[kept]
    return Watches(before[watches.offsets], watches.items[kept], moments)
