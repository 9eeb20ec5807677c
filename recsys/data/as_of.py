"""Running totals as of a moment: the rule by which no feature can see the future.

An event counts for a query only if it happened strictly before the query's moment, so events at
equal moments never see one another. Moments are int64: microseconds since the epoch where the
log has times, the sequence number where it knows only order.
"""

import numpy as np


class AsOf:
    """Events grouped by key, looked up by (key, moment) queries.

    Args:
        keys: int64 [E], the group of each event.
        moments: int64 [E].
        query_keys: int64 [Q].
        query_moments: int64 [Q]; a query sees the events of its key with a smaller moment.
    """

    def __init__(
        self,
        keys: np.ndarray,
        moments: np.ndarray,
        query_keys: np.ndarray,
        query_moments: np.ndarray,
    ) -> None:
        num_events = len(keys)
        all_keys = np.concatenate([keys, query_keys])
        all_moments = np.concatenate([moments, query_moments])
        is_event = np.arange(len(all_keys)) < num_events
        # Queries sort before events at equal moments: strictly before, never at.
        order = np.lexsort((is_event, all_moments, all_keys))
        self._order = order[is_event[order]]
        events_before = np.cumsum(is_event[order])
        end = np.empty(len(all_keys), np.int64)
        end[order] = events_before
        self._end = end[num_events:]
        self._start = np.searchsorted(keys[self._order], query_keys, side="left")

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Return the sum of the events seen by each query: int64 [E, ...] -> int64 [Q, ...]."""
        totals = np.zeros((len(values) + 1, *values.shape[1:]), np.int64)
        np.cumsum(values[self._order], axis=0, out=totals[1:])
        return totals[self._end] - totals[self._start]

    def counts(self) -> np.ndarray:
        """Return how many events each query sees: int64 [Q]."""
        return self._end - self._start

    def last(self, values: np.ndarray, missing: int) -> np.ndarray:
        """Return the value of the newest event that each query sees: [E] -> [Q]."""
        seen = self._end > self._start
        out = np.full(len(self._end), missing, values.dtype)
        out[seen] = values[self._order[self._end[seen] - 1]]
        return out
