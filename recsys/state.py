"""What is known of a user as of a moment: events, searches, attributes, in external ids.

State changes with every event and outlives bundles, so it never holds a row of any catalogue.
The server's store keeps one `UserState` a user; offline evaluation rebuilds it from the log.
"""

from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

UNKNOWN = -1


@dataclass(frozen=True)
class UserEvents:
    """One user's events in columns, ordered by moment.

    Args:
        item_id: Bytes [E] (NumPy `S`), external ids.
        event_id: Bytes [E], empty where the log gives none.
        moment: int64 [E], microseconds since the epoch, or a sequence number where `has_time`
            is false.
        outcome_moment: int64 [E]; `has_time`: bool [E].
        watch_ms: int64 [E], -1 unknown.
        clicked: int8 [E], -1 unknown.
        watch_label: int8 [E], the column of the `WatchRule`, -1 where it is not given.
        is_impression: bool [E].
    """

    item_id: np.ndarray
    event_id: np.ndarray
    moment: np.ndarray
    outcome_moment: np.ndarray
    has_time: np.ndarray
    watch_ms: np.ndarray
    clicked: np.ndarray
    watch_label: np.ndarray
    is_impression: np.ndarray

    def __len__(self) -> int:
        """Return the number of events."""
        return len(self.item_id)

    @classmethod
    def empty(cls) -> "UserEvents":
        """Return no events."""
        return cls(**{name: np.zeros(0, dtype) for name, dtype in EVENT_DTYPES.items()})

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the columns by name."""
        return {column.name: getattr(self, column.name) for column in fields(self)}

    def take(self, chosen: np.ndarray | slice) -> "UserEvents":
        """Return the chosen events (indices, mask or slice)."""
        return UserEvents(**{name: values[chosen] for name, values in self.arrays().items()})


EVENT_DTYPES: dict[str, Any] = {
    "item_id": np.bytes_,
    "event_id": np.bytes_,
    "moment": np.int64,
    "outcome_moment": np.int64,
    "has_time": np.bool_,
    "watch_ms": np.int64,
    "clicked": np.int8,
    "watch_label": np.int8,
    "is_impression": np.bool_,
}


@dataclass(frozen=True)
class UserState:
    """Everything a request needs to know of its user.

    Args:
        user_id: External id; empty for nobody in particular.
        events: Newest events, up to the store's limit, ordered by moment.
        searches: (query, moment in microseconds), oldest first.
        attributes: Columns of the users table (`country`, `birth_year`, further ones).
        seen: Ids of watched items older than `events`, so that none ever comes back.
    """

    user_id: str
    events: UserEvents = field(default_factory=UserEvents.empty)
    searches: tuple[tuple[str, int], ...] = ()
    attributes: dict[str, str | float] = field(default_factory=dict)
    seen: frozenset[str] = frozenset()

    def as_of(self, moment: int) -> "UserState":
        """Return the state with only what was known strictly before a moment.

        An impression remains from its event moment on; its outcome is unknown until its own.
        """
        events = self.events.take(self.events.moment < moment)
        hidden = events.outcome_moment >= moment
        events = replace(
            events,
            watch_ms=np.where(hidden, UNKNOWN, events.watch_ms),
            clicked=np.where(hidden, UNKNOWN, events.clicked).astype(np.int8),
            watch_label=np.where(hidden, 0, events.watch_label).astype(np.int8),
        )
        searches = tuple(search for search in self.searches if search[1] < moment)
        return replace(self, events=events, searches=searches)
