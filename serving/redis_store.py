"""The store of users' state that servers on several machines share: Redis or Valkey, 6.2 or newer.

One server (with replicas), not a cluster: a script touches keys of several slots.
"""

import secrets
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

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
    to_batch,
)
from serving.merging import IsWatch, StoredSearch, concatenate_events, merge_events
from serving.redis_connection import RedisConnection
from serving.redis_layout import (
    ABOUT,
    BLOCKED,
    CHANGES,
    FORMAT,
    LOG,
    NUMBER,
    OUTDATED,
    Row,
    event_arguments,
    events_key,
    number,
    place,
    queue_commit,
    user_key,
)
from serving.settings import StoreSettings
from serving.store import StoredUser, UnsureStateError, extend_user, import_user

IMPORT_BATCH = 1_000
FORGET_BATCH = 1_000
WRITER_BYTES, LOG_KEY_BYTES = 8, 32
MAX_ATTEMPTS = 50
"""So often two writers of one user may get in each other's way; each time one of them succeeds."""


@dataclass(frozen=True)
class _ReadUser:
    """A user as read: what the next change of them is worked out from."""

    user: StoredUser
    revision: bytes


class RedisStore:
    """A `StateStore` on a server of Redis or Valkey, for any number of processes and machines.

    It may be down when this is made: whatever needs it fails until it is there.

    Args:
        settings: Where it is.

    Raises:
        ConfigError: A file that the settings name cannot be read.
    """

    def __init__(self, settings: StoreSettings) -> None:
        self._settings = settings
        self._connection = RedisConnection(settings)
        self._writer_id = secrets.token_bytes(WRITER_BYTES)
        self._is_format_known = False
        self._blocked_cache: tuple[bytes, frozenset[str]] = (b"", frozenset())

    def get(self, user_id: str) -> UserState:
        """Return what is known of a user."""
        if not user_id:
            return UserState("")
        with self._reader() as client:
            packed = client.hget(user_key(user_id), b"state")
        return packing.unpack_user(user_id, packed).state

    def record(
        self,
        user_id: str,
        events: UserEvents,
        searches: Sequence[StoredSearch],
        *,
        is_watch: IsWatch,
        request_ids: Mapping[bytes, str] = NO_REQUESTS,
    ) -> Recorded:
        """Add events and searches, all or none; how durable is the server's to say."""
        merged = list(split_events(merge_events(events)))
        for _ in range(MAX_ATTEMPTS):
            read, rows = self._read(user_id, merged)
            recording = Recording(user_id, read.user.state.events, request_ids)
            written = [
                (event, row, packing.pack_logged(new))
                for event, row in zip(merged, rows, strict=True)
                if (new := recording.merge(_logged_in(row), event))
            ]
            arguments = [part for each in written for part in event_arguments(*each)]
            change = packing.pack_change(self._writer_id, recording.pairs) if written else b""
            user = extend_user(read.user, events, searches, is_watch)
            if self._commit(user_id, read.revision, packing.pack_user(user), change, arguments):
                return recording.finish()
        raise self._contended(user_id)

    def import_states(self, states: Iterable[UserState], data_until: int) -> int:
        """Take over states as of a moment, many users at once."""
        remaining = iter(states)
        count = 0
        while batch := list(islice(remaining, IMPORT_BATCH)):
            left = batch
            for _ in range(MAX_ATTEMPTS):
                left = self._import(left, data_until)
                if not left:
                    break
            else:
                raise self._contended(left[0].user_id)
            count += len(batch)
        return count

    def delete(self, user_id: str) -> UserEvents | None:
        """Forget a user."""
        prefix = packing.user_hash(user_id)
        for _ in range(MAX_ATTEMPTS):
            read, _ = self._read(user_id, [])
            if not read.revision:
                return None
            with self._writer() as client:
                rows = [Row.read(row) for row in client.hvals(events_key(prefix))]
            forgotten = [packing.unpack_logged(row.packed) for row in rows]
            arguments = [
                part
                for row, logged in zip(rows, forgotten, strict=True)
                for part in (packing.event_hash(logged.event), row.moment, b"")
            ]
            change = packing.pack_forgotten(self._writer_id, forgotten) if rows else b""
            if self._commit(user_id, read.revision, b"", change, arguments):
                return concatenate_events(logged.event for logged in forgotten)
        raise self._contended(user_id)

    @contextmanager
    def read_log(self, moment: int) -> Iterator[LogSnapshot]:
        """Open all users' logged events from a moment on."""
        with self._writer() as client:
            position = int(client.hget(ABOUT, b"position") or 0)
        yield LogSnapshot(position, self._batches(position, moment))

    def changes_after(self, position: int) -> Changes | None:
        """Return what other store objects did to the log after a position."""
        found = self._changes_after(position)
        if found is None:
            return None
        others = [change for change in found if change.writer != self._writer_id]
        replaced, added = packing.events_of(others)
        return Changes(position + len(found), replaced, added)

    def forget_events_before(self, moment: int) -> int:
        """Drop logged events."""
        end, count = b"(" + number(moment), 0
        while True:
            with self._writer() as client:
                old = client.zrangebylex(LOG, b"-", end, 0, FORGET_BATCH)
                if not old:
                    return count
                pipeline = client.pipeline(transaction=True)
                pipeline.zrem(LOG, *old)
                for member in old:
                    pipeline.hdel(*place(member))
                pipeline.execute()
            count += len(old)

    def blocked_items(self) -> frozenset[str]:
        """Return the items that no answer may hold; read anew only after a change."""
        with self._reader() as client:
            if (client.hget(ABOUT, b"blocked_version") or b"") != self._blocked_cache[0]:
                pipeline = client.pipeline(transaction=True)
                version, items = (
                    pipeline.hget(ABOUT, b"blocked_version").smembers(BLOCKED).execute()
                )
                self._blocked_cache = (version, frozenset(item.decode() for item in items))
        return self._blocked_cache[1]

    def block_items(self, item_ids: Collection[str]) -> int:
        """Block items."""
        return self._change_blocked("sadd", item_ids)

    def unblock_items(self, item_ids: Collection[str]) -> int:
        """Take blocks back."""
        return self._change_blocked("srem", item_ids)

    def counts(self) -> dict[str, int]:
        """Return how many users, logged events and blocked items there are."""
        with self._writer() as client:
            pipeline = client.pipeline(transaction=True)
            users, events, blocked = (
                pipeline.hget(ABOUT, b"users").zcard(LOG).scard(BLOCKED).execute()
            )
        return {"users": int(users or 0), "events": events, "blocked items": blocked}

    def log_key(self) -> bytes:
        """Return the secret under which its users are hashed in logs, made on first use."""
        with self._writer() as client:
            client.hsetnx(ABOUT, b"log_key", secrets.token_bytes(LOG_KEY_BYTES))
            return client.hget(ABOUT, b"log_key")

    def durability(self) -> str:
        """Return what the server may lose when it dies: `appendfsync`, `none` or `unknown`.

        `always` loses nothing that was acknowledged, `everysec` about a second, `no` what the
        system had not written yet, `none` all since the last snapshot. `unknown`: we are not
        allowed to ask.
        """
        self.counts()  # what is wrong with more than CONFIG is told
        try:
            with self._writer() as client:
                found = client.config_get("append*")
        except StateError:
            return "unknown"
        return found["appendfsync"] if found.get("appendonly") == "yes" else "none"

    def close(self) -> None:
        """Close the connections."""
        self._connection.close()

    @contextmanager
    def _reader(self) -> Iterator[Any]:
        with self._connection.reader() as client:
            self._check_format(client)
            yield client

    @contextmanager
    def _writer(self) -> Iterator[Any]:
        with self._connection.writer() as client:
            self._check_format(client)
            yield client

    def _check_format(self, client: Any) -> None:
        if self._is_format_known:
            return
        client.hsetnx(ABOUT, b"format", FORMAT)
        found = client.hget(ABOUT, b"format")
        if found != FORMAT:
            raise StateError(
                f"{self._settings.url}: state format {found.decode()} is not the format "
                f"{FORMAT.decode()} of this version; import the state into another database"
            )
        self._is_format_known = True

    def _read(
        self, user_id: str, events: Sequence[UserEvents]
    ) -> tuple[_ReadUser, list[Row | None]]:
        """Return a user, and what the log holds of some of their events."""
        with self._writer() as client:
            pipeline = client.pipeline(transaction=False)
            # The user first: what is logged after that changes the revision, and is noticed.
            pipeline.hmget(user_key(user_id), b"state", b"revision")
            if events:
                hashes = [packing.event_hash(event) for event in events]
                pipeline.hmget(events_key(packing.user_hash(user_id)), *hashes)
            (state, revision), *found = pipeline.execute()
        read = _ReadUser(packing.unpack_user(user_id, state), revision or b"")
        return read, [None if row is None else Row.read(row) for row in (found or [[]])[0]]

    def _commit(
        self,
        user_id: str,
        revision: bytes,
        state: bytes,
        change: bytes,
        event_arguments: Sequence[bytes],
    ) -> bool:
        """Change a user; return False if they are no longer as they were read."""
        replicas, timeout_ms = self._settings.min_replicas, self._settings.write_timeout_ms
        with self._writer() as client:
            pipeline = client.pipeline(transaction=False)
            queue_commit(pipeline, user_id, revision, state, change, event_arguments)
            if replicas:
                pipeline.wait(replicas, timeout_ms // 2)
            position, *reached = pipeline.execute()
        if position != OUTDATED and reached and reached[0] < replicas:
            raise UnsureStateError(
                f"{self._settings.url}: stored, but on {reached[0]} of {replicas} replicas within "
                f"{timeout_ms // 2} ms; it is safe to repeat"
            )
        return position != OUTDATED

    def _import(self, states: Sequence[UserState], data_until: int) -> list[UserState]:
        """Take over states; return those whose users changed meanwhile."""
        with self._writer() as client:
            pipeline = client.pipeline(transaction=False)
            for state in states:
                pipeline.hmget(user_key(state.user_id), b"state", b"revision")
            found = pipeline.execute()
            for state, (packed, revision) in zip(states, found, strict=True):
                stored = packing.unpack_user(state.user_id, packed)
                user = packing.pack_user(import_user(stored, state, data_until))
                queue_commit(pipeline, state.user_id, revision or b"", user, b"", ())
            results = pipeline.execute()
        return [state for state, result in zip(states, results, strict=True) if result == OUTDATED]

    def _batches(self, position: int, moment: int) -> Iterator[LogBatch]:
        """Yield the log as of a position, although it changes while it is read.

        What was changed since is told by its own position; what it held before tells the first of
        the changes since.
        """
        start, seen = b"[" + number(moment), position
        before: dict[bytes, list | None] = {}
        while True:
            with self._writer() as client:
                members = client.zrangebylex(LOG, start, b"+", 0, LOG_BATCH)
                if not members:
                    return
                pipeline = client.pipeline(transaction=False)
                for member in members:
                    pipeline.hget(*place(member))
                values = pipeline.execute()
            seen += self._note_changes(seen, before)
            rows = [
                _as_of(position, member[NUMBER.size :], Row.read(value), before)
                for member, value in zip(members, values, strict=True)
                if value is not None
            ]
            yield _from_moment(moment, [row for row in rows if row is not None])
            start = b"(" + members[-1]

    def _note_changes(self, seen: int, before: dict[bytes, list | None]) -> int:
        """Note what events held before they changed; return the number of changes."""
        found = self._changes_after(seen)
        if found is None or any(values is None for change in found for values in change.new):
            raise StateError(
                f"{self._settings.url}: users were deleted, or more than {MAX_CHANGES:,} changes "
                f"came, while the log was read; it has to be read anew"
            )
        for change in found:
            for key, values in zip(change.keys, change.old, strict=True):
                before.setdefault(key, values)
        return len(found)

    def _changes_after(self, position: int) -> list[packing.Change] | None:
        with self._writer() as client:
            pipeline = client.pipeline(transaction=True)
            newest, entries = (
                pipeline.hget(ABOUT, b"position").xrange(CHANGES, f"{position + 1}-0").execute()
            )
        if int(newest or 0) != position + len(entries):
            return None
        return [packing.unpack_change(fields[b"change"]) for _, fields in entries]

    def _change_blocked(self, command: str, item_ids: Collection[str]) -> int:
        with self._writer() as client:
            pipeline = client.pipeline(transaction=True)
            getattr(pipeline, command)(BLOCKED, *[item_id.encode() for item_id in item_ids])
            pipeline.hincrby(ABOUT, b"blocked_version", 1).scard(BLOCKED)
            return pipeline.execute()[-1]

    def _contended(self, user_id: str) -> StateError:
        return StateError(
            f"{self._settings.url}: a user of {len(user_id)} letters was changed by others "
            f"{MAX_ATTEMPTS} times while one change was worked out; repeat it"
        )


def _as_of(
    position: int, key: bytes, row: Row, before: Mapping[bytes, list | None]
) -> Logged | None:
    """Return an event as it was at a position, None if it was not there yet."""
    logged = packing.unpack_logged(row.packed)
    if row.position <= position:
        return logged
    values = before[key]
    return None if values is None else logged._replace(event=packing.to_events([values]))


def _from_moment(moment: int, rows: Sequence[Logged]) -> LogBatch:
    """Return the events that began at a moment or later; they were all logged under such a one."""
    return to_batch([row for row in rows if row.moment >= moment])


def _logged_in(row: Row | None) -> Logged | None:
    return None if row is None else packing.unpack_logged(row.packed)
