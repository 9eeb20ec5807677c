"""What was watched right after the user's last item, lately: the strongest simple rule for news.

The score of an item is log(1 + watches in the last minutes) + weight log(1 + successions), where
a succession of age a counts exp(-a / decay). Counted anew for every query, from all watches that
were known strictly before it.
"""

import numpy as np

from recsys.evaluation.baselines import Watches

MICROSECONDS_PER_MINUTE = 60_000_000
MAX_GAP_US = 30 * MICROSECONDS_PER_MINUTE
NUM_SCORED = 400
"""Most popular items that are scored beside the successors."""


class RecentSuccessors:
    """Ranks by recent popularity and by what recently followed the last item.

    Args:
        watches: Of all users, with moments.
        num_items: N.
        minutes: Window of the popularity.
        decay_minutes: Of the successions.
        weight: Of the successions; 0 is recent popularity alone.
        is_frozen_at: Nothing from this moment on is counted; None counts up to each query.
    """

    def __init__(
        self,
        watches: Watches,
        num_items: int,
        *,
        minutes: float,
        decay_minutes: float = 60.0,
        weight: float = 2.0,
        is_frozen_at: int | None = None,
    ) -> None:
        if watches.moments is None:
            raise ValueError("recent successors need watches with moments")
        self._num_items, self._weight, self._frozen_at = num_items, weight, is_frozen_at
        self._window = int(minutes * MICROSECONDS_PER_MINUTE)
        self._decay = decay_minutes * MICROSECONDS_PER_MINUTE
        order = np.argsort(watches.moments, kind="stable")
        self._times, self._items = watches.moments[order], watches.items[order]
        user = np.repeat(np.arange(len(watches)), np.diff(watches.offsets))
        gap = np.diff(watches.moments)
        follows = np.flatnonzero((user[1:] == user[:-1]) & (gap <= MAX_GAP_US)) + 1
        first, moment = watches.items[follows - 1], watches.moments[follows]
        order = np.lexsort((moment, first))
        self._after, self._after_times = watches.items[follows][order], moment[order]
        self._start = np.searchsorted(first[order], np.arange(num_items + 1))

    def recommend(
        self, histories: Watches, k: int, *, seen_filtered: bool, moments: np.ndarray
    ) -> np.ndarray:
        """Return the k best items of each query at its moment, padded with -1: int64 [Q, k]."""
        found = np.full((len(histories), k), -1, np.int64)
        for query in range(len(histories)):
            seen = histories.items[histories.offsets[query] : histories.offsets[query + 1]]
            now = moments[query] if self._frozen_at is None else self._frozen_at
            scores = self._scores(int(now), seen)
            if seen_filtered:
                scores[seen] = 0
            head = np.argpartition(-scores, min(NUM_SCORED, len(scores) - 1))[:NUM_SCORED]
            best = head[np.lexsort((head, -scores[head]))][:k]
            best = best[scores[best] > 0]
            found[query, : len(best)] = best
        return found

    def _scores(self, now: int, seen: np.ndarray) -> np.ndarray:
        """Return the score of every item: float64 [N], 0 for never watched lately."""
        start, end = np.searchsorted(self._times, [now - self._window, now])
        scores = np.log1p(np.bincount(self._items[start:end], minlength=self._num_items))
        if len(seen) and self._weight:
            own = slice(self._start[seen[-1]], self._start[seen[-1] + 1])
            known = np.searchsorted(self._after_times[own], now)
            ages = now - self._after_times[own][:known]
            successions = np.bincount(
                self._after[own][:known], np.exp(-ages / self._decay), self._num_items
            )
            scores = scores + self._weight * np.log1p(successions)
        return scores
