"""What the sources share: options looked up and checked, columns brought to contract types."""

import difflib
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.errors import ConfigError
from recsys.settings import DataSettings

_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}


def log_path(settings: DataSettings) -> Path:
    """Return the path of a log on disk.

    Raises:
        ConfigError: None is set, or nothing is there.
    """
    if settings.path is None:
        raise ConfigError(f"data.path: the source '{settings.source}' needs a file or folder")
    path = Path(settings.path)
    if not path.exists():
        raise ConfigError(f"data.path: expected a file or folder, found nothing at {path}")
    return path


def check_options(settings: DataSettings, known: Iterable[str]) -> None:
    """Refuse options that the source does not know.

    Raises:
        ConfigError: Names the unknown key and the nearest known one.
    """
    names = list(known)
    for key in settings.options:
        if key not in names:
            nearest = difflib.get_close_matches(key, names, n=1)
            hint = f"did you mean '{nearest[0]}'?" if nearest else f"it knows {names}"
            raise ConfigError(
                f"data.options.{key}: unknown to the source '{settings.source}'; {hint}"
            )


def text_option(settings: DataSettings, key: str, default: str) -> str:
    """Return an option that is a string."""
    value = settings.options.get(key, default)
    if not isinstance(value, str):
        raise ConfigError(f"data.options.{key}: expected a string, got {value!r}")
    return value


def flag_option(settings: DataSettings, key: str) -> bool:
    """Return an option that is true or false (the default)."""
    value = settings.options.get(key, False)
    if not isinstance(value, bool):
        raise ConfigError(f"data.options.{key}: expected true or false, got {value!r}")
    return value


def mapping_option(settings: DataSettings, key: str) -> dict[str, str]:
    """Return an option that is a table of strings, empty by default."""
    value = settings.options.get(key, {})
    if not isinstance(value, dict):
        raise ConfigError(
            f'data.options.{key}: expected a table such as {{ user_id = "uid" }}, got {value!r}'
        )
    return value


def integers_to_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return integers as strings, anything else as it is (validation judges it)."""
    return column.cast(pa.string()) if pa.types.is_integer(column.type) else column


def whole_numbers_to_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return integers, and floats that stand for integer codes, as strings: 3.0 -> '3'."""
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_finite(column), column, None).cast(pa.int64())
    return column if pa.types.is_null(column.type) else column.cast(pa.string())


def flags(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return 0 and other numbers as false and true."""
    return pc.not_equal(column, 0)


def epoch_to_time(column: pa.ChunkedArray, unit: str) -> pa.ChunkedArray:
    """Return numbers since the epoch (s, ms, us or ns) as UTC times, whole or in fractions."""
    if pa.types.is_floating(column.type):
        column = pc.multiply(column, 1_000_000 / _PER_SECOND[unit])
        column, unit = pc.if_else(pc.is_finite(column), pc.round(column), None), "us"
    return column.cast(pa.int64()).cast(pa.timestamp(unit, tz="UTC"))


def split_text(column: pa.ChunkedArray, separator: str) -> pa.ChunkedArray:
    """Return 'a|b' as ['a', 'b'] without blanks around either; null and empty text as null."""
    text = pc.utf8_trim_whitespace(column.cast(pa.string()))
    text = pc.if_else(pc.equal(text, ""), None, text)
    return pc.split_pattern_regex(text, rf"\s*{re.escape(separator)}\s*")


def constant(value: object, num_rows: int) -> pa.Array:
    """Return one value, repeated."""
    return pa.repeat(pa.scalar(value), num_rows)


def conform(table: pa.Table, wanted: pa.Schema) -> pa.Table:
    """Return the table with exactly the wanted columns; those it lacks are null."""
    nulls = {
        field.name: pa.nulls(table.num_rows, field.type)
        for field in wanted
        if field.name not in table.column_names
    }
    columns = {field.name: table[field.name] for field in wanted if field.name not in nulls}
    ordered = {field.name: (columns | nulls)[field.name] for field in wanted}
    return pa.table(ordered).cast(wanted).replace_schema_metadata(table.schema.metadata)


def row_numbers(first: int, num_rows: int) -> pa.Array:
    """Return first, first + 1, ...: int64 [num_rows]."""
    return pa.array(np.arange(first, first + num_rows, dtype=np.int64))
