"""What others watched right after an item, lately: a memory that needs no training.

Of every item the newest successors are known, as of any moment. The user vector leans towards the
output rows of those of the item watched last, so that what the crowd does now counts at once,
also for an item whose row is hardly trained; it stays one vector, searched by inner product.

References:
    Linden, Smith & York 2003, Amazon.com Recommendations: Item-to-Item Collaborative Filtering.
    Khandelwal et al. 2020, Generalization through Memorization: Nearest Neighbor Language Models
    (a net's prediction mixed with what followed in similar contexts).
"""

import numpy as np

from recsys.data.timelines import WatchHistories

MAX_GAP_US = 30 * 60 * 1_000_000
"""Watches of one user further apart do not follow each other."""


class Successors:
    """For every item the watches that followed it, in order of time.

    Args:
        histories: Watches of all users.
        num_items: N, trained items.
        refresh_us: Successors are known up to the last multiple of this before a moment.
    """

    def __init__(self, histories: WatchHistories, *, num_items: int, refresh_us: int) -> None:
        offsets, code, moment = histories.offsets, histories.code, histories.moment
        user = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        is_next = (user[1:] == user[:-1]) & (np.diff(moment) <= MAX_GAP_US)
        follows = np.flatnonzero(is_next) + 1
        item, known_at = code[follows - 1] - 1, moment[follows]
        order = np.lexsort((known_at, item))
        counts = np.bincount(item, minlength=num_items)
        # Laid out like the histories of users, but of items.
        self._followers = WatchHistories(
            np.concatenate([[0], np.cumsum(counts)]), code[follows][order], known_at[order]
        )
        self._refresh_us = refresh_us

    def newest(self, codes: np.ndarray, moments: np.ndarray, length: int) -> np.ndarray:
        """Return the newest successors of items as of moments.

        Args:
            codes: int32 [Q], items, 0 for none.
            moments: int64 [Q].
            length: L.

        Returns:
            int32 [Q, L], codes, oldest first, padded on the right with 0.
        """
        rows = np.maximum(codes, 1).astype(np.int64) - 1
        refreshes = moments // self._refresh_us * self._refresh_us
        known = self._num_before(rows, refreshes)
        return self._followers.newest(rows, np.where(codes > 0, known, 0), length)

    def _num_before(self, rows: np.ndarray, moments: np.ndarray) -> np.ndarray:
        """Return how many successors of items were known strictly before moments: int64 [Q].

        A bisection of all queries at once; each within the events of its item.
        """
        start, times = self._followers.offsets[rows], self._followers.moment
        low, high = start.copy(), self._followers.offsets[rows + 1].copy()
        while (low < high).any():
            middle = np.minimum((low + high) // 2, len(times) - 1)
            is_before = times[middle] < moments
            is_open = low < high
            low = np.where(is_open & is_before, middle + 1, low)
            high = np.where(is_open & ~is_before, middle, high)
        return low - start
