"""A user's newest events as of a moment, newest first: for attention, and for decayed means.

The rule of `recsys.data.as_of`: an event is there strictly after it began, its outcome strictly
after that became known. Every row is computed by itself, so it has the same bits in any batch.
"""

from dataclasses import dataclass

import numpy as np

from recsys.data.as_of import AsOf
from recsys.data.timelines import Timelines

NUM_REMEMBERED = 50
"""Events that decayed means reach back to; half-lives are far shorter."""
HALF_LIVES = (3, 10)
"""In events."""
SKIP_SECONDS = 3.0
"""Watched for less than this is skipped."""
LARGEST_SHARE = 2.0
"""Of a duration: who watches an item many times over is not told apart from who does so twice."""
SESSION_GAP_SECONDS = 1800.0

WATCH_EDGES_SECONDS = (1.0, 3.0, 7.0, 18.0, 40.0, 90.0)
AGE_EDGES_SECONDS = (60.0, 300.0, 1800.0, 14_400.0, 86_400.0, 259_200.0)
PENDING = 1
"""Outcome code of an event whose outcome is not known yet; 0 is padding."""
NUM_OUTCOME_CODES = 2 + 2 * (len(WATCH_EDGES_SECONDS) + 2)
NUM_AGE_CODES = 2 + len(AGE_EDGES_SECONDS) + 1


@dataclass(frozen=True)
class Recent:
    """The newest T events of Q users, in columns from the newest.

    Args:
        is_event: bool [Q, T], false for padding.
        item: int64 [Q, T], catalogue row, -1 padding or unknown.
        seconds_since: float64 [Q, T], since the event began, NaN padding or unknown.
        is_known: bool [Q, T], whether the outcome is.
        watch_seconds: float64 [Q, T], NaN unknown.
        is_watch: bool [Q, T].
    """

    is_event: np.ndarray
    item: np.ndarray
    seconds_since: np.ndarray
    is_known: np.ndarray
    watch_seconds: np.ndarray
    is_watch: np.ndarray

    def newest(self, length: int) -> "Recent":
        """Return the newest events alone: T = length."""
        return Recent(**{name: values[:, :length] for name, values in vars(self).items()})


def recent_events(
    timelines: Timelines,
    users: np.ndarray,
    moments: np.ndarray,
    has_time: np.ndarray,
    length: int,
) -> Recent:
    """Look up what the users' newest events were.

    Args:
        timelines: Events of the users, each user's by moment.
        users, moments: int64 [Q].
        has_time: bool [Q], whether the moments are times.
        length: T.
    """
    count = AsOf(timelines.user_of_event(), timelines.moment, users, moments).counts()
    place = np.arange(length)
    is_event = place < count[:, None]
    newest = (timelines.offsets[users] + count - 1)[:, None]
    event = np.where(is_event, newest - place, 0)
    if len(timelines.item) == 0:
        event, timelines = np.zeros_like(event), _one_unknown_event()
    is_known = is_event & (timelines.outcome_moment[event] < moments[:, None])
    watch_ms = timelines.watch_ms[event]
    is_timed = is_event & timelines.has_time[event] & has_time[:, None]
    seconds_since = (moments[:, None] - timelines.moment[event]) / 1e6
    return Recent(
        is_event=is_event,
        item=np.where(is_event, timelines.item[event], -1).astype(np.int64),
        seconds_since=np.where(is_timed, seconds_since, np.nan),
        is_known=is_known,
        watch_seconds=np.where(is_known & (watch_ms >= 0), watch_ms / 1000, np.nan),
        is_watch=is_known & timelines.is_watch[event],
    )


def outcome_codes(recent: Recent) -> np.ndarray:
    """Return what came of each event as embedding codes below `NUM_OUTCOME_CODES`: int32 [Q, T]."""
    seconds = recent.watch_seconds
    bucket = np.searchsorted(WATCH_EDGES_SECONDS, seconds, side="right") + 1
    bucket = np.where(np.isnan(seconds), 0, bucket)
    codes = np.where(recent.is_known, PENDING + 1 + 2 * bucket + recent.is_watch, PENDING)
    return np.where(recent.is_event, codes, 0).astype(np.int32)


