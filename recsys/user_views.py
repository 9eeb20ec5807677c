"""The users of a batch of requests, as both nets see them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from recsys.bundle import Bundle
from recsys.candidates.query_time import minutes_since, minutes_since_watch, query_time
from recsys.candidates.successors import SuccessorCounts, count_successors
from recsys.data.columns import category_of
from recsys.data.timelines import Timelines, WatchHistories, watch_histories
from recsys.data.tokens import tokens
from recsys.data.user_log import ages
from recsys.data.user_states import timelines_of_states
from recsys.exploration.features import KnownWatches
from recsys.requests import Request


@dataclass(frozen=True)
class UserViews:
    """Q users, each as of the moment of their request.

    Args:
        timelines: Their events; the features pick what was known at the moment.
        histories: Their positive watches of trained items.
        moment: int64 [Q]; `has_time`: bool [Q].
        tower_inputs: Inputs of the user tower, see `UserTower.vectors`.
        successions: What lately followed the users' last watches; None where the net does not
            count it.
        codes: Column of `user_categorical` -> int32 [Q], embedding codes.
        numeric: Column of `user_numeric` -> float32 [Q], NaN missing.
    """

    timelines: Timelines
    histories: WatchHistories
    moment: np.ndarray
    has_time: np.ndarray
    tower_inputs: dict[str, np.ndarray]
    successions: SuccessorCounts | None
    codes: dict[str, np.ndarray]
    numeric: dict[str, np.ndarray]

    @cached_property
    def known_watches(self) -> KnownWatches:
        """What the neural process may know of the users."""
        return KnownWatches(self.timelines)

    @cached_property
    def watches(self) -> WatchHistories:
        """Their positive watches of any item, trained or not; a code is the row + 1."""
        return watch_histories(self.timelines, np.iinfo(np.int32).max)

    def watched_rows(self, position: int) -> np.ndarray:
        """Return the catalogue rows that a user is known to have watched: sorted, unique."""
        timelines = self.timelines
        own = slice(timelines.offsets[position], timelines.offsets[position + 1])
        known = timelines.is_watch[own] & (timelines.outcome_moment[own] < self.moment[position])
        rows = np.unique(timelines.item[own][known])
        return rows[rows >= 0]


def view_users(requests: Sequence[Request], bundle: Bundle) -> UserViews:
    """Turn the users' states and contexts into rows, codes and histories."""
    settings = bundle.settings
    states = [request.user for request in requests]
    timelines = timelines_of_states(
        states, bundle.catalogue, bundle.item_features.duration_ms, settings.data.watch
    )
    histories = watch_histories(timelines, bundle.catalogue.num_trained)
    moment = np.array([request.now for request in requests], np.int64)
    has_time = np.array([request.has_time for request in requests], bool)
    return UserViews(
        timelines=timelines,
        histories=histories,
        moment=moment,
        has_time=has_time,
        tower_inputs=_tower_inputs(requests, bundle, histories, moment, has_time),
        successions=_successions(bundle, histories, moment),
        codes={name: _codes(requests, bundle, name) for name in settings.ranking.user_categorical},
        numeric={name: _numbers(requests, name) for name in settings.ranking.user_numeric},
    )


def _tower_inputs(
    requests: Sequence[Request],
    bundle: Bundle,
    histories: WatchHistories,
    moment: np.ndarray,
    has_time: np.ndarray,
) -> dict[str, np.ndarray]:
    settings = bundle.settings.candidates
    users = np.arange(len(requests))
    length = settings.history_length
    known = histories.known_before(users, moment)
    inputs = {
        "history": histories.newest(users, known, length),
        "history_length": np.minimum(known, length).astype(np.int32),
    }
    if settings.watch_times:
        inputs["watch_seconds"] = histories.newest_seconds(users, known, length)
    if settings.query_time:
        inputs["query_time"] = query_time(moment, has_time)
    if settings.minutes_since_watch:
        inputs["minutes_since_watch"] = minutes_since_watch(
            histories, users, known, moment, has_time
        )
    if settings.forecast_minutes:
        made = np.full_like(moment, bundle.data_until)
        inputs["minutes_since_forecast"] = minutes_since(moment, made, has_time)
    if settings.searches:
        inputs["search_tokens"] = _search_tokens(requests, bundle)
    if settings.context:
        columns = [_codes(requests, bundle, name) for name in settings.context]
        inputs["context"] = np.stack(columns, axis=1)
    if settings.age:
        inputs["age"] = ages(
            _numbers(requests, "age"), _numbers(requests, "birth_year"), moment, has_time
        )
    return inputs


def _successions(
    bundle: Bundle, histories: WatchHistories, moment: np.ndarray
) -> SuccessorCounts | None:
    if bundle.successors is None:
        return None
    users = np.arange(len(moment))
    last = histories.newest_code(users, histories.known_before(users, moment))
    newest = np.where(last[:, None] > 0, bundle.successors[np.maximum(last, 1) - 1], 0)
    return count_successors(newest, bundle.settings.candidates.successor_windows)


def _search_tokens(requests: Sequence[Request], bundle: Bundle) -> np.ndarray:
    vocabulary = bundle.vocabularies["search_token"]
    width = bundle.settings.candidates.max_search_tokens
    codes = np.zeros((len(requests), width), np.int32)
    for row, request in enumerate(requests):
        known = [query for query, moment in request.user.searches if moment < request.now]
        found = vocabulary.codes([token for query in known for token in tokens(query)])
        newest = found[found > 0][-width:]
        codes[row, : len(newest)] = newest
    return codes


def _codes(requests: Sequence[Request], bundle: Bundle, name: str) -> np.ndarray:
    values = [category_of(_value(request, name)) for request in requests]
    return bundle.vocabularies[name].codes(values)


def _value(request: Request, name: str) -> str | float | None:
    if name == "user_id":
        return request.user.user_id
    return request.context.get(name, request.user.attributes.get(name))


def _numbers(requests: Sequence[Request], name: str) -> np.ndarray:
    return np.array([_number(_value(request, name)) for request in requests], np.float32)


def _number(value: str | float | None) -> float:
    try:
        return np.nan if value is None else float(value)
    except ValueError:
        return np.nan
