"""Checks of single values in requests; each raises a `RequestError` with the field's path."""

from collections.abc import Sized
from typing import Any

from google.protobuf.unknown_fields import UnknownFieldSet

from recsys.errors import RequestError

MAX_ID_BYTES = 128
MAX_REQUEST_ID_LENGTH = 36
MICROSECONDS_PER_SECOND = 1_000_000
MAX_SECONDS_AHEAD = 86_400
MAX_WATCH_SECONDS = 30 * 86_400


def check_id(value: str, field: str) -> str:
    """Return an id that is not empty, not too long, and free of NUL."""
    length = len(value.encode())
    if not 1 <= length <= MAX_ID_BYTES or "\0" in value:
        got = "one with a NUL" if "\0" in value else f"{length} bytes"
        raise RequestError(field, f"expected an id of 1 to {MAX_ID_BYTES} bytes, got {got}")
    return value


def check_optional_id(value: str, field: str) -> str:
    """Return an id that may be left out."""
    return check_id(value, field) if value else value


def check_request_id(value: str, field: str = "request_id") -> str:
    """Return a request id (or none) of printable ASCII."""
    if len(value) > MAX_REQUEST_ID_LENGTH or not (value.isascii() and value.isprintable()):
        raise RequestError(
            field,
            f"expected at most {MAX_REQUEST_ID_LENGTH} printable ASCII characters (a UUID4), "
            f"got {len(value)} characters",
        )
    return value


def check_text(value: str, field: str, max_bytes: int) -> str:
    """Return a text that is not too long, and free of NUL."""
    if len(value.encode()) > max_bytes or "\0" in value:
        raise RequestError(field, f"expected at most {max_bytes} bytes without NUL")
    return value


def check_count(values: Sized, field: str, maximum: int, minimum: int = 0) -> None:
    """Refuse too many values, or too few."""
    if not minimum <= len(values) <= maximum:
        raise RequestError(field, f"expected {minimum} to {maximum} values, got {len(values)}")


def check_size(value: int, field: str, default: int, maximum: int) -> int:
    """Return a page size: 0 is the default, too large is the maximum (AIP-158)."""
    if value < 0:
        raise RequestError(field, f"expected 0 or more, got {value}")
    return min(value or default, maximum)


def check_share(value: float, field: str) -> float:
    """Return a share of a whole, of which something is left."""
    if not 0 < value < 1:
        raise RequestError(field, f"expected a share above 0 and below 1, got {value}")
    return value


def check_known_fields(message: Any, field: str) -> None:
    """Refuse a message with fields that this version does not know: they would be ignored."""
    unknown = UnknownFieldSet(message)
    if len(unknown):
        number = unknown[0].field_number
        raise RequestError(
            field, f"field number {number} is unknown to this server; leave it out, or upgrade it"
        )


def to_microseconds(timestamp: Any, field: str, now: int) -> int:
    """Return a Timestamp as microseconds since the epoch, at most a day ahead of now."""
    moment = timestamp.seconds * MICROSECONDS_PER_SECOND + timestamp.nanos // 1000
    latest = now + MAX_SECONDS_AHEAD * MICROSECONDS_PER_SECOND
    if timestamp.seconds < 0 or not 0 <= timestamp.nanos < 10**9 or moment > latest:
        raise RequestError(
            field,
            f"expected a time between 1970 and a day from now, got {timestamp.seconds} s "
            f"{timestamp.nanos} ns since 1970",
        )
    return moment


def to_milliseconds(duration: Any, field: str, maximum_seconds: int = MAX_WATCH_SECONDS) -> int:
    """Return a Duration as milliseconds, rounded down."""
    valid = duration.seconds >= 0 and 0 <= duration.nanos < 10**9
    if not valid or duration.seconds > maximum_seconds:
        raise RequestError(
            field,
            f"expected 0 to {maximum_seconds} seconds, got {duration.seconds} s "
            f"{duration.nanos} ns",
        )
    return duration.seconds * 1000 + duration.nanos // 1_000_000
