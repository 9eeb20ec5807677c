"""Users' states rebuilt from a prepared shard, and states turned back into timelines.

The server keeps states; training reads shards. Both reach the features as `Timelines`, and for
the same user the two are equal bit by bit.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from recsys.data.catalogue import Catalogue
from recsys.data.columns import id_bytes, integers
from recsys.data.prepared import Prepared, Shard
from recsys.data.timelines import Timelines
from recsys.data.user_log import watch_labels
from recsys.data.watches import positive_watches
from recsys.settings import WatchRule
from recsys.state import EVENT_DTYPES, UserEvents, UserState

Attributes = dict[str, str | float]


def user_states(prepared: Prepared, shard: Shard) -> Iterator[UserState]:
    """Yield the state of every user of a shard, at the end of the log.

    Take `UserState.as_of` of it for an earlier moment.

    Args:
        prepared: Gives the catalogue and the rule of watches.
        shard: One of its shards.
    """
    rule = WatchRule.model_validate(prepared.manifest["settings"]["data"]["watch"])
    columns = _shard_events(prepared, shard, rule).arrays()
    offsets = shard.timelines.offsets.tolist()
    searches = _shard_searches(shard)
    attributes = _shard_attributes(shard.users())
    for number, user_id in enumerate(shard.user_ids.tolist()):
        own = slice(offsets[number], offsets[number + 1])
        yield UserState(
            user_id=user_id.decode(),
            events=UserEvents(**{name: values[own] for name, values in columns.items()}),
            searches=searches.get(user_id, ()),
            attributes=attributes[number],
        )


def timelines_of_states(
    states: Sequence[UserState],
    catalogue: Catalogue,
    duration_ms_of_row: np.ndarray,
    rule: WatchRule,
) -> Timelines:
    """Turn states into timelines, a user each, in their order.

    Args:
        states: [U].
        catalogue: Gives the rows of items; unknown items have row -1.
        duration_ms_of_row: int64 [N], -1 unknown.
        rule: What a positive watch is.
    """
    events = _concatenated([state.events for state in states])
    lengths = [len(state.events) for state in states]
    item = catalogue.vocabulary.rows_of_bytes(events.item_id)
    # Row -1 reads the last item's: to put one more behind would copy them all for a request.
    duration_ms = np.where(item >= 0, duration_ms_of_row[item], -1)
    return Timelines(
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        item=item,
        moment=events.moment,
        outcome_moment=events.outcome_moment,
        has_time=events.has_time,
        watch_ms=events.watch_ms,
        clicked=events.clicked,
        is_impression=events.is_impression,
        is_watch=positive_watches(rule, events.watch_ms, duration_ms, events.watch_label),
    )


def _concatenated(events: Sequence[UserEvents]) -> UserEvents:
    if len(events) == 1:
        return events[0]
    columns = {
        name: np.concatenate([getattr(one, name) for one in events] or [np.zeros(0, dtype)])
        for name, dtype in EVENT_DTYPES.items()
    }
    return UserEvents(**columns)


def _shard_events(prepared: Prepared, shard: Shard, rule: WatchRule) -> UserEvents:
    # Plain views: each slice of a memory map would cost ten times as much.
    timelines = Timelines(**{k: np.asarray(v) for k, v in shard.timelines.arrays().items()})
    table = shard.events([name for name in ("event_id", rule.column) if name is not None])
    item_id = prepared.catalogue.vocabulary.id_bytes(timelines.item)
    label = watch_labels(table, rule.column)
    # A state keeps no durations of events. Where an event's own duration decided otherwise than
    # the catalogue's would, the decision itself is kept, as a label.
    duration_ms = integers(prepared.catalogue.table, "duration_ms")[timelines.item]
    as_served = positive_watches(rule, timelines.watch_ms, duration_ms, label)
    differs = as_served != timelines.is_watch
    names = table.column_names
    empty = np.zeros(len(table), np.bytes_)
    return UserEvents(
        item_id=item_id,
        event_id=id_bytes(table["event_id"]) if "event_id" in names else empty,
        moment=timelines.moment,
        outcome_moment=timelines.outcome_moment,
        has_time=timelines.has_time,
        watch_ms=timelines.watch_ms,
        clicked=timelines.clicked,
        watch_label=np.where(differs, timelines.is_watch, label).astype(np.int8),
        is_impression=timelines.is_impression,
    )


def _shard_searches(shard: Shard) -> dict[bytes, tuple[tuple[str, int], ...]]:
    table = shard.searches()
    searches: dict[bytes, list[tuple[str, int]]] = {}
    rows = zip(
        table["user_id"].to_pylist(),
        table["query"].to_pylist(),
        integers(table, "event_time").tolist(),
        strict=True,
    )
    for user_id, query, moment in rows:
        searches.setdefault(user_id.encode(), []).append((query, moment))
    return {user_id: tuple(of_user) for user_id, of_user in searches.items()}


def _shard_attributes(users: pa.Table) -> list[Attributes]:
    """Return what the users table says of each user, without what it leaves open."""
    columns: list[tuple[str, list[Any]]] = [
        (name, [_attribute(value) for value in users[name].to_pylist()])
        for name in users.column_names
        if name != "user_id" and not pa.types.is_nested(users[name].type)
    ]
    return [
        {name: values[row] for name, values in columns if values[row] is not None}
        for row in range(len(users))
    ]


def _attribute(value: Any) -> str | float | None:
    """Return text as it is and numbers as floats; `category_of` spells both as the log does."""
    if isinstance(value, (int, float)):
        return float(value) if value == value else None
    return value if isinstance(value, str) else None