def age_codes(recent: Recent) -> np.ndarray:
    """Return how long ago each event was as codes below `NUM_AGE_CODES`: int32 [Q, T].

    0 is padding, 1 a time that is not known.
    """
    seconds = recent.seconds_since
    bucket = np.searchsorted(AGE_EDGES_SECONDS, seconds, side="right") + 2
    codes = np.where(np.isnan(seconds), 1, bucket)
    return np.where(recent.is_event, codes, 0).astype(np.int32)


def decayed_means(
    recent: Recent, duration_ms: np.ndarray, expected: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Return means over the newest events, each half as heavy as the one `half_life` after it.

    With weights 2^(-t / half_life), of the events t whose value is known, and one more event of the
    expected value.

    Args:
        recent: [Q, T].
        duration_ms: int64 [Q, T], -1 unknown.
        expected: float [Q] of `watch_rate` and `mean_watch_seconds`: the user's own, over all
            events.

    Returns:
        `user_NAME_last_HALFLIFE`, float32 [Q], of NAME `watch_rate`, `log_seconds`,
        `watched_share` and `skip_rate`; the last two are NaN where no event has a value.
    """
    seconds = recent.watch_seconds
    share = np.where(duration_ms > 0, seconds / np.maximum(duration_ms, 1) * 1000, np.nan)
    values = {
        "watch_rate": np.where(recent.is_known, recent.is_watch, np.nan),
        "log_seconds": np.log1p(seconds),
        "watched_share": np.minimum(share, LARGEST_SHARE),
        "skip_rate": np.where(np.isnan(seconds), np.nan, seconds < SKIP_SECONDS),
    }
    priors = {
        "watch_rate": expected["watch_rate"],
        "log_seconds": np.log1p(expected["mean_watch_seconds"]),
    }
    return {
        f"user_{name}_last_{half_life}": _decayed_mean(value, half_life, priors.get(name))
        for name, value in values.items()
        for half_life in HALF_LIVES
    }


def session_columns(recent: Recent) -> dict[str, np.ndarray]:
    """Return `session_events` and `session_seconds` (since its first event): float32 [Q].

    A session goes on as long as events are less than half an hour apart; both are 0 where the
    newest event is longer ago than that.
    """
    gap = np.diff(recent.seconds_since, axis=1, prepend=0.0)
    goes_on = np.cumprod(gap < SESSION_GAP_SECONDS, axis=1).astype(bool)  # a NaN ends it
    began = np.where(goes_on, recent.seconds_since, 0.0).max(axis=1, initial=0.0)
    return {
        "session_events": goes_on.sum(axis=1).astype(np.float32),
        "session_seconds": began.astype(np.float32),
    }


def _decayed_mean(values: np.ndarray, half_life: int, expected: np.ndarray | None) -> np.ndarray:
    weight = 0.5 ** (np.arange(values.shape[1]) / half_life)
    weights = np.where(np.isnan(values), 0.0, weight)
    total, count = (weights * np.nan_to_num(values)).sum(axis=1), weights.sum(axis=1)
    if expected is not None:
        return ((total + expected) / (count + 1)).astype(np.float32)
    out = np.full(len(values), np.nan)
    np.divide(total, count, out=out, where=count > 0)
    return out.astype(np.float32)


def _one_unknown_event() -> Timelines:
    """Stand in for users without any event, whose every column is padding."""
    integer, false = np.full(1, -1, np.int64), np.zeros(1, bool)
    return Timelines(
        offsets=np.zeros(2, np.int64),
        item=integer,
        moment=integer,
        outcome_moment=integer,
        has_time=false,
        watch_ms=integer,
        clicked=integer,
        is_impression=false,
        is_watch=false,
    )
