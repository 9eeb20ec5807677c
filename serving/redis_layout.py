"""Where what lies on a server of Redis, and the one script that changes a user.

Keys, all below `recsys:`; `serving.packing` says what the bytes of each are:

    user:ID         hash: `state` (one user), `revision` (another number after each change)
    events:HASH     hash of a user's logged events: event hash -> position, moment, logged event
    log             sorted set of (moment, event key), so that the log can be read by moment
    changes         stream of the log's last changes, their numbers its ids
    blocked         set of item ids
    about           hash: `format`, `position`, `revision`, `users`, `blocked_version`, `log_key`

A change of a user is one script: it does all or nothing, and nothing if the user's revision is no
longer the one that was read; then it is worked out anew. The moment in `log` is the one under
which an event was first logged and never moves, although the event's own may become earlier: so
a reader of the log passes every event exactly once, whatever is recorded meanwhile.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from recsys.state import UserEvents
from serving import packing
from serving.event_log import MAX_CHANGES

FORMAT = b"1"
PREFIX = b"recsys:"
LOG, CHANGES, BLOCKED, ABOUT = (
    PREFIX + name for name in (b"log", b"changes", b"blocked", b"about")
)
OUTDATED = -1
"""What the script returns if the user is no longer as they were read."""
NUMBER = struct.Struct(">Q")
"""Big-endian, so that the order of keys is the order of moments."""
COMMIT = """
local user, events, log, changes, about = unpack(KEYS)
local revision, state, change, max_changes, prefix = unpack(ARGV, 1, 5)
if (redis.call('HGET', user, 'revision') or '') ~= revision then return -1 end
local position = 0
if change ~= '' then
  position = redis.call('HINCRBY', about, 'position', 1)
  local id = string.format('%.0f-0', position)
  redis.call('XADD', changes, 'MAXLEN', '~', max_changes, id, 'change', change)
end
for i = 6, #ARGV, 3 do
  local key, moment, packed = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  if packed == '' then
    redis.call('ZREM', log, moment .. prefix .. key)
  else
    redis.call('HSET', events, key, struct.pack('>I8', position) .. moment .. packed)
    redis.call('ZADD', log, 0, moment .. prefix .. key)
  end
end
if state == '' then
  redis.call('DEL', user, events)
  redis.call('HINCRBY', about, 'users', -1)
else
  if revision == '' then redis.call('HINCRBY', about, 'users', 1) end
  redis.call('HSET', user, 'state', state, 'revision', redis.call('HINCRBY', about, 'revision', 1))
end
return position
"""


@dataclass(frozen=True)
class Row:
    """One event as it lies in a user's hash.

    Args:
        position: Of its last change.
        moment: Under which it was first logged, as in the log's key.
        packed: The logged event.
    """

    position: int
    moment: bytes
    packed: bytes

    @classmethod
    def read(cls, value: bytes) -> "Row":
        """Return the row that some bytes hold."""
        size = NUMBER.size
        return cls(NUMBER.unpack(value[:size])[0], value[size : 2 * size], value[2 * size :])


def queue_commit(
    pipeline: Any,
    user_id: str,
    revision: bytes,
    state: bytes,
    change: bytes,
    event_arguments: Sequence[bytes],
) -> None:
    """Queue the change of a user; it returns the position of the log, or `OUTDATED`.

    Args:
        pipeline: Of the client.
        user_id: Whose change it is.
        revision: Of the user as read, empty if there was none.
        state: The user now; empty forgets them.
        change: What becomes of the log, empty for nothing.
        event_arguments: Three of each event of the log that changes: see `event_arguments`.
    """
    prefix = packing.user_hash(user_id)
    keys = (user_key(user_id), events_key(prefix), LOG, CHANGES, ABOUT)
    values = (revision, state, change, MAX_CHANGES, prefix, *event_arguments)
    pipeline.eval(COMMIT, len(keys), *keys, *values)


def event_arguments(event: UserEvents, row: Row | None, packed: bytes) -> tuple[bytes, ...]:
    """Return what the script is told of an event: hash, moment in the log, bytes (empty: gone)."""
    moment = number(int(event.moment[0])) if row is None else row.moment
    return packing.event_hash(event), moment, packed


def user_key(user_id: str) -> bytes:
    """Return the key of a user."""
    return PREFIX + b"user:" + user_id.encode()


def events_key(prefix: bytes) -> bytes:
    """Return the key of the logged events of the user with a hash."""
    return PREFIX + b"events:" + prefix


def place(member: bytes) -> tuple[bytes, bytes]:
    """Return the hash and the field in which the event of a member of the log lies."""
    key = member[NUMBER.size :]
    return events_key(key[: packing.USER_HASH_BYTES]), key[packing.USER_HASH_BYTES :]


def number(moment: int) -> bytes:
    """Return a moment as bytes that are ordered as moments are."""
    return NUMBER.pack(max(moment, 0))
