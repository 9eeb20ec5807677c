"""The data contract: the Arrow schemas of the four tables of a log, and their version.

Ids are strings at the edge ('007' is not '7'), times are UTC in microseconds, durations are
int64 milliseconds so that sums are exact. A column that is not required may be absent or null.
Columns beyond the contract keep their name and type, to be used as features or labels.
"""

import pyarrow as pa

from recsys.errors import DataError

SCHEMA_VERSION = 1
"""Number of this contract, kept in the metadata of every Parquet file under `VERSION_KEY`."""

VERSION_KEY = b"recsys_schema_version"
FILE_KEY = b"recsys_file"
"""Metadata of a table that was read from a file: its name, for messages."""
TEXT_KEY = b"recsys_text"
"""Metadata of a table read from text: its strings are to be parsed, each value on its own."""

MAX_ID_BYTES = 128
TIME = pa.timestamp("us", tz="UTC")

EVENTS = pa.schema(
    [
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("event_id", pa.string()),
        ("event_time", TIME),
        ("sequence", pa.int64()),
        ("is_impression", pa.bool_()),
        ("clicked", pa.bool_()),
        ("watch_ms", pa.int64()),
        ("outcome_time", TIME),
        ("duration_ms", pa.int64()),
        ("position", pa.int16()),
        ("surface", pa.string()),
        ("device", pa.string()),
        ("country", pa.string()),
        ("language", pa.string()),
        ("logged_in", pa.bool_()),
        ("session_id", pa.string()),
        ("request_id", pa.string()),
        ("policy", pa.string()),
        ("propensity", pa.float32()),
        ("split_date", pa.string()),
        ("candidate_score", pa.float32()),
        ("candidate_rank", pa.float32()),
    ]
)
"""One row an impression, or a watch from elsewhere (`is_impression` false).

At least one of `event_time` and `sequence` is given; `sequence` breaks ties. `watch_ms` null is
unknown, 0 is none. `outcome_time` null means `event_time + watch_ms`. `propensity` is the
conditional probability of this item at this position under the logging policy. `split_date`
('YYYYMMDD') is the source's own calendar date where it splits by one. `candidate_score` and
`candidate_rank` are what the candidate stage said when the item was served.
"""

SEARCHES = pa.schema([("user_id", pa.string()), ("event_time", TIME), ("query", pa.string())])
"""One row a search."""

ITEMS = pa.schema(
    [
        ("item_id", pa.string()),
        ("title", pa.string()),
        ("channel_id", pa.string()),
        ("topics", pa.list_(pa.string())),
        ("duration_ms", pa.int64()),
        ("upload_time", TIME),
        ("language", pa.string()),
        ("available_from", TIME),
        ("available_until", TIME),
    ]
)
"""One row a servable item."""

USERS = pa.schema(
    [
        ("user_id", pa.string()),
        ("country", pa.string()),
        ("language", pa.string()),
        ("gender", pa.string()),
        ("birth_year", pa.int64()),
        ("device", pa.string()),
    ]
)
"""One row a user."""

EVENTS_REQUIRED = ("user_id", "item_id")
SEARCHES_REQUIRED = ("user_id", "event_time", "query")
ITEMS_REQUIRED = ("item_id",)
USERS_REQUIRED = ("user_id",)

ID_COLUMNS = ("user_id", "item_id", "event_id", "channel_id", "session_id", "request_id")
"""Ids: non-empty UTF-8 of at most 128 bytes without NUL; only the required ones refuse null."""


def with_version(table: pa.Table) -> pa.Table:
    """Return the table marked with the version of this contract, ready to be written."""
    version = {VERSION_KEY: str(SCHEMA_VERSION)}
    return table.replace_schema_metadata((table.schema.metadata or {}) | version)


def with_origin(table: pa.Table, file: str, *, is_text: bool) -> pa.Table:
    """Return the table with no metadata but the file it was read from, and how."""
    # Metadata of the file itself (pandas writes some) would not fit the columns once renamed.
    text: dict[bytes, str] = {TEXT_KEY: "1"} if is_text else {}
    return table.replace_schema_metadata({FILE_KEY: file} | text)


def check_version(schema: pa.Schema, name: str) -> None:
    """Refuse a file that was written under another version of this contract.

    Args:
        schema: Schema of the file; one without a version is taken as foreign, and accepted.
        name: File name, for the message.

    Raises:
        DataError: The version is not the one that this code reads.
    """
    found = (schema.metadata or {}).get(VERSION_KEY)
    if found is not None and found != str(SCHEMA_VERSION).encode():
        raise DataError(
            f"{name}: written under version {found.decode(errors='replace')} of the data "
            f"contract, expected version {SCHEMA_VERSION}; write it anew with this version"
        )


def file_of(table: pa.Table) -> str | None:
    """Return the name of the file that a table was read from, if it says so."""
    name = (table.schema.metadata or {}).get(FILE_KEY)
    return None if name is None else name.decode(errors="replace")


def is_text(table: pa.Table) -> bool:
    """Return whether the strings of a table come from text and are to be parsed."""
    return TEXT_KEY in (table.schema.metadata or {})
