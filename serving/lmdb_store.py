"""The store of users' state on one machine: an LMDB file, durable before it acknowledges.

Five tables: `users` (user id -> msgpack of columns), `log` (moment, event key -> one event),
`keys` (event key -> moment in the log), `blocked` (item id), `about` (format, version of the
blocks). An event key is a hash of the user followed by a hash of the event id, so that a user's
keys lie side by side and repeats are found however old they are.
"""

import contextlib
import hashlib
import struct
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import lmdb
import msgpack
import numpy as np

from recsys.errors import StateError
from recsys.state import EVENT_DTYPES, UserEvents, UserState
from serving.merging import IsWatch, StoredSearch, concatenate_events, merge_events
from serving.store import (
    LOG_BATCH,
    Recorded,
    Recording,
    StoredUser,
    extend_user,
    import_user,
    with_searches,
)

FORMAT = b"1"
MAP_BYTES = 64 << 30
"""Address space, not disk: the file grows as it is filled."""
FILE_MODE = 0o600
"""Who watched what is nobody else's business on this machine."""
IMPORT_BATCH = 1_000
USER_HASH_BYTES, EVENT_HASH_BYTES = 16, 12
MOMENT = struct.Struct(">Q")
"""Big-endian, so that LMDB's order of keys is the order of moments."""


class LmdbStore:
    """A `StateStore` in a directory, for one process at a time or several.

    Args:
        directory: Made if it does not exist.

    Raises:
        StateError: It cannot be opened, or was written by another format.
    """

    def __init__(self, directory: Path) -> None:
        with _state_errors(f"{directory}: cannot be opened"):
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._environment = lmdb.open(
                str(directory), map_size=MAP_BYTES, max_dbs=5, mode=FILE_MODE
            )
            names = (b"users", b"log", b"keys", b"blocked", b"about")
            tables = [self._environment.open_db(name) for name in names]
        self._users, self._log, self._keys, self._blocked, self._about = tables
        self._directory = directory
        self._blocked_cache: tuple[bytes, frozenset[str]] = (b"", frozenset())
        try:
            self._check_format()
        except StateError:
            self.close()
            raise

    def get(self, user_id: str) -> UserState:
        """Return what is known of a user."""
        if not user_id:
            return UserState("")
        with self._transaction() as transaction:
            return self._read_user(transaction, user_id).state

    def record(
        self,
        user_id: str,
        events: UserEvents,
        searches: Sequence[StoredSearch],
        *,
        is_watch: IsWatch,
    ) -> Recorded:
        """Add events and searches, all or none, durable on return."""
        with self._transaction(write=True) as transaction:
            user = self._read_user(transaction, user_id)
            recording = Recording(user.state.events)
            self._write_log(transaction, user_id, merge_events(events), recording)
            self._write_user(transaction, extend_user(user, events, searches, is_watch))
        return recording.finish()

    def import_states(self, states: Iterable[UserState], data_until: int) -> int:
        """Take over states as of a moment, in transactions of many users each."""
        remaining = iter(states)
        count = 0
        while batch := list(islice(remaining, IMPORT_BATCH)):
            with self._transaction(write=True) as transaction:
                for state in batch:
                    stored = self._read_user(transaction, state.user_id)
                    self._write_user(transaction, import_user(stored, state, data_until))
            count += len(batch)
        return count

    def delete(self, user_id: str) -> UserEvents | None:
        """Forget a user."""
        with self._transaction(write=True) as transaction:
            if not transaction.delete(user_id.encode(), db=self._users):
                return None
            prefix = _hash(user_id.encode(), USER_HASH_BYTES)
            events = []
            for key, moment in _items_from(transaction, self._keys, prefix):
                if not key.startswith(prefix):
                    break
                events.append(_unpack_event(transaction.pop(moment + key, db=self._log)))
            for event in events:
                transaction.delete(_event_key(user_id, event), db=self._keys)
            return concatenate_events(events)

    def events_since(self, moment: int) -> Iterator[UserEvents]:
        """Yield all users' logged events from a moment on."""
        with self._transaction() as transaction:
            rows = (row for _, row in _items_from(transaction, self._log, _key_of(moment)))
            while batch := [_unpack_event(row) for row in islice(rows, LOG_BATCH)]:
                yield concatenate_events(batch)

    def forget_events_before(self, moment: int) -> int:
        """Drop logged events."""
        with self._transaction(write=True) as transaction:
            end = _key_of(moment)
            old = []
            for key, _ in _items_from(transaction, self._log, b""):
                if key >= end:
                    break
                old.append(key)
            for key in old:
                transaction.delete(key, db=self._log)
                transaction.delete(key[MOMENT.size :], db=self._keys)
            return len(old)

    def blocked_items(self) -> frozenset[str]:
        """Return the items that no answer may hold; read anew only after a change."""
        with self._transaction() as transaction:
            version = transaction.get(b"blocked_version", b"", db=self._about)
            if version != self._blocked_cache[0]:
                keys = (key for key, _ in _items_from(transaction, self._blocked, b""))
                self._blocked_cache = (version, frozenset(key.decode() for key in keys))
        return self._blocked_cache[1]

    def counts(self) -> dict[str, int]:
        """Return how many users, logged events and blocked items there are."""
        tables = {"users": self._users, "events": self._log, "blocked items": self._blocked}
        with self._transaction() as transaction:
            return {name: transaction.stat(table)["entries"] for name, table in tables.items()}

    def block_items(self, item_ids: Collection[str]) -> int:
        """Block items."""
        with self._transaction(write=True) as transaction:
            for item_id in item_ids:
                transaction.put(item_id.encode(), b"", db=self._blocked)
            return self._count_blocked(transaction)

    def unblock_items(self, item_ids: Collection[str]) -> int:
        """Take blocks back."""
        with self._transaction(write=True) as transaction:
            for item_id in item_ids:
                transaction.delete(item_id.encode(), db=self._blocked)
            return self._count_blocked(transaction)

    def close(self) -> None:
        """Let go of the files."""
        self._environment.close()

    @contextlib.contextmanager
    def _transaction(self, *, write: bool = False) -> Iterator[Any]:
        with (
            _state_errors(f"{self._directory}: the state store failed"),
            self._environment.begin(write=write) as transaction,
        ):
            yield transaction

    def _check_format(self) -> None:
        with self._transaction(write=True) as transaction:
            found = transaction.get(b"format", db=self._about)
            if found is None:
                transaction.put(b"format", FORMAT, db=self._about)
            elif found != FORMAT:
                raise StateError(
                    f"{self._directory}: state format {found.decode()} is not the format "
                    f"{FORMAT.decode()} of this version; import the state into a new directory"
                )

    def _count_blocked(self, transaction: Any) -> int:
        version = int(transaction.get(b"blocked_version", b"0", db=self._about)) + 1
        transaction.put(b"blocked_version", str(version).encode(), db=self._about)
        return transaction.stat(self._blocked)["entries"]

    def _read_user(self, transaction: Any, user_id: str) -> StoredUser:
        packed = transaction.get(user_id.encode(), db=self._users)
        return StoredUser(UserState(user_id)) if packed is None else _unpack_user(user_id, packed)

    def _write_user(self, transaction: Any, user: StoredUser) -> None:
        transaction.put(user.state.user_id.encode(), _pack_user(user), db=self._users)

    def _write_log(
        self, transaction: Any, user_id: str, events: UserEvents, recording: Recording
    ) -> None:
        for position in range(len(events)):
            event = events.take(slice(position, position + 1))
            key = _event_key(user_id, event)
            logged = self._read_logged(transaction, key)
            merged = recording.merge(logged, event)
            if merged is None:
                continue
            if logged is not None:
                transaction.delete(_key_of(logged.moment[0]) + key, db=self._log)
            moment = _key_of(merged.moment[0])
            transaction.put(moment + key, _pack_event(merged), db=self._log)
            transaction.put(key, moment, db=self._keys)

    def _read_logged(self, transaction: Any, key: bytes) -> UserEvents | None:
        moment = transaction.get(key, db=self._keys)
        return (
            None if moment is None else _unpack_event(transaction.get(moment + key, db=self._log))
        )


