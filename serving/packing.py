"""Users, logged events and changes of the log as bytes, for the stores outside the process.

All of it is msgpack of plain lists. An event key is a hash of the user followed by a hash of the
event id, so that a user's keys lie side by side and repeats are found however old they are.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgpack
import numpy as np

from recsys.state import EVENT_DTYPES, UserEvents, UserState
from serving.event_log import LogBatch, Logged
from serving.merging import StoredSearch
from serving.store import StoredUser, with_searches

USER_HASH_BYTES, EVENT_HASH_BYTES = 16, 12


@dataclass(frozen=True)
class Change:
    """One change of the log: of each event what it held and what it holds, None for nothing.

    Args:
        writer: Who made it.
        keys: Event keys [E].
        old, new: Columns of the events, in the order of `EVENT_DTYPES` [E]; no user's id.
    """

    writer: bytes
    keys: Sequence[bytes]
    old: Sequence[list | None]
    new: Sequence[list | None]


def user_hash(user_id: str) -> bytes:
    """Return the hash that begins all event keys of a user."""
    return _hash(user_id.encode(), USER_HASH_BYTES)


def event_hash(event: UserEvents) -> bytes:
    """Return the hash of a single event's id."""
    return _hash(event.event_id[0], EVENT_HASH_BYTES)


def event_key(logged: Logged) -> bytes:
    """Return the key of a logged event."""
    return user_hash(logged.user_id) + event_hash(logged.event)


def pack_logged(logged: Logged) -> bytes:
    """Return a logged event as bytes."""
    return msgpack.packb([logged.user_id, logged.request_id, *event_values(logged.event)])


def unpack_logged(packed: bytes) -> Logged:
    """Return a logged event."""
    user_id, request_id, *values = msgpack.unpackb(packed)
    return Logged(user_id, request_id, to_events([values]))


def unpack_batch(packed: Iterable[bytes]) -> LogBatch:
    """Return logged events in columns."""
    rows = [msgpack.unpackb(each) for each in packed]
    return LogBatch(
        user_ids=[row[0] for row in rows],
        request_ids=[row[1] for row in rows],
        events=to_events([row[2:] for row in rows]),
    )


def pack_user(user: StoredUser) -> bytes:
    """Return a user as bytes."""
    state = user.state
    columns = [[values.dtype.str, values.tobytes()] for values in state.events.arrays().values()]
    searches = [list(search) for search in user.searches]
    return msgpack.packb([columns, searches, state.attributes, sorted(state.seen)])


def unpack_user(user_id: str, packed: bytes | None) -> StoredUser:
    """Return a user; None is one of whom nothing is known."""
    if packed is None:
        return StoredUser(UserState(user_id))
    columns, searches, attributes, seen = msgpack.unpackb(packed)
    arrays = {
        name: np.frombuffer(data, dtype)
        for name, (dtype, data) in zip(EVENT_DTYPES, columns, strict=True)
    }
    state = UserState(user_id, UserEvents(**arrays), (), attributes, frozenset(seen))
    return with_searches(state, tuple(StoredSearch(*search) for search in searches))


def pack_change(writer: bytes, pairs: Sequence[tuple[Logged | None, Logged]]) -> bytes:
    """Return new and changed events, as (what the log held, what it holds), as bytes."""
    keys = [event_key(new) for _, new in pairs]
    old = [None if old is None else event_values(old.event) for old, _ in pairs]
    return msgpack.packb([writer, keys, old, [event_values(new.event) for _, new in pairs]])


def pack_forgotten(writer: bytes, forgotten: Sequence[Logged]) -> bytes:
    """Return events that the log holds no longer as bytes."""
    keys = [event_key(logged) for logged in forgotten]
    old = [event_values(logged.event) for logged in forgotten]
    return msgpack.packb([writer, keys, old, [None] * len(keys)])


def unpack_change(packed: bytes) -> Change:
    """Return a change of the log."""
    return Change(*msgpack.unpackb(packed))


def events_of(changes: Iterable[Change]) -> tuple[UserEvents, UserEvents]:
    """Return what the log no longer holds after some changes, and what it holds instead."""
    old, new = [], []
    for change in changes:
        old += [values for values in change.old if values is not None]
        new += [values for values in change.new if values is not None]
    return to_events(old), to_events(new)


def event_values(event: UserEvents) -> list:
    """Return the columns of a single event as plain values."""
    return [values[0].item() for values in event.arrays().values()]


def to_events(rows: Sequence[list]) -> UserEvents:
    """Return events given as plain values, each in the order of `EVENT_DTYPES`."""
    if not rows:
        return UserEvents.empty()
    columns: Any = zip(EVENT_DTYPES.items(), zip(*rows, strict=True), strict=True)
    return UserEvents(**{name: np.array(values, dtype) for (name, dtype), values in columns})


def _hash(value: bytes, size: int) -> bytes:
    return hashlib.blake2b(value, digest_size=size).digest()
