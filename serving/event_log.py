"""The log of recorded events, as every store keeps it: one row an event, and numbered changes.

From the log the counters of a new bundle are made good, and the next training log is exported; by
the changes the servers that share a store follow each other.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from recsys.state import UserEvents
from serving.merging import concatenate_events, merge_events

LOG_BATCH = 10_000
"""Logged events that `read_log` gives at once."""
MAX_CHANGES = 20_000
"""Changes of the log that are kept for those who follow; who is further behind counts anew."""
NO_REQUESTS: Mapping[bytes, str] = {}


class Logged(NamedTuple):
    """A logged event: one row of `UserEvents`, whose it is, the request that it came of."""

    user_id: str
    request_id: str
    event: UserEvents

    @property
    def moment(self) -> int:
        """When it began."""
        return int(self.event.moment[0])


@dataclass(frozen=True)
class LogBatch:
    """Logged events of any users.

    Args:
        user_ids: Whose they are [E].
        request_ids: Of the answers that showed them, empty where that is not known [E].
        events: The events, of which each has a time.
    """

    user_ids: list[str]
    request_ids: list[str]
    events: UserEvents


@dataclass(frozen=True)
class LogSnapshot:
    """The log as of one position: no later change is in it, and no earlier one is missing.

    Args:
        position: Number of its last change.
        batches: The events, ordered by the moment under which they were first logged.
    """

    position: int
    batches: Iterator[LogBatch]


@dataclass(frozen=True)
class Changes:
    """What others than this store object did to the log, up to a position.

    Args:
        position: Number of the last change.
        replaced: What the log held of the changed events, and of those forgotten.
        added: What it holds of new and changed events instead.
    """

    position: int
    replaced: UserEvents
    added: UserEvents


@dataclass(frozen=True)
class Recorded:
    """What `record` did.

    Args:
        num_new: Events not known before.
        num_changed: Known events that now hold more.
        replaced: What the log held of the changed events.
        added: What the log holds of new and changed events now.
    """

    num_new: int
    num_changed: int
    replaced: UserEvents
    added: UserEvents


class Recording:
    """Merges single events with what is known of them, and notes what changed.

    Args:
        user_id: Whose events they are.
        window: The user's stored events; an imported one is known, though it was never logged.
        request_ids: As `StateStore.record` takes them.
    """

    def __init__(self, user_id: str, window: UserEvents, request_ids: Mapping[bytes, str]) -> None:
        self._user_id, self._window = user_id, window
        self._request_ids = request_ids
        ids = self._window.event_id.tolist()
        self._positions = {event_id: position for position, event_id in enumerate(ids)}
        self._num_changed = 0
        self._pairs: list[tuple[Logged | None, Logged]] = []

    @property
    def pairs(self) -> Sequence[tuple[Logged | None, Logged]]:
        """What the log held of each new or changed event, and is to hold now."""
        return self._pairs

    def merge(self, logged: Logged | None, event: UserEvents) -> Logged | None:
        """Return what the log is to hold of an event, None if that does not change."""
        event_id = event.event_id[0]
        known = logged.event if logged is not None else self._stored(event_id)
        told = self._request_ids.get(event_id, "")
        request_id = (logged.request_id if logged is not None else "") or told
        merged = event
        if known is not None:
            merged = merge_events(known, event)
            is_answer_new = logged is not None and request_id != logged.request_id
            if is_same_event(known, merged) and not is_answer_new:
                return None
            self._num_changed += 1
        row = Logged(self._user_id, request_id, merged)
        self._pairs.append((logged, row))
        return row

    def finish(self) -> Recorded:
        """Return what was done."""
        return Recorded(
            num_new=len(self._pairs) - self._num_changed,
            num_changed=self._num_changed,
            replaced=concatenate_events(old.event for old, _ in self._pairs if old is not None),
            added=concatenate_events(new.event for _, new in self._pairs),
        )

    def _stored(self, event_id: bytes) -> UserEvents | None:
        position = self._positions.get(event_id)
        return None if position is None else self._window.take(slice(position, position + 1))


def split_events(events: UserEvents) -> Iterator[UserEvents]:
    """Yield events one by one."""
    for position in range(len(events)):
        yield events.take(slice(position, position + 1))


def to_batch(rows: Sequence[Logged]) -> LogBatch:
    """Return logged events in columns."""
    return LogBatch(
        user_ids=[row.user_id for row in rows],
        request_ids=[row.request_id for row in rows],
        events=concatenate_events(row.event for row in rows),
    )


def is_same_event(one: UserEvents, other: UserEvents) -> bool:
    """Return whether two single events are equal in every column."""
    pairs = zip(one.arrays().values(), other.arrays().values(), strict=True)
    return all(np.array_equal(mine, yours) for mine, yours in pairs)
