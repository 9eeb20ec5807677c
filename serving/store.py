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
from typing import Protocol

from recsys.errors import StateError
from recsys.state import UserEvents, UserState
from serving.event_log import (
    LOG_BATCH,
    NO_REQUESTS,
    Changes,
    Logged,
    LogSnapshot,
    Recorded,
    Recording,
    split_events,
    to_batch,
)
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


class UnsureStateError(StateError):
    """A store broke off: what it was asked to do may be done or not, and is safe to repeat."""


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
            recording = Recording(user_id, user.state.events, request_ids)
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
