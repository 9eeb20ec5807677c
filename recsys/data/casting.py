"""One raw column turned into its contract type, with a mask of the values that do not fit.

What is lossless is done: other widths of integers, whole floats as integers, 0 and 1 as
booleans, other units of time. A type that can only be guessed at (a number as an id, a time
without a zone) raises `MistypedError`, so that the caller can name the file.
"""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

Cast = tuple[pa.ChunkedArray, np.ndarray | None]
"""Values [n], and bool [n] of those that did not fit and are null; None when all did."""

_MICROSECONDS = {"s": 1_000_000, "ms": 1_000, "us": 1}
_LATEST_US = 253_402_300_800_000_000  # the year 10,000: what Python's datetime cannot hold
_EARLIEST_US = -62_135_596_800_000_000


class MistypedError(Exception):
    """No rule turns the type of a column into the expected one; the text says how to mend it."""


def cast_column(column: pa.ChunkedArray, expected: pa.DataType, *, is_text: bool) -> Cast:
    """Turn a column into a contract type.

    Args:
        column: [n], any type.
        expected: The type of the contract.
        is_text: Whether strings are to be parsed, each value on its own.

    Raises:
        MistypedError: The type of the column cannot be turned into the expected one.
    """
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if column.type == expected:
        return _clean_times(column, 1) if pa.types.is_timestamp(expected) else (column, None)
    if pa.types.is_null(column.type):
        return pa.chunked_array([pa.nulls(len(column), expected)]), None
    if is_text and _is_string(column.type) and not _is_string(expected):
        return _parse(column, expected)
    return _converter(expected)(column, expected)


