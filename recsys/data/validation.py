"""Checks raw tables against the data contract: what obeys it, what is rejected and why.

A column that is missing or of a type that cannot be understood stops the run (`DataError`). A
row that breaks the contract is put aside with its reason. An odd but possible value is counted
and kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.data import schema
from recsys.data.casting import MistypedError, cast_column, true_mask
from recsys.errors import ConfigError, DataError
from recsys.settings import DataSettings

REASON = "reason"
"""Column added to rejected rows."""

_MIXER = np.uint64(0x9E3779B97F4A7C15)  # odd, of well spread bits: 2 ** 64 / golden ratio

Problem = tuple[str, np.ndarray]
"""A reason, and bool [n]: the rows it applies to."""


@dataclass(frozen=True)
class Validated:
    """What came of a batch.

    Args:
        accepted: Rows of the contract's types: its columns in its order, then further ones.
            Columns that the batch lacked are absent, but for `is_impression`.
        rejected: The other rows as they came, with their first `reason`.
        odd: Name -> number of odd values that were kept.
        reasons: Reason -> number of rows rejected for it.
    """

    accepted: pa.Table
    rejected: pa.Table
    odd: dict[str, int]
    reasons: dict[str, int]


def validate_events(table: pa.Table, settings: DataSettings) -> Validated:
    """Check a batch of events; `reject_duplicates` is apart, for it needs whole users.

    Args:
        table: [n], contract column names, any types.
        settings: Gives the span of times outside which events are rejected.

    Raises:
        DataError: A required column is missing, or a column has a wrong type.
    """
    cast, problems = _cast_table(table, "events", schema.EVENTS, schema.EVENTS_REQUIRED)
    if "event_time" not in cast and "sequence" not in cast:
        raise DataError(
            f"{_name(table, 'events')}: expected a column 'event_time' or 'sequence', found "
            f"{table.column_names}; say which column holds the time or the order"
        )
    problems += _moment_problems(cast)
    problems += _span_problems(cast, "event_time", settings)
    problems += _negative_problems(cast, ("watch_ms", "duration_ms", "position"))
    problems += _propensity_problems(cast) + _split_date_problems(cast)
    if "is_impression" not in cast:
        cast["is_impression"] = _constant(True, table.num_rows)
    cast["is_impression"] = pc.fill_null(cast["is_impression"], True)
    validated = _divide(table, _ordered(cast, schema.EVENTS), problems)
    return _with_odd_watches(validated)


def validate_searches(table: pa.Table, settings: DataSettings) -> Validated:
    """Check a batch of searches: as `validate_events`; a search needs a time and a query."""
    cast, problems = _cast_table(table, "searches", schema.SEARCHES, schema.SEARCHES_REQUIRED)
    problems += [
        (f"{name} is null", true_mask(pc.is_null(cast[name]))) for name in ("event_time", "query")
    ]
    problems += _span_problems(cast, "event_time", settings)
    return _divide(table, _ordered(cast, schema.SEARCHES), problems)


def validate_items(table: pa.Table) -> Validated:
    """Check the items: as `validate_events`; of rows with one id the first is kept."""
    cast, problems = _cast_table(table, "items", schema.ITEMS, schema.ITEMS_REQUIRED)
    problems += _negative_problems(cast, ("duration_ms",))
    problems += _repeated(cast, "item_id") + _availability_problems(cast)
    validated = _divide(table, _ordered(cast, schema.ITEMS), problems)
    accepted, num_zero = _zero_durations_as_unknown(validated.accepted)
    odd = {"duration_zero": num_zero} if num_zero else {}
    return Validated(accepted, validated.rejected, odd, validated.reasons)


def validate_users(table: pa.Table) -> Validated:
    """Check the users: as `validate_events`; of rows with one id the first is kept."""
    cast, problems = _cast_table(table, "users", schema.USERS, schema.USERS_REQUIRED)
    problems += _repeated(cast, "user_id")
    return _divide(table, _ordered(cast, schema.USERS), problems)


def reject_duplicates(events: pa.Table) -> Validated:
    """Keep the first of events that are the same one, given all events of whole users.

    Two events of a user are the same if they share their `event_id`, or, where one is not given,
    the item, `event_time` and `sequence`. Users never share an event, so the result does not
    depend on how users are spread over shards.

    Args:
        events: [n], accepted by `validate_events`.
    """
    problem = ("duplicate event", _is_repeated(_event_identities(events)))
    return _divide(events, events, [problem])


def check_rejected_share(num_rejected: int, num_total: int, settings: DataSettings) -> None:
    """Stop a run that would lose too much of its input.

    Raises:
        DataError: More than `max_rejected_share` of the rows were rejected.
    """
    if num_rejected > settings.max_rejected_share * num_total:
        raise DataError(
            f"{num_rejected:,} of {num_total:,} rows ({num_rejected / num_total:.1%}) were "
            f"rejected, expected at most {settings.max_rejected_share:.1%}: see the reasons "
            f"in rejected/, mend the log, or raise data.max_rejected_share"
        )


def parse_time(text: str | None, key: str) -> datetime | None:
    """Read an ISO time of the settings; without a zone it is UTC.

    Raises:
        ConfigError: It is not an ISO time.
    """
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(
            f"{key}: expected an ISO time such as 2022-05-01T00:00:00, got {text!r}"
        ) from None
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def _name(table: pa.Table, kind: str) -> str:
    return schema.file_of(table) or kind


def _cast_table(
    table: pa.Table, kind: str, contract: pa.Schema, required: Sequence[str]
) -> tuple[dict[str, pa.ChunkedArray], list[Problem]]:
    """Cast every contract column; return the columns by name and the rows that do not fit."""
    _check_names(table, kind, required)
    columns: dict[str, pa.ChunkedArray] = {}
    problems: list[Problem] = []
    for name, raw in zip(table.column_names, table.columns, strict=True):
        expected = contract.field(name).type if name in contract.names else None
        columns[name] = raw
        if expected is None:
            continue
        columns[name], bad = _cast_named(table, kind, name, raw, expected)
        if bad is not None:
            problems.append((f"{name} is not a valid {expected}", bad))
        if name in schema.ID_COLUMNS:
            problems += _id_problems(name, columns[name], name in required)
    return columns, problems


def _check_names(table: pa.Table, kind: str, required: Sequence[str]) -> None:
    names = table.column_names
    missing = [name for name in required if name not in names]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if missing:
        raise DataError(
            f"{_name(table, kind)}: expected {kind} with the columns {list(required)}, missing "
            f"{missing}, found {names}; rename them or map them in data.options"
        )
    if repeated:
        raise DataError(f"{_name(table, kind)}: columns named twice: {repeated}; name each once")


def _cast_named(
    table: pa.Table, kind: str, name: str, raw: pa.ChunkedArray, expected: pa.DataType
) -> tuple[pa.ChunkedArray, np.ndarray | None]:
    try:
        return cast_column(raw, expected, is_text=schema.is_text(table))
    except MistypedError as error:
        raise DataError(
            f"{_name(table, kind)}: column '{name}': expected {expected}, got {raw.type}; {error}"
        ) from None


def _id_problems(name: str, column: pa.ChunkedArray, is_required: bool) -> list[Problem]:
    """Check ids; few distinct ones are looked at once each."""
    size = pc.binary_length(column)
    problems = [
        (f"{name} is empty", true_mask(pc.equal(size, 0))),
        (
            f"{name} is longer than {schema.MAX_ID_BYTES} bytes",
            true_mask(pc.greater(size, schema.MAX_ID_BYTES)),
        ),
        (f"{name} holds a NUL", true_mask(pc.match_substring(column, "\0"))),
    ]
    if is_required:
        problems.append((f"{name} is null", true_mask(column.is_null())))
    return problems + _encoding_problems(name, column)


def _encoding_problems(name: str, column: pa.ChunkedArray) -> list[Problem]:
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        raw = column.cast(pa.binary()).to_pylist()
        return [(f"{name} is not UTF-8", np.array([not _is_utf8(value) for value in raw], bool))]
    return []


def _is_utf8(value: bytes | None) -> bool:
    try:
        (value or b"").decode()
    except UnicodeDecodeError:
        return False
    return True


def _moment_problems(cast: dict[str, pa.ChunkedArray]) -> list[Problem]:
    present = [cast[name].is_null() for name in ("event_time", "sequence") if name in cast]
    absent = true_mask(present[0] if len(present) == 1 else pc.and_(*present))
    problems = [("neither event_time nor sequence", absent)]
    if "outcome_time" in cast and "event_time" in cast:
        early = true_mask(pc.less(cast["outcome_time"], cast["event_time"]))
        problems.append(("outcome_time before event_time", early))
    return problems


def _span_problems(
    cast: dict[str, pa.ChunkedArray], name: str, settings: DataSettings
) -> list[Problem]:
    earliest = parse_time(settings.earliest_time, "data.earliest_time")
    latest = parse_time(settings.latest_time, "data.latest_time")
    problems = []
    if name in cast and earliest:
        early = pc.less(cast[name], pa.scalar(earliest, schema.TIME))
        problems.append((f"{name} before data.earliest_time", true_mask(early)))
    if name in cast and latest:
        late = pc.greater(cast[name], pa.scalar(latest, schema.TIME))
        problems.append((f"{name} after data.latest_time", true_mask(late)))
    return problems


def _negative_problems(cast: dict[str, pa.ChunkedArray], names: Sequence[str]) -> list[Problem]:
    return [
        (f"{name} is negative", true_mask(pc.less(cast[name], 0))) for name in names if name in cast
    ]


def _propensity_problems(cast: dict[str, pa.ChunkedArray]) -> list[Problem]:
    if "propensity" not in cast:
        return []
    value = cast["propensity"]
    possible = pc.and_(pc.greater(value, 0), pc.less_equal(value, 1))
    return [("propensity is not in (0, 1]", true_mask(pc.invert(possible)))]


def _split_date_problems(cast: dict[str, pa.ChunkedArray]) -> list[Problem]:
    if "split_date" not in cast:
        return []
    # Dates are compared as strings, which is only right if all have one form.
    right = pc.match_substring_regex(cast["split_date"], "^[0-9]{8}$")
    return [("split_date is not YYYYMMDD", true_mask(pc.invert(right)))]


def _availability_problems(cast: dict[str, pa.ChunkedArray]) -> list[Problem]:
    if "available_from" not in cast or "available_until" not in cast:
        return []
    never = pc.less_equal(cast["available_until"], cast["available_from"])
    return [("available_until not after available_from", true_mask(never))]


def _repeated(cast: dict[str, pa.ChunkedArray], name: str) -> list[Problem]:
    codes = _codes(cast[name])
    return [(f"duplicate {name}", _is_repeated(codes[None]) & (codes >= 0))]


def _codes(column: pa.ChunkedArray) -> np.ndarray:
    """Return a number for each distinct value, a negative one for null: int64 [n]."""
    if not pa.types.is_string(column.type):
        numbers = column.cast(pa.int64()).fill_null(np.iinfo(np.int64).min)
        return np.asarray(numbers.to_numpy())
    encoded = column.combine_chunks().dictionary_encode()
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    return np.asarray(codes, np.int64)


def _event_identities(events: pa.Table) -> np.ndarray:
    """Return columns that are equal exactly where events are the same: int64 [5, n]."""
    unknown = np.full(events.num_rows, -1)
    names = ("user_id", "event_id", "item_id", "event_time", "sequence")
    parts = [_codes(events[name]) if name in events.column_names else unknown for name in names]
    has_id = parts[1] >= 0
    return np.stack(parts[:2] + [np.where(has_id, -1, part) for part in parts[2:]])


def _is_repeated(columns: np.ndarray) -> np.ndarray:
    """Mark every row that equals an earlier one: int64 [k, n] -> bool [n]."""
    mixed = np.zeros(columns.shape[1], np.uint64)
    for column in columns:
        mixed = (mixed ^ column.view(np.uint64)) * _MIXER
        mixed ^= mixed >> np.uint64(29)
    # Equal rows have equal hashes, so only rows whose hash is shared need to be compared.
    in_order = np.sort(mixed)
    shared = in_order[1:][in_order[1:] == in_order[:-1]]
    repeated = np.zeros(len(mixed), bool)
    if len(shared):
        nearest = np.minimum(np.searchsorted(shared, mixed), len(shared) - 1)
        suspects = np.flatnonzero(shared[nearest] == mixed)
        repeated[suspects] = _is_repeated_exactly(columns[:, suspects])
    return repeated


def _is_repeated_exactly(columns: np.ndarray) -> np.ndarray:
    order = np.lexsort(columns)  # stable: the first of equal rows comes first
    in_order = columns[:, order]
    repeated = np.zeros(columns.shape[1], bool)
    repeated[order[1:]] = (in_order[:, 1:] == in_order[:, :-1]).all(axis=0)
    return repeated


def _constant(value: bool, num_rows: int) -> pa.ChunkedArray:
    return pa.chunked_array([pa.repeat(pa.scalar(value), num_rows)])


def _ordered(columns: dict[str, pa.ChunkedArray], contract: pa.Schema) -> pa.Table:
    """Return a table of the contract's columns in its order, then the further ones."""
    names = [name for name in contract.names if name in columns]
    names += [name for name in columns if name not in contract.names]
    return pa.table({name: columns[name] for name in names})


