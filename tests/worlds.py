"""Tiny logs with known answers, for any test."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa

from recsys.data.log import Log

START = datetime(2026, 1, 1, tzinfo=UTC)


def event_rows(*rows: dict) -> pa.Table:
    """Return events of the given values; what a row does not give is null."""
    return pa.Table.from_pylist(list(rows)) if rows else pa.table({})


def as_log(events: pa.Table, *, num_batches: int = 1, **tables: pa.Table) -> Log:
    """Return a log of events in memory, in batches; `items` and `users` may come along."""
    size = max(1, -(-events.num_rows // num_batches))
    return Log(
        lambda: iter([events.slice(k, size) for k in range(0, max(events.num_rows, 1), size)]),
        **tables,
    )


def successor_events(num_users: int, num_items: int, length: int) -> pa.Table:
    """Return watches of which the next is always known: item i is followed by i + 1, cyclically."""
    user = np.repeat(np.arange(num_users), length)
    step = np.tile(np.arange(length), num_users)
    return _watches(user, (user + step) % num_items, step)


def two_camp_events(num_users: int, items_per_camp: int, length: int, *, seed: int) -> pa.Table:
    """Return watches of two camps: even users watch items a0, a1, ..., odd ones b0, b1, ..."""
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(num_users), length)
    item = rng.integers(items_per_camp, size=len(user))
    names = [f"{'ab'[owner % 2]}{number}" for owner, number in zip(user, item, strict=True)]
    step = np.tile(np.arange(length), num_users)
    return _watches(user, names, step)


def constant_watch_events(num_users: int, item_watch_ms: Sequence[int]) -> pa.Table:
    """Return impressions of every item to every user, watched as long as the item says."""
    num_items = len(item_watch_ms)
    user = np.repeat(np.arange(num_users), num_items)
    item = np.tile(np.arange(num_items), num_users)
    events = _watches(user, item, item)
    watch_ms = pa.array(np.asarray(item_watch_ms, np.int64)[item])
    shown = pa.array(np.ones(len(user), bool))
    events = events.set_column(events.column_names.index("is_impression"), "is_impression", shown)
    return events.append_column("watch_ms", watch_ms)


def _watches(user: np.ndarray, item: Sequence | np.ndarray, step: np.ndarray) -> pa.Table:
    times = [START + timedelta(minutes=int(minute)) for minute in step]
    return pa.table(
        {
            "user_id": [f"u{number}" for number in user],
            "item_id": [name if isinstance(name, str) else f"i{name}" for name in item],
            "event_time": pa.array(times, pa.timestamp("us", tz="UTC")),
            "is_impression": np.zeros(len(user), bool),
        }
    )
