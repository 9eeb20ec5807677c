"""How events of a user come together, whatever order and however often they arrive.

Events of one (not empty) event id are one event: it began at the earliest moment told, and of
its outcomes the longest watch wins. So repeats and reordering change nothing.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from recsys.state import EVENT_DTYPES, UserEvents, UserState

MAX_SEARCHES = 100
"""Newest searches kept of a user; the candidate net reads at most 50 words of them."""

IsWatch = Callable[[UserEvents], np.ndarray]
"""Says which events are positive watches, by the rule of the bundle: bool [E]."""


class StoredSearch(NamedTuple):
    """A search with the id that tells repeats apart; imported ones have none."""

    query: str
    moment: int
    event_id: str = ""


def concatenate_events(parts: Iterable[UserEvents]) -> UserEvents:
    """Put events one after the other."""
    columns = [part.arrays() for part in parts]
    if not columns:
        return UserEvents.empty()
    return UserEvents(
        **{name: np.concatenate([column[name] for column in columns]) for name in EVENT_DTYPES}
    )


def merge_events(*parts: UserEvents) -> UserEvents:
    """Return the events of all parts, those of one id as one, by moment."""
    events = concatenate_events(parts)
    group = _groups(events.event_id)
    if len(events) and group.max() + 1 < len(events):
        events = _merge_groups(events, group)
    # Stable, and events of the same moment stay in the order given.
    return events.take(np.lexsort((events.moment, events.has_time)))


def keep_newest(state: UserState, limit: int, is_watch: IsWatch) -> UserState:
    """Keep the newest events of a state; what was watched among the others stays seen."""
    if len(state.events) <= limit:
        return state
    older = state.events.take(slice(None, -limit))
    watched = older.item_id[is_watch(older)].tolist()
    return replace(
        state,
        events=state.events.take(slice(-limit, None)),
        seen=state.seen.union(item_id.decode() for item_id in watched),
    )


def merge_searches(*parts: Iterable[StoredSearch]) -> tuple[StoredSearch, ...]:
    """Return the newest searches of all parts, oldest first; of one id the earliest counts."""
    earliest: dict[tuple, StoredSearch] = {}
    for search in sorted((search for part in parts for search in part), key=_by_moment):
        identity = (search.event_id,) if search.event_id else (search.query, search.moment)
        earliest.setdefault(identity, search)
    return tuple(earliest.values())[-MAX_SEARCHES:]


def _by_moment(search: StoredSearch) -> tuple[int, str, str]:
    return search.moment, search.event_id, search.query


def _groups(event_ids: np.ndarray) -> np.ndarray:
    """Number the events so that those of one id share a number, without gaps: int64 [E]."""
    identity = np.unique(event_ids, return_inverse=True)[1]
    nameless = np.flatnonzero(event_ids == b"")
    identity[nameless] = len(event_ids) + np.arange(len(nameless))
    return np.unique(identity, return_inverse=True)[1]


def _merge_groups(events: UserEvents, group: np.ndarray) -> UserEvents:
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    first = order[starts]
    # Of equal watches the first told, so that a repeat, which arrives later, changes nothing.
    by_outcome = np.lexsort((-events.outcome_moment, events.watch_ms, group))
    longest = by_outcome[np.append(starts[1:], len(order)) - 1]
    has_time = np.logical_or.reduceat(events.has_time[order], starts)
    # A sequence number is no time: where one of them has a time, only times count.
    untimed = has_time[group] & ~events.has_time
    moment = np.where(untimed, np.iinfo(np.int64).max, events.moment)
    moment = np.minimum.reduceat(moment[order], starts)
    return UserEvents(
        item_id=events.item_id[first],
        event_id=events.event_id[first],
        moment=moment,
        outcome_moment=np.maximum(events.outcome_moment[longest], moment),
        has_time=has_time,
        watch_ms=events.watch_ms[longest],
        clicked=np.maximum.reduceat(events.clicked[order], starts),
        watch_label=np.maximum.reduceat(events.watch_label[order], starts),
        is_impression=np.logical_or.reduceat(events.is_impression[order], starts),
    )