def _divide(raw: pa.Table, cast: pa.Table, problems: list[Problem]) -> Validated:
    """Take the rows with problems out, each with its first reason."""
    found = [(reason, rows) for reason, rows in problems if rows.any()]
    code = np.zeros(raw.num_rows, np.int64)
    for number, (_, rows) in enumerate(found, start=1):
        code[rows & (code == 0)] = number
    accepted = cast.filter(pa.array(code == 0)) if found else cast
    rejected = raw.filter(pa.array(code > 0)) if found else raw.slice(0, 0)
    texts = pa.array([reason for reason, _ in found], pa.string())
    reason_of_row = texts.take(pa.array(code[code > 0] - 1))
    counts = np.bincount(code, minlength=len(found) + 1)[1:]
    reasons = {
        reason: int(count) for (reason, _), count in zip(found, counts, strict=True) if count
    }
    return Validated(accepted, rejected.append_column(REASON, reason_of_row), {}, reasons)


def _with_odd_watches(validated: Validated) -> Validated:
    accepted, num_zero = _zero_durations_as_unknown(validated.accepted)
    odd = {"duration_zero": num_zero}
    if {"watch_ms", "duration_ms"} <= set(accepted.column_names):
        watch, duration = accepted["watch_ms"], accepted["duration_ms"]
        odd["watched_beyond_duration"] = _count(pc.greater(watch, duration))
        odd["watched_beyond_ten_times"] = _count(
            pc.greater(watch, pc.multiply(pc.cast(duration, pa.float64()), 10))
        )
    odd = {name: count for name, count in odd.items() if count}
    return Validated(accepted, validated.rejected, odd, validated.reasons)


def _zero_durations_as_unknown(table: pa.Table) -> tuple[pa.Table, int]:
    if "duration_ms" not in table.column_names:
        return table, 0
    column = table["duration_ms"]
    is_zero = pc.equal(column, 0)
    num_zero = _count(is_zero)
    if num_zero:
        column = pc.if_else(pc.fill_null(is_zero, False), None, column)
        position = table.column_names.index("duration_ms")
        table = table.set_column(position, "duration_ms", column)
    return table, num_zero


def _count(mask: pa.ChunkedArray) -> int:
    return int(pc.sum(mask).as_py() or 0)