@contextlib.contextmanager
def _state_errors(what: str) -> Iterator[None]:
    try:
        yield
    except (lmdb.Error, OSError) as error:
        raise StateError(f"{what}: {error}; see docs/operations.md, State store") from error


def _items_from(transaction: Any, table: Any, start: bytes) -> Iterator[tuple[bytes, bytes]]:
    cursor = transaction.cursor(table)
    if cursor.set_range(start):
        yield from cursor


def _key_of(moment: int) -> bytes:
    return MOMENT.pack(max(int(moment), 0))


def _hash(value: bytes, size: int) -> bytes:
    return hashlib.blake2b(value, digest_size=size).digest()


def _event_key(user_id: str, event: UserEvents) -> bytes:
    event_hash = _hash(event.event_id[0], EVENT_HASH_BYTES)
    return _hash(user_id.encode(), USER_HASH_BYTES) + event_hash


def _pack_event(event: UserEvents) -> bytes:
    return msgpack.packb([values[0].item() for values in event.arrays().values()])


def _unpack_event(packed: bytes) -> UserEvents:
    row = zip(EVENT_DTYPES.items(), msgpack.unpackb(packed), strict=True)
    return UserEvents(**{name: np.array([value], dtype) for (name, dtype), value in row})


def _pack_user(user: StoredUser) -> bytes:
    state = user.state
    columns = [[values.dtype.str, values.tobytes()] for values in state.events.arrays().values()]
    searches = [list(search) for search in user.searches]
    return msgpack.packb([columns, searches, state.attributes, sorted(state.seen)])


def _unpack_user(user_id: str, packed: bytes) -> StoredUser:
    columns, searches, attributes, seen = msgpack.unpackb(packed)
    arrays = {
        name: np.frombuffer(data, dtype)
        for name, (dtype, data) in zip(EVENT_DTYPES, columns, strict=True)
    }
    state = UserState(user_id, UserEvents(**arrays), (), attributes, frozenset(seen))
    return with_searches(state, tuple(StoredSearch(*search) for search in searches))