def true_mask(mask: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Return an Arrow mask as bool [n], null as false."""
    return np.asarray(pc.fill_null(mask, False).to_numpy(zero_copy_only=False), bool)


def _converter(expected: pa.DataType) -> Callable[[pa.ChunkedArray, pa.DataType], Cast]:
    if _is_string(expected):
        return _to_string
    if pa.types.is_boolean(expected):
        return _to_boolean
    if pa.types.is_integer(expected):
        return _to_integer
    if pa.types.is_floating(expected):
        return _to_float
    return _to_time if pa.types.is_timestamp(expected) else _to_list


def _is_string(data_type: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(data_type)
        or pa.types.is_large_string(data_type)
        or pa.types.is_string_view(data_type)
    )


def _to_string(column: pa.ChunkedArray, expected: pa.DataType) -> Cast:
    if pa.types.is_floating(column.type):
        raise MistypedError("floats cannot be ids (7.0 is not '7'): write them as strings")
    if pa.types.is_integer(column.type):
        raise MistypedError("write integers as strings, or let the source do it (integers_as_text)")
    if not _is_string(column.type):
        raise MistypedError("write the values as strings")
    return column.cast(expected), None


def _to_boolean(column: pa.ChunkedArray, expected: pa.DataType) -> Cast:
    if not _is_number(column.type):
        raise MistypedError("write true and false, or 1 and 0")
    bad = true_mask(pc.and_(pc.not_equal(column, 0), pc.not_equal(column, 1)))
    return _without(column, bad).cast(expected), _some(bad)


def _to_integer(column: pa.ChunkedArray, expected: pa.DataType) -> Cast:
    if not _is_number(column.type):
        raise MistypedError("write whole numbers")
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), None, column)  # how pandas writes a missing integer
    limits = np.iinfo(expected.to_pandas_dtype())
    low, high = _limits_in(column.type, limits)
    bad = true_mask(pc.or_(pc.less(column, low), pc.greater(column, high)))
    if pa.types.is_floating(column.type):
        bad |= true_mask(pc.not_equal(pc.floor(column), column))
    return _without(column, bad).cast(expected), _some(bad)


def _limits_in(found: pa.DataType, limits: np.iinfo) -> tuple[pa.Scalar, pa.Scalar]:
    """Return the limits of an integer type as values of the type found, which may be narrower."""
    if pa.types.is_floating(found):
        # 2 ** 63 is the first float beyond int64, so the limit is the float just below.
        high = np.nextafter(float(limits.max), 0) if limits.bits == 64 else float(limits.max)
        return pa.scalar(float(limits.min), pa.float64()), pa.scalar(float(high), pa.float64())
    own = np.iinfo(found.to_pandas_dtype())
    low, high = max(limits.min, own.min), min(limits.max, own.max)
    return pa.scalar(int(low), found), pa.scalar(int(high), found)


def _to_float(column: pa.ChunkedArray, expected: pa.DataType) -> Cast:
    if not _is_number(column.type):
        raise MistypedError("write numbers")
    return column.cast(expected, safe=False), None


def _to_time(column: pa.ChunkedArray, expected: pa.DataType) -> Cast:
    if not pa.types.is_timestamp(column.type):
        raise MistypedError("write UTC timestamps, or state the unit of the numbers (time_unit)")
    if column.type.tz is None:
        raise MistypedError("the times have no zone: write UTC, or state it (naive_times_are_utc)")
    if column.type.unit == "ns":
        return column.cast(expected, safe=False), None
    return _clean_times(column, _MICROSECONDS[column.type.unit])


def _clean_times(column: pa.ChunkedArray, factor: int) -> Cast:
    """Bring times to microseconds, refusing years outside 1 to 9999."""
    counts = column.cast(pa.int64())
    low, high = _EARLIEST_US // factor, _LATEST_US // factor
    bad = true_mask(pc.or_(pc.less(counts, low), pc.greater_equal(counts, high)))
    return _without(column, bad).cast(pa.timestamp("us", tz="UTC")), _some(bad)


def _to_list(column: pa.ChunkedArray, expected: pa.DataType) -> Cast:
    if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
        raise MistypedError("write lists, or split the text (list_separator)")
    if not (_is_string(column.type.value_type) or pa.types.is_null(column.type.value_type)):
        raise MistypedError("write lists of strings")
    return column.cast(expected), None


def _parse(column: pa.ChunkedArray, expected: pa.DataType) -> Cast:
    if pa.types.is_list(expected):
        raise MistypedError("text holds no lists: split it (list_separator)")
    try:
        return _after_parsing(column.cast(expected), expected)
    except pa.ArrowInvalid:
        return _parse_each(column.combine_chunks(), expected)


def _after_parsing(column: pa.ChunkedArray, expected: pa.DataType) -> Cast:
    return _clean_times(column, 1) if pa.types.is_timestamp(expected) else (column, None)


def _parse_each(column: pa.Array, expected: pa.DataType) -> Cast:
    """Parse every distinct value on its own; what cannot be parsed is null and marked."""
    encoded = column.dictionary_encode()
    parsed = pa.array([_parse_one(value, expected) for value in encoded.dictionary], expected)
    values = parsed.take(encoded.indices)
    bad = true_mask(pc.and_(values.is_null(), column.is_valid()))
    cleaned, bad_times = _after_parsing(pa.chunked_array([values]), expected)
    return cleaned, _some(bad if bad_times is None else bad | bad_times)


def _parse_one(value: pa.Scalar, expected: pa.DataType) -> object:
    try:
        return value.cast(expected).as_py()
    except pa.ArrowInvalid:
        pass
    try:  # pandas writes an integer column with gaps as '12.0'
        number = value.cast(pa.float64()).as_py()
        return int(number) if pa.types.is_integer(expected) and number.is_integer() else None
    except pa.ArrowInvalid:
        return None


def _is_number(data_type: pa.DataType) -> bool:
    return bool(pa.types.is_integer(data_type) or pa.types.is_floating(data_type))


def _without(column: pa.ChunkedArray, bad: np.ndarray) -> pa.ChunkedArray:
    return pc.if_else(pa.array(bad), None, column) if bad.any() else column


def _some(bad: np.ndarray) -> np.ndarray | None:
    return bad if bad.any() else None
