"""A log small enough to work out by hand, and the settings that prepare it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.prepare import prepare
from recsys.data.log import Log
from recsys.data.prepared import Prepared, load_prepared
from recsys.settings import RecsysSettings

TIME = pa.timestamp("us", "UTC")
SECOND = 1_000_000

# (user, item, second, watched ms or None, is impression). Item x lasts 10 s, y 20 s, z unknown.
ROWS = [
    ("ann", "x", 100, 8_000, True),  # outcome at 108
    ("ann", "y", 104, 1_000, True),  # outcome at 105
    ("ann", "y", 110, 15_000, True),  # outcome at 125
    ("bob", "x", 108, 0, True),  # outcome at 108, too late for what happens at 108
    ("bob", "z", 109, 9_000, False),  # outcome at 118, not an impression
    ("bob", "x", 130, None, True),  # never known
    ("cat", "y", 125, 20_000, True),  # at the moment when ann's outcome becomes known
    ("cat", "new", 140, 5_000, True),  # an item of the test part only
]


def event_table(rows: list[tuple[Any, ...]] | None = None, **columns: Any) -> pa.Table:
    """Return events of (user, item, second, watch_ms, is_impression), with further columns."""
    users, items, seconds, watches, shown = zip(*(ROWS if rows is None else rows), strict=True)
    table = {
        "user_id": pa.array(users, pa.string()),
        "item_id": pa.array(items, pa.string()),
        "event_time": pa.array([second * SECOND for second in seconds], TIME),
        "watch_ms": pa.array(watches, pa.int64()),
        "is_impression": pa.array(shown, pa.bool_()),
    }
    return pa.table(table | columns)


ITEMS = pa.table(
    {
        "item_id": ["x", "y", "unwatched"],
        "channel_id": ["north", "south", "north"],
        "duration_ms": [10_000, 20_000, None],
        "topics": [["art", "war"], ["art"], ["sea"]],
    }
)
USERS = pa.table({"user_id": ["ann", "cat"], "country": ["NL", "FR"], "birth_year": [1950, None]})
SEARCHES = pa.table(
    {
        "user_id": ["ann", "ann", "bob"],
        "event_time": pa.array([103 * SECOND, 110 * SECOND, 1 * SECOND], TIME),
        "query": ["Sea War", "war", "art"],
    }
)


def tiny_settings(**changes: Mapping[str, Any]) -> RecsysSettings:
    """Return settings of the tiny log: watched half, training before 120 s, test from 135 s."""
    sections: dict[str, Any] = {
        "data": {
            "source": "table",
            "watch": {"min_ms": 9_000, "min_fraction": 0.5},
            "shards": 1,
            "processes": 1,
        },
        "split": {
            "kind": "time",
            "validation_from": "1970-01-01T00:02:00",
            "test_from": "1970-01-01T00:02:15",
        },
        "candidates": {"context": ("country",)},
        "ranking": {
            "user_categorical": ("user_id",),
            "item_categorical": ("topics",),
            "user_numeric": ("age",),
        },
    }
    for name, section in changes.items():
        sections[name] = sections.get(name, {}) | dict(section)
    return RecsysSettings.model_validate({"name": "tiny", **sections})


def tiny_log(events: pa.Table | None = None, **tables: Any) -> Log:
    """Return the tiny log, or one of other tables."""
    searches = tables.get("searches", SEARCHES)
    return Log(
        events=lambda: iter([event_table() if events is None else events]),
        searches=lambda: iter([] if searches is None else [searches]),
        items=tables.get("items", ITEMS),
        users=tables.get("users", USERS),
    )


def prepare_tiny(
    directory: Path, log: Log | None = None, settings: RecsysSettings | None = None
) -> Prepared:
    """Prepare the tiny log, or another, below a directory."""
    directory.mkdir(parents=True)
    prepare(log or tiny_log(), settings or tiny_settings(), directory)
    return load_prepared(directory)
