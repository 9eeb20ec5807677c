"""Parquet and CSV files as batches of rows; a file that cannot be read is named, the rest go on.

A folder is read recursively in the order of its paths. A Hive-style folder (`date=20220501`)
becomes a column of strings, unless its files have one of that name.
"""

import csv as python_csv
import gzip
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from recsys.data import schema
from recsys.data.log import FileProblems
from recsys.errors import DataError

BATCH_ROWS = 1 << 18
_CSV_BLOCK_BYTES = 1 << 24
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
SUFFIXES = (".parquet", ".csv", ".tsv", ".csv.gz", ".tsv.gz")

Types = Mapping[str, pa.DataType]


def find_files(path: Path, pattern: str = "*") -> list[Path]:
    """Return the data files at a path: itself, or those below it whose names match.

    Raises:
        DataError: There is none.
    """
    if path.is_file() and path.name.endswith(SUFFIXES):
        return [path]
    names = (file for file in path.rglob(pattern) if file.name.endswith(SUFFIXES))
    files = sorted(file for file in names if not _is_hidden(file.relative_to(path)))
    if not files:
        raise DataError(
            f"{path}: expected files like {pattern} ending in {', '.join(SUFFIXES)}, found none; "
            f"check data.path and data.options"
        )
    return files


def read_files(
    files: Sequence[Path],
    problems: FileProblems,
    *,
    types: Types | None = None,
    columns: Sequence[str] | None = None,
) -> Iterator[pa.Table]:
    """Yield the rows of files in batches; note in `problems` what cannot be read.

    Args:
        files: Parquet or CSV, by suffix.
        problems: Filled on the way. The rows before the damage in a file are kept.
        types: Arrow types of CSV columns, the others as they look. Without it all are
            strings, marked to be parsed value by value.
        columns: The columns to read; those that a file lacks are left out. None: all.

    Raises:
        DataError: Not one row could be read.
    """
    num_rows = 0
    for file in files:
        for table in _read_file(file, problems, types, columns):
            num_rows += table.num_rows
            yield table
    if num_rows == 0:
        reasons = "; ".join(f"{file}: {problems.bad_files.get(str(file))}" for file in files)
        raise DataError(f"expected at least one row, found none in {len(files)} files: {reasons}")


def read_whole(
    files: Sequence[Path], problems: FileProblems, *, types: Types | None = None
) -> pa.Table:
    """Return all rows of files as one table: as `read_files`, for items and users."""
    tables = list(read_files(files, problems, types=types))
    return pa.concat_tables(tables, promote_options="permissive")


def csv_header(file: Path) -> list[str]:
    """Return the column names of a CSV file."""
    opener: Callable = gzip.open if file.name.endswith(".gz") else open
    with opener(file, "rt", encoding="utf-8-sig", newline="") as lines:
        return next(python_csv.reader(lines, delimiter=_delimiter(file)), [])


def _is_hidden(relative: Path) -> bool:
    return any(part.startswith((".", "_")) for part in relative.parts)


def _delimiter(file: Path) -> str:
    return _DELIMITERS[Path(file.name.removesuffix(".gz")).suffix]


def _read_file(
    file: Path, problems: FileProblems, types: Types | None, columns: Sequence[str] | None
) -> Iterator[pa.Table]:
    name, num_rows = str(file), 0
    is_csv = not file.name.endswith(".parquet")
    try:
        batches = _csv(file, problems, types, columns) if is_csv else _parquet(file, columns)
        for batch in batches:
            num_rows += batch.num_rows
            yield _with_origin(batch, file, is_text=is_csv and types is None)
    except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        problems.bad_files[name] = f"unreadable after {num_rows} rows: {first_line}"
        return
    if num_rows == 0:
        problems.bad_files[name] = "no rows"


def _parquet(file: Path, columns: Sequence[str] | None) -> Iterator[pa.Table]:
    with pq.ParquetFile(file) as parquet:
        schema.check_version(parquet.schema_arrow, str(file))
        names = [name for name in parquet.schema_arrow.names if columns is None or name in columns]
        for batch in parquet.iter_batches(BATCH_ROWS, columns=names):
            yield pa.Table.from_batches([batch])


def _csv(
    file: Path, problems: FileProblems, types: Types | None, columns: Sequence[str] | None
) -> Iterator[pa.Table]:
    header = csv_header(file)
    if not header:
        return
    names = [name for name in header if columns is None or name in columns]
    wanted = {name: pa.string() for name in names} if types is None else types
    convert = pa_csv.ConvertOptions(
        column_types=wanted,
        include_columns=names,
        strings_can_be_null=True,
        null_values=["", "NULL"],
    )
    parse = pa_csv.ParseOptions(
        delimiter=_delimiter(file),
        newlines_in_values=True,
        invalid_row_handler=lambda row: _note_line(file, problems, row),
    )
    # Line numbers are only given to the handler when the file is read by one thread.
    read = pa_csv.ReadOptions(use_threads=False, block_size=_CSV_BLOCK_BYTES)
    with pa_csv.open_csv(
        file, read_options=read, parse_options=parse, convert_options=convert
    ) as batches:
        for batch in batches:
            yield pa.Table.from_batches([batch])


def _note_line(file: Path, problems: FileProblems, row: pa_csv.InvalidRow) -> str:
    problems.bad_lines[(str(file), row.number or 0)] = row.text
    return "skip"


def _with_origin(batch: pa.Table, file: Path, *, is_text: bool) -> pa.Table:
    for part in file.parts[:-1]:
        name, separator, value = part.partition("=")
        if separator and name not in batch.column_names:
            batch = batch.append_column(name, pa.repeat(pa.scalar(value), batch.num_rows))
    return schema.with_origin(batch, str(file), is_text=is_text)
