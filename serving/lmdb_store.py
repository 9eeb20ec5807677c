"""The store of users' state on one machine: an LMDB file, durable before it acknowledges.

Six tables: `users` (user id -> one user), `log` (moment, event key -> one event), `keys` (event
key -> moment in the log), `changes` (position -> one change of the log), `blocked` (item id),
`about` (format, version of the blocks). What the bytes of each are says `serving.packing`.
"""

import contextlib
import secrets
import struct
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import lmdb

from recsys.errors import StateError
from recsys.state import UserEvents, UserState
from serving import packing
from serving.event_log import (
    LOG_BATCH,
    MAX_CHANGES,
    NO_REQUESTS,
    Changes,
    LogBatch,
    Logged,
    LogSnapshot,
    Recorded,
    Recording,
    split_events,
)
from serving.merging import IsWatch, StoredSearch, concatenate_events, merge_events
from serving.store import StoredUser, extend_user, import_user

FORMAT = b"2"
MAP_BYTES = 64 << 30
"""Address space, not disk: the file grows as it is filled."""
FILE_MODE = 0o600
"""Who watched what is nobody else's business on this machine."""
IMPORT_BATCH = 1_000
WRITER_BYTES = 8
NUMBER = struct.Struct(">Q")
"""Big-endian, so that LMDB's order of keys is the order of moments, and of positions."""


class LmdbStore:
    """A `StateStore` in a directory, for one process of this machine or several.

    Args:
        directory: Made if it does not exist.

    Raises:
        StateError: It cannot be opened, or was written by another format.
    """

    def __init__(self, directory: Path) -> None:
        with _state_errors(f"{directory}: cannot be opened"):
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._environment = lmdb.open(
                str(directory), map_size=MAP_BYTES, max_dbs=6, mode=FILE_MODE
            )
            names = (b"users", b"log", b"keys", b"changes", b"blocked", b"about")
            tables = [self._environment.open_db(name) for name in names]
        self._users, self._log, self._keys, self._changes, self._blocked, self._about = tables
        self._directory, self._writer = directory, secrets.token_bytes(WRITER_BYTES)
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
        request_ids: Mapping[bytes, str] = NO_REQUESTS,
    ) -> Recorded:
        """Add events and searches, all or none, durable on return."""
        with self._transaction(write=True) as transaction:
            user = self._read_user(transaction, user_id)
            recording = Recording(user_id, user.state.events, request_ids)
            self._write_log(transaction, user_id, merge_events(events), recording)
            self._write_user(transaction, extend_user(user, events, searches, is_watch))
            if recording.pairs:
                change = packing.pack_change(self._writer, recording.pairs)
                self._write_change(transaction, change)
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
            forgotten = self._pop_log(transaction, packing.user_hash(user_id))
            if forgotten:
                self._write_change(transaction, packing.pack_forgotten(self._writer, forgotten))
            return concatenate_events(logged.event for logged in forgotten)

    @contextlib.contextmanager
    def read_log(self, moment: int) -> Iterator[LogSnapshot]:
        """Open all users' logged events from a moment on, as they are now."""
        with self._transaction() as transaction:
            yield LogSnapshot(self._position(transaction), self._batches(transaction, moment))

    def changes_after(self, position: int) -> Changes | None:
        """Return what other processes did to the log after a position."""
        with self._transaction() as transaction:
            found = list(_items_from(transaction, self._changes, NUMBER.pack(position + 1)))
            newest = self._position(transaction)
        if newest != position + len(found):
            return None
        changes = [packing.unpack_change(packed) for _, packed in found]
        others = [change for change in changes if change.writer != self._writer]
        replaced, added = packing.events_of(others)
        return Changes(newest, replaced, added)

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
                transaction.delete(key[NUMBER.size :], db=self._keys)
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
        return packing.unpack_user(user_id, transaction.get(user_id.encode(), db=self._users))

    def _write_user(self, transaction: Any, user: StoredUser) -> None:
        packed = packing.pack_user(user)
        transaction.put(user.state.user_id.encode(), packed, db=self._users)

    def _write_log(
        self, transaction: Any, user_id: str, events: UserEvents, recording: Recording
    ) -> None:
        prefix = packing.user_hash(user_id)
        for event in split_events(events):
            key = prefix + packing.event_hash(event)
            logged = self._read_logged(transaction, key)
            merged = recording.merge(logged, event)
            if merged is None:
                continue
            if logged is not None:
                transaction.delete(_key_of(logged.moment) + key, db=self._log)
            moment = _key_of(merged.moment)
            transaction.put(moment + key, packing.pack_logged(merged), db=self._log)
            transaction.put(key, moment, db=self._keys)

    def _read_logged(self, transaction: Any, key: bytes) -> Logged | None:
        moment = transaction.get(key, db=self._keys)
        if moment is None:
            return None
        return packing.unpack_logged(transaction.get(moment + key, db=self._log))

    def _pop_log(self, transaction: Any, prefix: bytes) -> list[Logged]:
        """Remove the events of a user, whose keys have a prefix, from the log; return them."""
        keys = []
        for key, moment in _items_from(transaction, self._keys, prefix):
            if not key.startswith(prefix):
                break
            keys.append((key, moment))
        for key, _ in keys:
            transaction.delete(key, db=self._keys)
        return [
            packing.unpack_logged(transaction.pop(moment + key, db=self._log))
            for key, moment in keys
        ]

    def _batches(self, transaction: Any, moment: int) -> Iterator[LogBatch]:
        rows = (row for _, row in _items_from(transaction, self._log, _key_of(moment)))
        while batch := list(islice(rows, LOG_BATCH)):
            yield packing.unpack_batch(batch)

    def _position(self, transaction: Any) -> int:
        cursor = transaction.cursor(self._changes)
        return NUMBER.unpack(cursor.key())[0] if cursor.last() else 0

    def _write_change(self, transaction: Any, packed: bytes) -> None:
        position = self._position(transaction) + 1
        transaction.put(NUMBER.pack(position), packed, db=self._changes)
        if position > MAX_CHANGES:
            transaction.delete(NUMBER.pack(position - MAX_CHANGES), db=self._changes)


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
    return NUMBER.pack(max(moment, 0))
