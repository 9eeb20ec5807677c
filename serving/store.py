"""What a store of users' state promises, and the one that keeps it in memory.

A store holds each user's newest events and searches, what they watched before (`seen`), their
attributes, the log of recorded events (from which item counters are made good after a new
bundle), the last changes of that log, numbered (by which the servers that share a store follow each
other), and the blocked items. All ids are external.
"""

import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np

from recsys.errors import StateError
from recsys.state import UserEvents, UserState
from serving.merging import (
    IsWatch,
    StoredSearch,
    concatenate_events,
    keep_newest,
    merge_events,
    merge_searches,
)

MAX_EVENTS = 1000
"""Newest events kept of a user."""
LOG_BATCH = 10_000
"""Logged events that `read_log` gives at once."""
MAX_CHANGES = 20_000
"""Changes of the log that are kept for those who follow; who is further behind counts anew."""
NO_REQUESTS: Mapping[bytes, str] = {}


class UnsureStateError(StateError):
    """A store broke off: what it was asked to do may be done or not, and is safe to repeat."""


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


@dataclass(frozen=True)
class StoredUser:
    """A user as stored: the state, and the searches with their ids."""

    state: UserState
    searches: tuple[StoredSearch, ...] = ()


class StateStore(Protocol):
    """Users' state, safe to use from several threads."""

    def get(self, user_id: str) -> UserState:
        """Return what is known of a user; an unknown one has no history.

        Raises:
            StateError: The store cannot be read.
        """
        ...

    def record(
        self,
        user_id: str,
        events: UserEvents,
        searches: Sequence[StoredSearch],
        *,
        is_watch: IsWatch,
        request_ids: Mapping[bytes, str] = NO_REQUESTS,
    ) -> Recorded:
        """Add events and searches, all or none, durable on return; repeats change nothing.

        Args:
            user_id: Not empty.
            events: Each with an event id.
            searches: Each with an event id.
            is_watch: Tells which of the events that no longer fit stay seen.
            request_ids: Event id -> the request whose answer showed the item; the first told
                stays.

        Raises:
            StateError: The store cannot be written; nothing was added.
        """
        ...

    def import_states(self, states: Iterable[UserState], data_until: int) -> int:
        """Take over states as of a moment; what was recorded from then on is kept on top.

        Returns:
            The number of users.
        """
        ...

    def delete(self, user_id: str) -> UserEvents | None:
        """Forget a user; return their logged events, None if nothing was known of them."""
        ...

    def read_log(self, moment: int) -> AbstractContextManager[LogSnapshot]:
        """Open all users' logged events from a moment on, to be read within the context.

        Raises:
            StateError: It cannot be read, or (while it is read) changed so much that it has to be
                read anew.
        """
        ...

    def changes_after(self, position: int) -> Changes | None:
        """Return what others did to the log after a position; None if that is no longer known."""
        ...

    def forget_events_before(self, moment: int) -> int:
        """Drop logged events that no bundle will ask for again; return how many."""
        ...

    def blocked_items(self) -> frozenset[str]:
        """Return the items that no answer may hold."""
        ...

    def block_items(self, item_ids: Collection[str]) -> int:
        """Block items; return how many are blocked now."""
        ...

    def unblock_items(self, item_ids: Collection[str]) -> int:
        """Take blocks back; return how many are blocked now."""
        ...

    def close(self) -> None:
        """Let go of files; nothing else may be called afterwards."""
        ...


def extend_user(
    user: StoredUser, events: UserEvents, searches: Iterable[StoredSearch], is_watch: IsWatch
) -> StoredUser:
    """Return a user with events and searches added, cut to what is kept."""
    merged = replace(user.state, events=merge_events(user.state.events, events))
    found = merge_searches(user.searches, searches)
    return with_searches(keep_newest(merged, MAX_EVENTS, is_watch), found)


def import_user(stored: StoredUser, imported: UserState, data_until: int) -> StoredUser:
    """Return an imported user with what was recorded since on top."""
    events = stored.state.events
    recent = events.take(events.has_time & (events.moment >= data_until))
    searches = [StoredSearch(query, moment) for query, moment in imported.searches]
    newer = [search for search in stored.searches if search.moment >= data_until]
    state = replace(
        imported,
        events=merge_events(imported.events, recent),
        seen=imported.seen | stored.state.seen,
    )
    return with_searches(state, merge_searches(searches, newer))


