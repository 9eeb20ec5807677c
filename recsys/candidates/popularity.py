"""How often items were watched lately, as of any moment: what a net of yesterday cannot know.

The score of an item gets sum_k weight_k(user, context) f_k(watches in the last m minutes), with the
columns f of `recsys.candidates.counts` for each of the windows m, added to the inner product of the
vectors; the weights are outputs of the user tower, so that the sum is an inner product again.
Counts are those known at the last refresh before the moment: with
a refresh as long as bundles are served, training sees them as stale as serving does.
"""

from functools import lru_cache

import numpy as np

from recsys.candidates.counts import count_columns

MICROSECONDS_PER_MINUTE = 60_000_000
MAX_CACHED_REFRESHES = 64


class RecentPopularity:
    """Counts of watches in windows that end at the last refresh.

    Args:
        items: int32 [W], rows of the watched items; others than 0 to N - 1 are left out.
        moments: int64 [W], microseconds, when each watch was known.
        num_items: N.
        minutes: Lengths of the K windows.
        refresh_minutes: The counts change at multiples of this since the epoch (UTC).
    """

    def __init__(
        self,
        items: np.ndarray,
        moments: np.ndarray,
        *,
        num_items: int,
        minutes: tuple[int, ...],
        refresh_minutes: int,
    ) -> None:
        kept = np.flatnonzero((items >= 0) & (items < num_items))
        kept = kept[np.argsort(moments[kept], kind="stable")]
        self._items, self._moments = items[kept], moments[kept]
        self.num_items = num_items
        self._windows = [each * MICROSECONDS_PER_MINUTE for each in minutes]
        self._refresh = refresh_minutes * MICROSECONDS_PER_MINUTE
        self.columns = lru_cache(MAX_CACHED_REFRESHES)(self._columns)
        """Like `_columns`; neighbours in time ask for the same refreshes."""

    def refreshes(self, moments: np.ndarray) -> np.ndarray:
        """Return the last refresh at or before each moment: int64 [...], microseconds."""
        return moments // self._refresh * self._refresh

    def _columns(self, refresh: int) -> np.ndarray:
        """Return the watches of all items in the windows before a refresh: float32 [N, K]."""
        end = np.searchsorted(self._moments, refresh)
        counts = [
            np.bincount(
                self._items[np.searchsorted(self._moments, refresh - window) : end],
                minlength=self.num_items,
            )
            for window in self._windows
        ]
        return count_columns(np.stack(counts, axis=1))
