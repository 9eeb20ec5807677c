"""What others watched right after an item, lately: a memory that needs no training.

Of every item the newest successors are known, as of any moment. An item that is n times among
those of the user's last item gains sum_w weight_w f_w(n), with the columns f of
`recsys.candidates.counts` for n among the newest so many: what the crowd does now counts at once,
also for an item whose row is hardly trained. These few items are scored beside those that the index
finds by inner product, so the best of both are the best of all.

References:
    Linden, Smith & York 2003, Amazon.com Recommendations: Item-to-Item Collaborative Filtering.
    Khandelwal et al. 2020, Generalization through Memorization: Nearest Neighbor Language Models
    (a net's prediction mixed with what followed in similar contexts).
"""

from dataclasses import dataclass

import numpy as np

from recsys.candidates.counts import count_columns
from recsys.candidates.sequences import Labels
from recsys.data.timelines import WatchHistories

MAX_GAP_US = 30 * 60 * 1_000_000
"""Watches of one user further apart do not follow each other."""


@dataclass(frozen=True)
class SuccessorCounts:
    """How often items are among the successors of queries; only those that are.

    Args:
        query: int64 [n]; code: int32 [n], each pair once, ascending.
        columns: float32 [n, W], see `recsys.candidates.counts`.
    """

    query: np.ndarray
    code: np.ndarray
    columns: np.ndarray


def count_successors(successors: np.ndarray, windows: tuple[int, ...]) -> SuccessorCounts:
    """Count the items among the newest successors of each query.

    Args:
        successors: int32 [Q, L], from `Successors.newest`.
        windows: W lengths, at most L.
    """
    is_known = successors > 0
    age = is_known.sum(axis=1)[:, None] - np.arange(successors.shape[1])  # 1 for the newest
    query, column = np.nonzero(is_known)
    code = successors[query, column].astype(np.int64)
    width = int(code.max(initial=0)) + 1
    pairs, number = np.unique(query * width + code, return_inverse=True)
    of_entries = age[query, column]
    counts = [np.bincount(number, of_entries <= window, len(pairs)) for window in windows]
    columns = count_columns(np.stack(counts, axis=1))
    return SuccessorCounts(pairs // width, (pairs % width).astype(np.int32), columns)


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

    def of_labels(
        self, histories: WatchHistories, labels: Labels, chosen: np.ndarray, length: int
    ) -> np.ndarray:
        """Return the newest successors of the last watch before some labels: int32 [Q, L]."""
        last = histories.newest_code(labels.user[chosen], labels.known_watches[chosen])
        return self.newest(last, labels.moment[chosen], length)

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