def with_searches(state: UserState, searches: tuple[StoredSearch, ...]) -> StoredUser:
    """Return a stored user whose state shows these searches."""
    shown = tuple((search.query, search.moment) for search in searches)
    return StoredUser(replace(state, searches=shown), searches)


def is_same_event(one: UserEvents, other: UserEvents) -> bool:
    """Return whether two single events are equal in every column."""
    pairs = zip(one.arrays().values(), other.arrays().values(), strict=True)
    return all(np.array_equal(mine, yours) for mine, yours in pairs)


class MemoryStore:
    """A `StateStore` that forgets all when the process ends."""

    def __init__(self) -> None:
        self._users: dict[str, StoredUser] = {}
        self._log: dict[tuple[str, bytes], Logged] = {}
        self._blocked: frozenset[str] = frozenset()
        self._lock = threading.Lock()

    def get(self, user_id: str) -> UserState:
        """Return what is known of a user."""
        return self._user(user_id).state

    def record(
        self,
        user_id: str,
        events: UserEvents,
        searches: Sequence[StoredSearch],
        *,
        is_watch: IsWatch,
        request_ids: Mapping[bytes, str] = NO_REQUESTS,
    ) -> Recorded:
        """Add events and searches."""
        with self._lock:
            user = self._user(user_id)
            recording = Recording(user, request_ids)
            for event in split_events(merge_events(events)):
                key = (user_id, event.event_id[0])
                merged = recording.merge(self._log.get(key), event)
                if merged is not None:
                    self._log[key] = merged
            self._users[user_id] = extend_user(user, events, searches, is_watch)
            return recording.finish()

    def import_states(self, states: Iterable[UserState], data_until: int) -> int:
        """Take over states as of a moment."""
        count = 0
        with self._lock:
            for state in states:
                user = import_user(self._user(state.user_id), state, data_until)
                self._users[state.user_id] = user
                count += 1
        return count

    def delete(self, user_id: str) -> UserEvents | None:
        """Forget a user."""
        with self._lock:
            if self._users.pop(user_id, None) is None:
                return None
            keys = [key for key in self._log if key[0] == user_id]
            return concatenate_events([self._log.pop(key).event for key in keys])

    @contextmanager
    def read_log(self, moment: int) -> Iterator[LogSnapshot]:
        """Open all users' logged events from a moment on."""
        with self._lock:
            rows = [row for row in self._log.values() if row.moment >= moment]
        rows.sort(key=lambda row: row.moment)
        yield LogSnapshot(
            position=0,
            batches=(
                to_batch(rows[start : start + LOG_BATCH])
                for start in range(0, len(rows), LOG_BATCH)
            ),
        )

    def changes_after(self, position: int) -> Changes | None:
        """Return that nobody else changed anything."""
        return Changes(position, UserEvents.empty(), UserEvents.empty())

    def forget_events_before(self, moment: int) -> int:
        """Drop logged events."""
        with self._lock:
            old = [key for key, row in self._log.items() if row.moment < moment]
            for key in old:
                del self._log[key]
            return len(old)

    def blocked_items(self) -> frozenset[str]:
        """Return the items that no answer may hold."""
        return self._blocked

    def block_items(self, item_ids: Collection[str]) -> int:
        """Block items."""
        with self._lock:
            self._blocked |= frozenset(item_ids)
            return len(self._blocked)

    def unblock_items(self, item_ids: Collection[str]) -> int:
        """Take blocks back."""
        with self._lock:
            self._blocked -= frozenset(item_ids)
            return len(self._blocked)

    def close(self) -> None:
        """Nothing to let go of."""

    def _user(self, user_id: str) -> StoredUser:
        return self._users.get(user_id) or StoredUser(UserState(user_id))


class Recording:
    """Merges single events with what is known of them, and notes what changed.

    Args:
        user: As stored; an imported event is known, though it was never logged.
        request_ids: As `StateStore.record` takes them.
    """

    def __init__(self, user: StoredUser, request_ids: Mapping[bytes, str]) -> None:
        self._user_id, self._window = user.state.user_id, user.state.events
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
