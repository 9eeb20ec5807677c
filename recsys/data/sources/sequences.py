"""Plain user-item sequences, such as the Amazon Beauty files: order only, no time.

Reads Parquet or CSV files with a user, an item and a position, or text files (`.txt`) of one
`user item` pair a line, in order. Without a position column the order is that of the rows.
Integer ids become strings. Every row is a watch that came from elsewhere, its time unknown.

Options: `user_id`, `item_id`, `position`: names of the columns (`user_id`, `item_id`, `pos`).
"""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pa_csv

from recsys.data.files import find_files, read_files
from recsys.data.log import FileProblems, Log
from recsys.data.schema import with_origin
from recsys.data.sources.columns import (
    check_options,
    constant,
    integers_to_text,
    log_path,
    row_numbers,
    text_option,
)
from recsys.errors import DataError
from recsys.settings import DataSettings


def read(settings: DataSettings, seed: int) -> Log:
    """Open the sequences; `seed` is not used."""
    del seed
    check_options(settings, ("user_id", "item_id", "position"))
    path, problems = log_path(settings), FileProblems()
    names = {
        "user_id": text_option(settings, "user_id", "user_id"),
        "item_id": text_option(settings, "item_id", "item_id"),
        "sequence": text_option(settings, "position", "pos"),
    }

    def events() -> Iterator[pa.Table]:
        first = 0
        for table in _tables(path, problems, names):
            yield _events(table, names, first)
            first += table.num_rows

    return Log(events, problems=problems)


def _tables(path: Path, problems: FileProblems, names: dict[str, str]) -> Iterator[pa.Table]:
    if path.suffix == ".txt":
        return iter([_pairs(path, names)])
    return read_files(find_files(path), problems, columns=list(names.values()))


def _pairs(path: Path, names: dict[str, str]) -> pa.Table:
    read_options = pa_csv.ReadOptions(column_names=[names["user_id"], names["item_id"]])
    types = {name: pa.string() for name in read_options.column_names}
    try:
        table = pa_csv.read_csv(
            path,
            read_options=read_options,
            parse_options=pa_csv.ParseOptions(delimiter=" "),
            convert_options=pa_csv.ConvertOptions(column_types=types),
        )
    except pa.ArrowInvalid as error:
        raise DataError(f"{path}: expected lines of 'user item': {error}") from None
    return with_origin(table, str(path), is_text=True)


def _events(table: pa.Table, names: dict[str, str], first: int) -> pa.Table:
    present = {name: raw for name, raw in names.items() if raw in table.column_names}
    columns = {name: table[raw] for name, raw in present.items()}
    columns |= {
        name: integers_to_text(columns[name]) for name in ("user_id", "item_id") if name in present
    }
    if "sequence" not in present:
        columns["sequence"] = row_numbers(first, table.num_rows)
    columns["is_impression"] = constant(False, table.num_rows)
    return pa.table(columns, metadata=table.schema.metadata)
