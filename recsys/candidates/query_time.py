"""The moment of a request as inputs of the net: place in day and week, and time since what was."""

import numpy as np

from recsys.data.timelines import WatchHistories

DAYS_PER_WEEK = 7
MICROSECONDS_PER_DAY = 86_400_000_000
MICROSECONDS_PER_MINUTE = 60_000_000
NUM_COLUMNS = 4


def query_time(moment: np.ndarray, has_time: np.ndarray) -> np.ndarray:
    """Return sine and cosine of the time of day and of the day of the week (UTC).

    Both are angles of a full turn, so that midnight lies beside midnight.

    Args:
        moment: int64 [...], microseconds since the epoch.
        has_time: bool [...]; without a time, all columns are 0.

    Returns:
        float32 [..., 4].
    """
    days = moment / MICROSECONDS_PER_DAY
    angles = 2 * np.pi * np.stack([days % 1, days % DAYS_PER_WEEK / DAYS_PER_WEEK], axis=-1)
    columns = np.concatenate([np.sin(angles), np.cos(angles)], axis=-1)
    return np.where(has_time[..., None], columns, 0).astype(np.float32)


def minutes_since(moment: np.ndarray, event: np.ndarray, has_time: np.ndarray) -> np.ndarray:
    """Return the time from events to moments: int64 [...] twice, bool [...] -> float32 [...].

    At least 0; 0 for a moment that is no time.
    """
    minutes = np.maximum(moment - event, 0) / MICROSECONDS_PER_MINUTE
    return np.where(has_time, minutes, 0).astype(np.float32)


def minutes_since_watch(
    histories: WatchHistories,
    users: np.ndarray,
    known: np.ndarray,
    moment: np.ndarray,
    has_time: np.ndarray,
) -> np.ndarray:
    """Return how long ago the newest known watch was: within a session, or the start of one.

    Args:
        histories: Watches of all users.
        users: int64 [...].
        known: int64 [...], how many watches of the user are known.
        moment: int64 [...], of the request.
        has_time: bool [...].

    Returns:
        float32 [...], at least 0; NaN without a watch or without a time.
    """
    newest = histories.newest_moment(users, known)
    minutes = np.maximum(moment - newest, 0) / MICROSECONDS_PER_MINUTE
    return np.where((known > 0) & has_time, minutes, np.nan).astype(np.float32)
