"""When an event happened, and when its outcome became known.

A moment is a time in microseconds since the epoch, or the sequence number of an event that knows
only its order; such events lie before all timed ones.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from recsys.data.columns import integers

MICROSECONDS_PER_MS = 1000
NO_TIME = -(2**63)


@dataclass(frozen=True)
class Moments:
    """Moments of E events.

    Args:
        event: int64 [E].
        outcome: int64 [E], never before the event's.
        has_time: bool [E], whether they are times.
    """

    event: np.ndarray
    outcome: np.ndarray
    has_time: np.ndarray

    def take(self, chosen: np.ndarray) -> "Moments":
        """Return the moments of the chosen events (indices or mask)."""
        return Moments(self.event[chosen], self.outcome[chosen], self.has_time[chosen])


def event_moments(events: pa.Table) -> Moments:
    """Take the moments out of an events table.

    The outcome is known at `outcome_time`, or else when the watch ended, or else (watch time
    unknown, or no times at all) at the moment of the event.
    """
    time = integers(events, "event_time", NO_TIME)
    has_time = time != NO_TIME
    event = np.where(has_time, time, integers(events, "sequence", 0))
    watched = np.maximum(integers(events, "watch_ms"), 0) * MICROSECONDS_PER_MS
    stated = integers(events, "outcome_time", NO_TIME)
    outcome = np.where(stated != NO_TIME, np.maximum(stated, event), event + watched)
    return Moments(event, np.where(has_time, outcome, event), has_time)
