"""A first configuration for someone's own files: looks at names and values, explains each guess.

Every file, and every folder of files, at the path is a table. What a column is, is guessed from
its name first (`uid`, `userId`, `visitor_id` are users) and from its values where the name leaves
it open (whether 1650812741436 counts milliseconds). The result is meant to be read and corrected.
"""

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow as pa

from recsys.data import schema
from recsys.data.column_guess import (
    NAMES,
    guess_columns,
    is_naive,
    is_seconds,
    is_string,
    likely_separator,
    time_unit,
)
from recsys.data.describe import Sample
from recsys.data.files import find_files, read_files
from recsys.data.log import FileProblems, Log
from recsys.data.sources import open_log
from recsys.data.validation import validate_events
from recsys.errors import DataError
from recsys.settings import DataSettings

_TIMES = ("event_time", "upload_time")
_DURATIONS = ("watch_ms", "duration_ms")
_CONTEXT = ("surface", "device", "country", "language")
_CONTRACTS = {
    "events": schema.EVENTS,
    "searches": schema.SEARCHES,
    "items": schema.ITEMS,
    "users": schema.USERS,
}
_MAPPINGS = {
    "events": "columns",
    "searches": "search_columns",
    "items": "item_columns",
    "users": "user_columns",
}

Options: TypeAlias = dict[str, str | int | float | bool | list[str] | dict[str, str]]


@dataclass(frozen=True)
class _Guess:
    """One table: where it is, its first rows, contract name -> its column."""

    kind: str
    path: Path
    sample: pa.Table
    columns: dict[str, str]


def guess_config(path: Path) -> str:
    """Return a TOML configuration for the files at a path, each guess explained in a comment.

    Args:
        path: A Parquet or CSV file of events, or a folder with it and other tables.

    Raises:
        DataError: No file there looks like events: users, items, and a time or an order.
    """
    tables = _guess_tables(path)
    events = next((table for table in tables if table.kind == "events"), None)
    if events is None:
        raise DataError(_no_events(path, tables))
    options, comments = _options(path, tables, events)
    settings = DataSettings(source="table", path=str(path), options=options)
    watch, watch_comment = _watch_rule(events)
    times = _sample_times(open_log(settings, 0), settings) if "event_time" in events.columns else []
    parts = [
        f"# Guessed from {_toml(str(path))}.",
        "# Read every line: a wrong mapping trains a wrong model.",
        f"name = {_toml(path.stem or 'log')}",
        "",
        "[data]",
        'source = "table"',
        f"path = {_toml(str(path))}",
        f"# {watch_comment}",
        f"watch = {watch}",
        "",
        *_options_lines(options, comments),
        *_split_lines(times),
        *_stage_lines(events),
    ]
    return "\n".join(parts) + "\n"


def _guess_tables(path: Path) -> list[_Guess]:
    places = [path] if path.is_file() else sorted(place for place in path.iterdir())
    if any("=" in place.name for place in places):
        places = [path]  # Hive-partitioned: one table
    tables: list[_Guess] = []
    for place in places:
        sample = _first_rows(place)
        if sample is not None:
            tables.append(_guess_table(place, sample))
    return _one_of_each(tables)


def _first_rows(place: Path) -> pa.Table | None:
    try:
        files = find_files(place)
        return next(read_files(files, FileProblems()), None)
    except DataError:
        return None  # no table: a README, a damaged file, a folder of pictures


def _guess_table(place: Path, sample: pa.Table) -> _Guess:
    columns = guess_columns(sample, list(NAMES))
    if "user_id" in columns and "query" in columns and "item_id" not in columns:
        kind = "searches"
    elif "user_id" in columns and "item_id" in columns:
        kind = "events"
    else:
        kind = "items" if "item_id" in columns else "users" if "user_id" in columns else "other"
    known = _CONTRACTS[kind].names if kind in _CONTRACTS else []
    return _Guess(kind, place, sample, guess_columns(sample, known))


def _one_of_each(tables: list[_Guess]) -> list[_Guess]:
    """Keep, of several tables of a kind, the one with the most of the contract's columns."""
    kept = []
    for kind in _CONTRACTS:
        rivals = [table for table in tables if table.kind == kind]
        if rivals:
            kept.append(max(rivals, key=lambda table: (len(table.columns), _num_flat(table))))
    return kept


def _num_flat(table: _Guess) -> int:
    return sum(not pa.types.is_nested(column.type) for column in table.sample.columns)


def _no_events(path: Path, tables: list[_Guess]) -> str:
    seen = {table.path.name: table.sample.column_names for table in tables} or "no tables"
    return (
        f"{path}: expected a Parquet or CSV file with a user, an item, and a time or an order; "
        f"found {seen}; rename the columns, or write the mapping by hand (source 'table')"
    )


def _options(path: Path, tables: list[_Guess], events: _Guess) -> tuple[Options, dict[str, str]]:
    """Return the options of the table source, and for each why."""
    if not {"event_time", "sequence"} & set(events.columns):
        raise DataError(_no_events(path, tables))
    options: Options = {}
    comments: dict[str, str] = {}
    for table in tables:
        if table.path != path:
            options[table.kind] = table.path.name
            comments[table.kind] = f"{table.sample.column_names}"
    for key, (value, comment) in _value_options(tables).items():
        options[key], comments[key] = value, comment
    for table in tables:
        options[_MAPPINGS[table.kind]] = table.columns
    return options, comments


