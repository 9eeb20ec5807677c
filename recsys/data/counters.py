"""Item counters as of a moment: impressions, outcomes, watches, clicks, watch time.

An impression counts strictly after it began, everything else strictly after its outcome became
known. Events of equal moments see none of each other.
"""

from dataclasses import dataclass, fields

import numpy as np

from recsys.data.as_of import AsOf
from recsys.data.examples import ITEM_COUNTERS


@dataclass(frozen=True)
class CountedEvents:
    """What the counters need to know of E events.

    Args:
        moment, outcome_moment: int64 [E].
        values: int64 [E, 5], what each event adds to each of `ITEM_COUNTERS`.
    """

    moment: np.ndarray
    outcome_moment: np.ndarray
    values: np.ndarray

    def take(self, chosen: np.ndarray) -> "CountedEvents":
        """Return the chosen events (indices or mask)."""
        return CountedEvents(**{f.name: getattr(self, f.name)[chosen] for f in fields(self)})


def counted_values(
    is_impression: np.ndarray, watch_ms: np.ndarray, is_watch: np.ndarray, clicked: np.ndarray
) -> np.ndarray:
    """Return what each event adds to the counters: int64 [E, 5]; unknowns (-1) add nothing."""
    columns = (is_impression, watch_ms >= 0, is_watch, clicked > 0, np.maximum(watch_ms, 0))
    return np.stack([np.asarray(column, np.int64) for column in columns], axis=1)


def counters_as_of(
    events: CountedEvents, keys: np.ndarray, query_keys: np.ndarray, query_moments: np.ndarray
) -> np.ndarray:
    """Total the counters of a key that are known at a moment.

    Args:
        events: [E].
        keys: int64 [E], item or channel of each event.
        query_keys, query_moments: int64 [Q].

    Returns:
        int64 [Q, 5].
    """
    shown = AsOf(keys, events.moment, query_keys, query_moments)
    known = AsOf(keys, events.outcome_moment, query_keys, query_moments)
    totals = np.empty((len(query_keys), len(ITEM_COUNTERS)), np.int64)
    totals[:, :1] = shown.sums(events.values[:, :1])
    totals[:, 1:] = known.sums(events.values[:, 1:])
    return totals


def total_counters(
    events: CountedEvents, keys: np.ndarray, num_keys: int, until: int
) -> np.ndarray:
    """Total the counters of every key that are known at one moment: int64 [num_keys, 5]."""
    totals = np.zeros((num_keys, len(ITEM_COUNTERS)), np.int64)
    shown, known = events.moment < until, events.outcome_moment < until
    for column in range(len(ITEM_COUNTERS)):
        counted = shown if column == 0 else known
        # Sums of whole numbers are exact in float64 up to 2**53 ms, 285,000 years of watching.
        weights = events.values[counted, column]
        totals[:, column] = np.bincount(keys[counted], weights, num_keys).astype(np.int64)
    return totals
