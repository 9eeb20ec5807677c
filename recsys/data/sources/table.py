"""A log of one's own: Parquet or CSV files, Arrow tables or pandas frames, by a column mapping.

`path` is the events: a file, or a folder whose Parquet and CSV files are read together. With the
option `events`, it is the folder in which the tables lie. Options:

  `events`, `searches`, `items`, `users`: files or folders below `path`.
  `columns`, `search_columns`, `item_columns`, `user_columns`: contract name -> column of the
      file, as in `columns = { user_id = "uid", event_time = "ts" }`. Columns not named there keep
      their names: those of the contract need no entry, others become further columns.
  `time_unit`: s, ms, us or ns: times are numbers since the epoch, in this unit.
  `duration_unit`: ms (the default) or s: what `watch_ms` and `duration_ms` are in.
  `naive_times_are_utc`: times that state no zone are UTC (otherwise they are refused).
  `integers_as_text`: integers in columns of strings, ids above all, become text: 7 -> '7'.
  `parse_text`: strings in columns of times, numbers and flags are parsed, as those of CSV files
      always are.
  `list_separator`: lists (`topics`) are text, split at this.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from recsys.data import schema
from recsys.data.files import find_files, read_files
from recsys.data.log import FileProblems, Log, no_tables
from recsys.data.sources.columns import (
    check_options,
    epoch_to_time,
    flag_option,
    integers_to_text,
    log_path,
    mapping_option,
    split_text,
    text_option,
)
from recsys.errors import ConfigError, DataError
from recsys.settings import DataSettings

Rows: TypeAlias = pa.Table | pd.DataFrame | str | os.PathLike
"""Rows in memory, or the file or folder that holds them."""

_TIME_UNITS = ("s", "ms", "us", "ns")
_DURATION_UNITS = ("ms", "s")
_DURATIONS = ("watch_ms", "duration_ms")
_OPTIONS = (
    *("events", "searches", "items", "users"),
    *("columns", "search_columns", "item_columns", "user_columns"),
    *(
        "time_unit",
        "duration_unit",
        "naive_times_are_utc",
        "integers_as_text",
        "parse_text",
        "list_separator",
    ),
)


def read(settings: DataSettings, seed: int) -> Log:
    """Open the tables that the options name; `seed` is not used."""
    del seed
    path = log_path(settings)

    def below(key: str) -> Path | None:
        return path / text_option(settings, key, "") if key in settings.options else None

    return log_from_rows(
        below("events") or path,
        settings,
        searches=below("searches"),
        items=below("items"),
        users=below("users"),
    )


def log_from_rows(
    events: Rows,
    settings: DataSettings,
    *,
    searches: Rows | None = None,
    items: Rows | None = None,
    users: Rows | None = None,
) -> Log:
    """Return a log of tables in memory or on disk, columns mapped as the options say.

    Args:
        events: Rows of the events.
        settings: Its `options` give the mapping; `path` is not used.
        searches: Rows of the searches, if there are any.
        items: Rows of the items.
        users: Rows of the users.
    """
    check_options(settings, _OPTIONS)
    _check_choice(settings, "time_unit", _TIME_UNITS)
    _check_choice(settings, "duration_unit", _DURATION_UNITS)
    problems = FileProblems()

    def whole(rows: Rows | None, mapping: str, contract: pa.Schema) -> pa.Table | None:
        if rows is None:
            return None
        tables = list(_tables(rows, settings, mapping, contract, problems)())
        return pa.concat_tables(tables, promote_options="permissive")

    return Log(
        events=_tables(events, settings, "columns", schema.EVENTS, problems),
        searches=no_tables
        if searches is None
        else _tables(searches, settings, "search_columns", schema.SEARCHES, problems),
        items=whole(items, "item_columns", schema.ITEMS),
        users=whole(users, "user_columns", schema.USERS),
        problems=problems,
    )


def _check_choice(settings: DataSettings, key: str, choices: tuple[str, ...]) -> None:
    value = text_option(settings, key, choices[0])
    if value not in choices:
        raise ConfigError(f"data.options.{key}: expected one of {choices}, got {value!r}")


def _tables(
    rows: Rows, settings: DataSettings, mapping: str, contract: pa.Schema, problems: FileProblems
) -> Callable[[], Iterator[pa.Table]]:
    names = mapping_option(settings, mapping)
    _check_targets(names, mapping, contract)

    def tables() -> Iterator[pa.Table]:
        for table in _batches(rows, problems):
            if flag_option(settings, "parse_text"):
                table = schema.with_origin(
                    table, schema.file_of(table) or "the table", is_text=True
                )
            yield _as_contract(_rename(table, names, mapping), settings, contract)

    return tables


def _check_targets(names: dict[str, str], mapping: str, contract: pa.Schema) -> None:
    unknown = sorted(set(names) - set(contract.names))
    if unknown:
        raise ConfigError(
            f"data.options.{mapping}: {unknown} are no columns of the contract, expected some "
            f"of {contract.names}; write contract_name = 'name in the file'"
        )


def _batches(rows: Rows, problems: FileProblems) -> Iterator[pa.Table]:
    if isinstance(rows, pa.Table):
        return iter([rows])
    if isinstance(rows, pd.DataFrame):
        return iter([_from_pandas(rows)])
    path = Path(rows)
    if not path.exists():
        raise DataError(f"expected a file or folder, found nothing at {path}; check data.options")
    return read_files(find_files(path), problems)


def _from_pandas(frame: pd.DataFrame) -> pa.Table:
    try:
        table = pa.Table.from_pandas(frame, preserve_index=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DataError(f"a column of the frame holds values of several types: {error}") from None
    return table.replace_schema_metadata(None)


def _rename(table: pa.Table, names: dict[str, str], mapping: str) -> pa.Table:
    missing = sorted(set(names.values()) - set(table.column_names))
    if missing:
        raise DataError(
            f"{schema.file_of(table) or 'the table'}: data.options.{mapping} names the columns "
            f"{missing}, found {table.column_names}"
        )
    columns = {name: table[raw] for name, raw in names.items()}
    taken = set(names.values()) | set(names)
    columns |= {name: table[name] for name in table.column_names if name not in taken}
    return pa.table(columns, metadata=table.schema.metadata)


def _as_contract(table: pa.Table, settings: DataSettings, contract: pa.Schema) -> pa.Table:
    """Do what the options allow; whatever is left is for the validation to judge."""
    for position, name in enumerate(table.column_names):
        if name in contract.names:
            column = _convert(table, name, contract.field(name).type, settings)
            table = table.set_column(position, name, column)
    return table


def _convert(
    table: pa.Table, name: str, expected: pa.DataType, settings: DataSettings
) -> pa.ChunkedArray:
    column = table[name]
    if pa.types.is_large_string(column.type) or pa.types.is_string_view(column.type):
        column = column.cast(pa.string())
    if pa.types.is_timestamp(expected):
        return _convert_time(column, settings, is_text=schema.is_text(table))
    if name in _DURATIONS and text_option(settings, "duration_unit", "ms") == "s":
        return _to_milliseconds(column)
    separator = text_option(settings, "list_separator", "")
    if pa.types.is_list(expected) and separator and not pa.types.is_nested(column.type):
        return split_text(column, separator)
    if pa.types.is_string(expected) and flag_option(settings, "integers_as_text"):
        return integers_to_text(column)
    return column


def _to_milliseconds(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return seconds, numbers or text, as milliseconds; text that is no number stays as it is."""
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        return pc.round(pc.multiply(column.cast(pa.float64()), 1000.0))
    if not pa.types.is_string(column.type):
        return column
    is_number = pc.match_substring_regex(column, "^-?[0-9]{1,15}(\\.[0-9]*)?$")
    seconds = pc.if_else(is_number, column, None).cast(pa.float64())
    as_text = pc.round(pc.multiply(seconds, 1000.0)).cast(pa.int64()).cast(pa.string())
    return pc.if_else(is_number, as_text, column)


