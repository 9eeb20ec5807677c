"""What a user's past says of something: an item, its channel, its topics, or of the user alone.

The rule of `recsys.data.as_of` throughout: an impression counts strictly after it began, its
outcome strictly after that became known. All sums are integers, so they do not depend on which
other queries they were computed with.
"""

from dataclasses import dataclass, replace

import numpy as np

from recsys.data.as_of import AsOf
from recsys.data.timelines import Timelines

NEVER = -1
MARKS_PER_KEY = 16


@dataclass(frozen=True)
class Past:
    """Totals of the events seen by each query, all int64 [...].

    Args:
        impressions: Shown to the user.
        outcomes: Events of known watch time.
        watches: Positive watches.
        watch_ms: Sum over the outcomes.
        last_time: Time of the newest event in microseconds, -1 where there is none or it knows
            only its order.
    """

    impressions: np.ndarray
    outcomes: np.ndarray
    watches: np.ndarray
    watch_ms: np.ndarray
    last_time: np.ndarray

    def reshape(self, *shape: int) -> "Past":
        """Return the totals in another shape."""
        return Past(**{name: values.reshape(shape) for name, values in vars(self).items()})

    def placed(self, places: np.ndarray, length: int) -> "Past":
        """Return the totals of queries [Q] at their places among `length`, nothing elsewhere."""

        def spread(values: np.ndarray, nothing: int) -> np.ndarray:
            out = np.full(length, nothing, values.dtype)
            out[places] = values
            return out

        totals = {name: spread(values, 0) for name, values in vars(self).items()}
        return Past(**totals | {"last_time": spread(self.last_time, NEVER)})

    def over_last_axis(self) -> "Past":
        """Return the totals summed over the last axis, and the newest time along it."""
        summed = Past(**{name: values.sum(-1) for name, values in vars(self).items()})
        return replace(summed, last_time=self.last_time.max(-1))


def user_past(timelines: Timelines, users: np.ndarray, moments: np.ndarray) -> Past:
    """Return the totals over all events of a user: queries int64 [Q]."""
    everything = np.arange(len(timelines.item))
    return _past(timelines, everything, timelines.user_of_event(), users, moments)


def last_watch_time(timelines: Timelines, users: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """Return when the user's newest positive watch became known: int64 [Q], -1 never."""
    watches = np.flatnonzero(timelines.is_watch)
    known_at = timelines.outcome_moment[watches]
    times = np.where(timelines.has_time[watches], known_at, NEVER)
    owner = timelines.user_of_event()[watches]
    return AsOf(owner, known_at, users, moments).last(times, NEVER)


def past_with(
    timelines: Timelines,
    groups: np.ndarray | None,
    num_groups: int,
    *,
    users: np.ndarray,
    moments: np.ndarray,
    wanted: np.ndarray,
) -> Past:
    """Return the totals over a user's events with one group of items (a channel, say).

    Args:
        timelines: E events.
        groups: int32 [N] or [N, M], group numbers of each catalogue row, -1 none; None: each
            row is a group of its own.
        num_groups: Group numbers are below this.
        users: int64 [Q].
        moments: int64 [Q].
        wanted: int32 [Q, ...], the groups asked about, -1 none (which sees no event).

    Returns:
        Totals [Q, ...].
    """
    extra = (1,) * (wanted.ndim - 1)
    query_keys = users.reshape(-1, *extra) * num_groups + wanted
    query_keys = np.where(wanted >= 0, query_keys, NEVER).reshape(-1)
    query_moments = np.broadcast_to(moments.reshape(-1, *extra), wanted.shape).reshape(-1)
    events, event_groups = _events_with_groups(timelines, groups)
    keys = _user_of(timelines, events) * num_groups + event_groups
    kept = _may_be_among(keys, query_keys)
    asked = np.flatnonzero(_may_be_among(query_keys, keys))
    found = _past(timelines, events[kept], keys[kept], query_keys[asked], query_moments[asked])
    return found.placed(asked, len(query_keys)).reshape(*wanted.shape)


def _user_of(timelines: Timelines, events: np.ndarray) -> np.ndarray:
    return np.searchsorted(timelines.offsets, events, side="right") - 1


def _events_with_groups(
    timelines: Timelines, groups: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return one entry per event and group of its item: event number and group, int64 [E']."""
    known = np.flatnonzero(timelines.item >= 0)
    if groups is None:
        return known, timelines.item[known].astype(np.int64)
    of_event = groups.reshape(len(groups), -1)[timelines.item[known]]
    row, column = np.nonzero(of_event >= 0)
    return known[row], of_event[row, column].astype(np.int64)


def _may_be_among(keys: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return a mask that keeps every key that is one of the others, and few more: bool [n].

    Sorting costs far more than this look into a table of marks. Most of a log's events are with
    items that no query of the shard asks about, and most candidates of a request are items that
    its user has never met.
    """
    marks = np.zeros(MARKS_PER_KEY * len(others) + 1, np.bool_)
    marks[others % len(marks)] = True
    return marks[keys % len(marks)]


def _past(
    timelines: Timelines,
    events: np.ndarray,
    keys: np.ndarray,
    query_keys: np.ndarray,
    query_moments: np.ndarray,
) -> Past:
    moments = timelines.moment[events]
    shown = AsOf(keys, moments, query_keys, query_moments)
    times = np.where(timelines.has_time[events], moments, NEVER)
    has_outcome = (timelines.watch_ms[events] >= 0) | timelines.is_watch[events]
    with_outcome = events[has_outcome]
    known = AsOf(
        keys[has_outcome], timelines.outcome_moment[with_outcome], query_keys, query_moments
    )
    watch_ms = timelines.watch_ms[with_outcome]
    columns = [watch_ms >= 0, timelines.is_watch[with_outcome], np.maximum(watch_ms, 0)]
    sums = known.sums(np.stack(columns, axis=-1).astype(np.int64))
    impressions = shown.sums(timelines.is_impression[events].astype(np.int64))
    return Past(impressions, sums[:, 0], sums[:, 1], sums[:, 2], shown.last(times, NEVER))
