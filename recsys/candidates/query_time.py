"""The moment of a request as inputs of the net: place in the day and in the week."""

import numpy as np

DAYS_PER_WEEK = 7
MICROSECONDS_PER_DAY = 86_400_000_000
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
