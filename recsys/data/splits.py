"""Cuts a log into training, validation and test, and picks the labels that evaluation asks for."""

import numpy as np
import pyarrow as pa

from recsys.data.columns import integers
from recsys.data.examples import LEFT_OUT, TEST, TRAINING, VALIDATION
from recsys.data.moments import Moments
from recsys.data.validation import parse_time
from recsys.errors import ConfigError, DataError
from recsys.settings import SplitSettings

SESSION_GAP_US = 30 * 60 * 1_000_000
"""Without session ids, a longer pause between two events of a user ends their session."""


def leave_one_out(offsets: np.ndarray, is_watch: np.ndarray) -> np.ndarray:
    """Test on each user's last watch, validate on the one before.

    Other events belong to the watch that precedes them; users with fewer than three watches
    only train.

    Args:
        offsets: int64 [U + 1]; user u owns events `offsets[u]:offsets[u + 1]`, by moment.
        is_watch: bool [E].

    Returns:
        int8 [E], a split for each event.
    """
    before = np.concatenate([[0], np.cumsum(is_watch)])
    lengths = np.diff(offsets)
    num_watches = np.repeat(before[offsets[1:]] - before[offsets[:-1]], lengths)
    watches_so_far = before[1:] - np.repeat(before[offsets[:-1]], lengths)
    left = num_watches - watches_so_far
    split = np.where(left == 0, TEST, np.where(left == 1, VALIDATION, TRAINING))
    return np.where(num_watches >= 3, split, TRAINING).astype(np.int8)


def split_by_time(settings: SplitSettings, events: pa.Table, moments: Moments) -> np.ndarray:
    """Cut the log at the configured moments; events without a time are training history.

    Args:
        settings: Cuts as ISO times, or as dates (YYYYMMDD) of the column `split_date`.
        events: [E].
        moments: Of the events.

    Returns:
        int8 [E], a split for each event.

    Raises:
        ConfigError: The cuts are of two forms, or out of order.
        DataError: The cuts are dates, and the log has none.
    """
    cuts = [settings.validation_from, settings.test_from, settings.test_until]
    given = [cut for cut in cuts if cut is not None]
    dated = [_is_date(cut) for cut in given]
    if any(dated) and not all(dated):
        raise ConfigError(f"split: expected all ISO times or all dates (YYYYMMDD), got {given}")
    if any(dated):
        value, read = _split_dates(events), _date_number
    else:
        value, read = moments.event, _time_number
    validation, test, until = (None if cut is None else read(cut) for cut in cuts)
    _check_order([cut for cut in (validation, test, until) if cut is not None], given)
    split = np.full(len(value), TRAINING, np.int8)
    for cut, name in ((validation, VALIDATION), (test, TEST), (until, LEFT_OUT)):
        if cut is not None:
            split[moments.has_time & (value >= cut)] = name
    return split


def cut_moment(cut: str | None, first_moment: int) -> int:
    """Return the moment of a cut: its own where it is a time, else that of the first event after.

    Args:
        cut: ISO time, date, or None.
        first_moment: Of the events from the cut on.
    """
    return first_moment if cut is None or _is_date(cut) else _time_number(cut)


def sessions(
    offsets: np.ndarray, moments: Moments, session: np.ndarray, request: np.ndarray
) -> np.ndarray:
    """Number the session of each event.

    Args:
        offsets: int64 [U + 1].
        moments: Of the events, each user's ascending.
        session, request: int64 [E], numbers of the `session_id` and `request_id`, -1 for none.

    Returns:
        int64 [E]; events share a number if they share user and session id, or else user and
        request id, or else no pause of 30 minutes lies between them.
    """
    user = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    moment = moments.event
    new = np.ones(len(user), bool)
    new[1:] = (
        (user[1:] != user[:-1])
        | (moments.has_time[1:] & (moment[1:] - moment[:-1] > SESSION_GAP_US))
        | (moments.has_time[1:] != moments.has_time[:-1])
    )
    kind = np.where(session >= 0, 0, np.where(request >= 0, 1, 2))
    value = np.choose(kind, [session, request, np.cumsum(new)])
    return _number_rows(np.stack([user, kind, value], axis=1))


def last_of_session(session: np.ndarray) -> np.ndarray:
    """Mark the last watch of each session of two or more.

    Args:
        session: int64 [L], the session of each watch; watches of a session are in order.

    Returns:
        bool [L].
    """
    order = np.argsort(session, kind="stable")
    ordered = session[order]
    follows = np.zeros(len(session), bool)
    follows[1:] = ordered[1:] == ordered[:-1]
    ends = np.ones(len(session), bool)
    ends[:-1] = ordered[1:] != ordered[:-1]
    last = np.zeros(len(session), bool)
    last[order] = follows & ends
    return last


def _number_rows(rows: np.ndarray) -> np.ndarray:
    """Number the distinct rows: int64 [n, k] -> int64 [n]."""
    order = np.lexsort(rows.T)
    ordered = rows[order]
    new = np.ones(len(rows), bool)
    new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    number = np.empty(len(rows), np.int64)
    number[order] = np.cumsum(new)
    return number


def _is_date(cut: str) -> bool:
    return len(cut) == 8 and cut.isdecimal()


def _date_number(cut: str) -> int:
    return int(cut)


def _time_number(cut: str) -> int:
    time = parse_time(cut, "split")
    return int(np.datetime64(time.replace(tzinfo=None), "us").astype(np.int64)) if time else 0


def _split_dates(events: pa.Table) -> np.ndarray:
    if "split_date" not in events.column_names:
        raise DataError(
            "split: dates are compared with the column 'split_date', which this log does not "
            "have; give ISO times instead"
        )
    return integers(events, "split_date")


def _check_order(cuts: list[int], given: list[str]) -> None:
    if cuts != sorted(cuts):
        raise ConfigError(
            f"split: expected validation_from <= test_from <= test_until, got {given}"
        )