def _value_options(tables: list[_Guess]) -> dict[str, tuple[str | bool, str]]:
    """Return what the values of the mapped columns ask for; the first column to ask decides."""
    found: dict[str, tuple[str | bool, str]] = {}
    for table in tables:
        for name, raw in table.columns.items():
            for key, value in _column_options(table, name, raw).items():
                found.setdefault(key, value)
    return found


def _column_options(table: _Guess, name: str, raw: str) -> dict[str, tuple[str | bool, str]]:
    expected = _CONTRACTS[table.kind].field(name).type
    column = table.sample[raw]
    found: dict[str, tuple[str | bool, str]] = {}
    if pa.types.is_string(expected) and pa.types.is_integer(column.type):
        found["integers_as_text"] = (True, f"{raw!r} holds {column.type}, but is an id or a code")
    if name in _TIMES and (unit := time_unit(table.sample, raw)):
        found["time_unit"] = (unit, f"the size of the numbers in {raw!r}")
    elif name in _TIMES and is_naive(column):
        found["naive_times_are_utc"] = (True, f"{raw!r} states no zone: is it UTC?")
    if name in _DURATIONS:
        unit = "s" if is_seconds(table.sample, raw) else "ms"
        found["duration_unit"] = (unit, f"{raw!r}, by its name and the size of its numbers")
    if name == "topics" and not pa.types.is_nested(column.type):
        found["list_separator"] = (likely_separator(column), f"between the parts of {raw!r}")
    elif _is_text_for_value(table, expected, column):
        found["parse_text"] = (True, f"{raw!r} is text")
    return found


def _is_text_for_value(table: _Guess, expected: pa.DataType, column: pa.ChunkedArray) -> bool:
    is_value = not (pa.types.is_string(expected) or pa.types.is_nested(expected))
    return is_value and not schema.is_text(table.sample) and is_string(column.type)


def _toml(value: object) -> str:
    # JSON's spelling of strings, flags and lists is TOML's, but for escaped surrogate pairs.
    return json.dumps(value, ensure_ascii=False)


def _watch_rule(events: _Guess) -> tuple[str, str]:
    if "watch_ms" in events.columns:
        return "{ min_ms = 1 }", "any watch time counts as a watch; raise it for a stricter rule"
    if "clicked" in events.columns:
        return '{ column = "clicked" }', "a click counts as a watch: there is no watch time"
    return "{ unknown_is_watch = true }", "every event counts as a watch: no outcome is told"


def _options_lines(
    options: Options,
    comments: dict[str, str],
) -> list[str]:
    lines = ["[data.options]"]
    for key, value in options.items():
        if not isinstance(value, dict):
            lines += [f"# {comments[key]}", f"{key} = {_toml(value)}"]
    for key, value in options.items():
        if isinstance(value, dict):
            lines += [
                "",
                f"[data.options.{key}]",
                "# contract name = column of the file, by its name",
            ]
            lines += [f"{name} = {_toml(raw)}" for name, raw in value.items()]
    return [*lines, ""]


def _sample_times(log: Log, settings: DataSettings) -> list[datetime]:
    """Return the times at 0, 80, 90 and 100 % of the events."""
    sample = Sample()
    for table in log.events():
        times = validate_events(table, settings).accepted["event_time"].drop_null()
        sample.add(times.cast(pa.int64()).to_numpy())
    if not len(sample.values()):
        return []
    counts = np.quantile(sample.values(), (0, 0.8, 0.9, 1), method="nearest").astype(np.int64)
    return list(pa.array(counts).cast(schema.TIME).to_pylist())


def _split_lines(times: list[datetime]) -> list[str]:
    if not times:
        return [
            "[split]",
            "# order only: each user's last watch is test",
            'kind = "leave_one_out"',
            "",
        ]
    first, validation, test, last = times
    if last - first >= timedelta(days=10):
        validation, test = (_midnight(moment) for moment in (validation, test))
    if not first < validation < test <= last:
        return ["[split]", "# too short a span to cut by time", 'kind = "leave_one_out"', ""]
    return [
        "[split]",
        f"# events run from {first.isoformat()} to {last.isoformat()};",
        "# the last tenth or so is test, the tenth before it validation",
        'kind = "time"',
        f"validation_from = {_toml(validation.isoformat())}",
        f"test_from = {_toml(test.isoformat())}",
        "",
    ]


def _midnight(moment: datetime) -> datetime:
    return moment.replace(hour=0, minute=0, second=0, microsecond=0)


def _stage_lines(events: _Guess) -> list[str]:
    context = [name for name in _CONTEXT if name in events.columns]
    lines = ["[candidates]", "# context columns of the events", f"context = {_toml(context)}"]
    if "watch_ms" in events.columns:
        lines += ["", "[ranking]", f"user_categorical = {_toml(context)}"]
    else:
        lines += ["", "[ranking]", "# no watch time to learn from: served in candidate order"]
        lines += ["enabled = false"]
    return lines