def _convert_time(
    column: pa.ChunkedArray, settings: DataSettings, *, is_text: bool
) -> pa.ChunkedArray:
    naive_is_utc = flag_option(settings, "naive_times_are_utc")
    unit = text_option(settings, "time_unit", "")
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        return epoch_to_time(column, unit) if unit else column
    is_text = is_text and pa.types.is_string(column.type)
    if is_text:
        column = _parse_epoch(column, unit) if unit else column
        is_still_text = pa.types.is_string(column.type)
        return _with_zone(column) if is_still_text and naive_is_utc else column
    if pa.types.is_date(column.type) and naive_is_utc:
        column = column.cast(pa.timestamp("ms"))
    is_naive = pa.types.is_timestamp(column.type) and column.type.tz is None
    return pc.assume_timezone(column, "UTC") if is_naive and naive_is_utc else column


def _parse_epoch(column: pa.ChunkedArray, unit: str) -> pa.ChunkedArray:
    """Return text as times if all of it is numbers; else as ISO text beside what is none."""
    try:
        return epoch_to_time(column.cast(pa.int64()), unit)
    except pa.ArrowInvalid:
        is_number = pc.match_substring_regex(column, "^-?[0-9]{1,18}$")
    counts = pc.if_else(is_number, column, None).cast(pa.int64())
    as_iso = epoch_to_time(counts, unit).cast(pa.string())
    return pc.if_else(is_number, as_iso, column)


def _with_zone(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return ISO text with a Z wherever it states no zone."""
    is_date = pc.match_substring_regex(column, "^[0-9]{4}-[0-9]{2}-[0-9]{2}$")
    column = pc.if_else(is_date, pc.binary_join_element_wise(column, "00:00:00", " "), column)
    is_naive = pc.match_substring_regex(column, ":[0-9]{2}(\\.[0-9]+)?$")
    has_zone = pc.match_substring_regex(column, "[+-][0-9]{2}:?[0-9]{2}$|Z$")
    is_naive = pc.and_(is_naive, pc.invert(has_zone))
    return pc.if_else(is_naive, pc.binary_join_element_wise(column, "Z", ""), column)
