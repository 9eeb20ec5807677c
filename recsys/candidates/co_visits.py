"""Which items are watched near each other by the same users: the classic that needs no training.

The similarity of items a and b is n_ab / sqrt(n_a n_b), with n_ab how often one was watched within
a few watches of the other, and n_a how often a was at all: the cosine of their columns.

References:
    Linden, Smith & York 2003, Amazon.com Recommendations: Item-to-Item Collaborative Filtering.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from recsys.data.timelines import WatchHistories

NUM_NEIGHBOURS = 50
REACH = 5
"""Watches further apart in a history are not near each other."""
NOBODY = -1


@dataclass(frozen=True)
class CoVisits:
    """The nearest items of each trained one, nearest first.

    Args:
        rows: int32 [n, K], catalogue rows, padded with -1.
        similarity: float32 [n, K], 0 for padding.
    """

    rows: np.ndarray
    similarity: np.ndarray


def count_co_visits(histories: Iterable[WatchHistories], *, num_items: int, until: int) -> CoVisits:
    """Count the pairs in the histories of all users.

    Args:
        histories: Of some users each; one part is held at a time.
        num_items: n, trained items.
        until: Watches known at this moment or later are not counted.
    """
    watches = np.zeros(num_items, np.int64)
    pairs, times = np.zeros(0, np.int64), np.zeros(0, np.int64)
    for part in histories:
        item, user = _known(part, until)
        watches += np.bincount(item, minlength=num_items)
        near = _pairs(item, user, num_items)
        pairs, number = np.unique(np.concatenate([pairs, near]), return_inverse=True)
        weights = np.concatenate([times, np.ones(len(near), np.int64)])
        times = np.bincount(number, weights, len(pairs)).astype(np.int64)
    return _nearest(pairs, times, watches)


def _known(histories: WatchHistories, until: int) -> tuple[np.ndarray, np.ndarray]:
    user = np.repeat(np.arange(len(histories.offsets) - 1), np.diff(histories.offsets))
    known = histories.moment < until
    return histories.code[known].astype(np.int64) - 1, user[known]


def _pairs(item: np.ndarray, user: np.ndarray, num_items: int) -> np.ndarray:
    """Return a * n + b for every two different items near each other, both ways: int64 [P]."""
    found = [np.zeros(0, np.int64)]
    for apart in range(1, REACH + 1):
        one, other = item[:-apart], item[apart:]
        is_near = (user[:-apart] == user[apart:]) & (one != other)
        one, other = one[is_near], other[is_near]
        found += [one * num_items + other, other * num_items + one]
    return np.concatenate(found)


def _nearest(pairs: np.ndarray, times: np.ndarray, watches: np.ndarray) -> CoVisits:
    """Keep the most similar of each item; equal ones by row."""
    num_items = len(watches)
    item, other = np.divmod(pairs, max(num_items, 1))
    similarity = times / np.sqrt(watches[item] * watches[other].astype(np.float64))
    order = np.lexsort((other, -similarity, item))
    item, other, similarity = item[order], other[order], similarity[order]
    first = np.searchsorted(item, np.arange(num_items))
    place = np.arange(len(item)) - first[item]
    kept = place < NUM_NEIGHBOURS
    rows = np.full((num_items, NUM_NEIGHBOURS), NOBODY, np.int32)
    of_rows = np.zeros((num_items, NUM_NEIGHBOURS), np.float32)
    rows[item[kept], place[kept]] = other[kept]
    of_rows[item[kept], place[kept]] = similarity[kept]
    return CoVisits(rows, of_rows)
