"""The ranking features: one function for training rows and for requests.

Counters are integers until the last division, so a row has the same bits whether it was computed
alone, among 300 candidates, or among all impressions of a shard. NumPy only.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recsys.data.examples import ITEM_COUNTERS
from recsys.data.timelines import Timelines, WatchHistories
from recsys.ranking.items import ItemFeatures
from recsys.ranking.past import Past, last_watch_time, past_with, user_past
from recsys.ranking.recent import (
    NUM_REMEMBERED,
    Recent,
    age_codes,
    decayed_means,
    outcome_codes,
    recent_events,
    session_columns,
)
from recsys.ranking.spec import FeatureSpec, Priors

MICROSECONDS = 1_000_000
HOUR = 3600 * MICROSECONDS
DAY = 24 * HOUR
EPOCH_WEEKDAY = 3
"""1 January 1970 was a Thursday; Monday is 0."""

PRIOR_COUNT = 10.0
"""How many events of its own a rate needs to weigh as much as what was expected of it."""

Columns = dict[str, np.ndarray]


@dataclass(frozen=True)
class Queries:
    """Q requests (or training impressions) by C candidates.

    Args:
        user: int64 [Q], index into the timelines.
        moment: int64 [Q], microseconds since the epoch, or a sequence number.
        has_time: bool [Q].
        codes: `user_categorical` and `bias_categorical` columns -> int32 [Q]; of the latter, those
            that are absent are unknown.
        numeric: `user_numeric` column -> float32 [Q], NaN missing.
        retrieval_score, retrieval_rank: float32 [Q, C], NaN missing.
    """

    user: np.ndarray
    moment: np.ndarray
    has_time: np.ndarray
    codes: dict[str, np.ndarray]
    numeric: dict[str, np.ndarray]
    retrieval_score: np.ndarray
    retrieval_rank: np.ndarray


def ranking_features(
    queries: Queries,
    candidates: np.ndarray,
    timelines: Timelines,
    histories: WatchHistories,
    items: ItemFeatures,
    item_counters: np.ndarray,
    channel_counters: np.ndarray,
    spec: FeatureSpec,
) -> Columns:
    """Compute every input of the ranking net.

    Args:
        queries: Q users at their moments.
        candidates: int32 [Q, C], catalogue rows.
        timelines: Events of the users; those that a query may not know are not counted.
        histories: Their positive watches.
        items: Features by catalogue row.
        item_counters: int64 [Q, C, 5], `ITEM_COUNTERS` of each candidate as of the moment.
        channel_counters: int64 [Q, C, 5], of its channel.
        spec: Which inputs, in which order.

    Returns:
        `user_categorical` int32 [Q, A], `user_numeric` float32 [Q, F], `history` int32 [Q, H],
        `bias_categorical` int32 [Q, A'],
        `recent_item`, `recent_outcome`, `recent_age` int32 [Q, T], `recent_categorical` int32
        [Q, T, B], `recent_bags` int32 [Q, T, L, M], of the newest events from the newest on,
        `candidate_item` int32 [Q, C], `candidate_categorical` int32 [Q, C, B],
        `candidate_bags` int32 [Q, C, L, M], `candidate_numeric` float32 [Q, C, G]. NaN is missing.
    """
    known = histories.known_before(queries.user, queries.moment)
    recent = recent_events(
        timelines, queries.user, queries.moment, queries.has_time, NUM_REMEMBERED
    )
    of_user = _user_columns(queries, timelines, recent, items, spec.priors)
    of_candidate = {
        **{name: items.numeric[name][candidates] for name in items.numeric},
        **_item_columns(queries, candidates, items),
        **_counter_columns("item", item_counters, spec.priors),
        **_counter_columns("channel", channel_counters, spec.priors),
        **_user_item_columns(queries, candidates, timelines, items, of_user),
        "retrieval_score": queries.retrieval_score,
        "retrieval_rank": queries.retrieval_rank,
    }
    return {
        "user_categorical": _user_codes(queries, spec),
        "user_numeric": _stack([of_user[name] for name in spec.user_numeric], (len(known),)),
        "history": histories.newest(queries.user, known, spec.history_length),
        "bias_categorical": _bias_codes(queries, spec),
        **_recent_columns(recent.newest(spec.recent_length), items, spec),
        **_item_codes("candidate", candidates, items, spec),
        "candidate_numeric": _stack(
            [of_candidate[name] for name in spec.item_numeric], candidates.shape
        ),
    }


def _stack(
    columns: Sequence[np.ndarray], shape: tuple[int, ...], dtype: type = np.float32
) -> np.ndarray:
    """Stack columns [...] into [..., number of columns], which may be none."""
    if not columns:
        return np.zeros((*shape, 0), dtype)
    return np.stack(columns, axis=-1).astype(dtype, copy=False)


def _user_codes(queries: Queries, spec: FeatureSpec) -> np.ndarray:
    """Return int32 [Q, A]; the hour and weekday are UTC, 0 where the time is unknown."""
    hour = queries.moment // HOUR % 24 + 1
    weekday = (queries.moment // DAY + EPOCH_WEEKDAY) % 7 + 1
    codes = {
        **queries.codes,
        "hour": np.where(queries.has_time, hour, 0),
        "weekday": np.where(queries.has_time, weekday, 0),
    }
    return _stack([codes[name] for name in spec.user_categorical], hour.shape, np.int32)


def _bias_codes(queries: Queries, spec: FeatureSpec) -> np.ndarray:
    """Return int32 [Q, A'], 0 for what is not known, as when serving."""
    unknown = np.zeros(len(queries.user), np.int32)
    columns = [queries.codes.get(name, unknown) for name in spec.bias_categorical]
    return _stack(columns, unknown.shape, np.int32)


def _recent_columns(recent: Recent, items: ItemFeatures, spec: FeatureSpec) -> Columns:
    """Return what the attention sees of the newest events."""
    return _item_codes("recent", recent.item, items, spec) | {
        "recent_outcome": outcome_codes(recent),
        "recent_age": age_codes(recent),
    }


def _item_codes(prefix: str, rows: np.ndarray, items: ItemFeatures, spec: FeatureSpec) -> Columns:
    codes = items.codes_of(rows, spec.item_categorical, spec.item_bags)
    return {f"{prefix}_{name}": values for name, values in codes.items()}


def _user_columns(
    queries: Queries, timelines: Timelines, recent: Recent, items: ItemFeatures, priors: Priors
) -> Columns:
    """Return the numeric columns of the user: float32 [Q]."""
    past = user_past(timelines, queries.user, queries.moment)
    watched_at = last_watch_time(timelines, queries.user, queries.moment)
    overall = _past_columns("user", past, priors.watch_rate, priors.mean_watch_seconds)
    expected = {name: overall[f"user_{name}"] for name in ("watch_rate", "mean_watch_seconds")}
    duration_ms = np.where(recent.item >= 0, items.duration_ms[recent.item], -1)
    return {
        **queries.numeric,
        **overall,
        **decayed_means(recent, duration_ms, expected),
        **session_columns(recent),
        "user_seconds_since_event": _seconds_since(queries, past.last_time),
        "user_seconds_since_watch": _seconds_since(queries, watched_at),
    }


def _item_columns(queries: Queries, candidates: np.ndarray, items: ItemFeatures) -> Columns:
    """Return what the item is, apart from the user: float32 [Q, C]."""
    duration_ms = items.duration_ms[candidates]
    return {
        "duration_seconds": _ratio(np.maximum(duration_ms, 0), np.where(duration_ms > 0, 1000, 0)),
        "item_age_seconds": _seconds_since(queries, items.upload_time[candidates]),
    }


def _counter_columns(prefix: str, counters: np.ndarray, priors: Priors) -> Columns:
    """Return counts and rates of `ITEM_COUNTERS`: int64 [Q, C, 5] -> float32 [Q, C]."""
    count = {name: counters[..., column] for column, name in enumerate(ITEM_COUNTERS)}
    seconds = count["watch_ms"] / 1000
    return {
        f"{prefix}_impressions": count["impressions"].astype(np.float32),
        f"{prefix}_watch_rate": _shrunk(count["watches"], count["impressions"], priors.watch_rate),
        f"{prefix}_mean_watch_seconds": _shrunk(
            seconds, count["outcomes"], priors.mean_watch_seconds
        ),
        f"{prefix}_click_rate": _shrunk(count["clicks"], count["outcomes"], priors.click_rate),
    }


def _user_item_columns(
    queries: Queries,
    candidates: np.ndarray,
    timelines: Timelines,
    items: ItemFeatures,
    of_user: Columns,
) -> Columns:
    """Return what the user did with the item, its channel and its topics: float32 [Q, C]."""
    pasts = {
        "user_item": _past_with(queries, timelines, None, len(items), candidates),
        "user_channel": _past_with(
            queries, timelines, items.channel, items.num_channels, items.channel[candidates]
        ),
        "user_topic": _past_with(
            queries, timelines, items.topics, items.num_topics, items.topics[candidates]
        ).over_last_axis(),
    }
    rate, seconds = of_user["user_watch_rate"][:, None], of_user["user_mean_watch_seconds"][:, None]
    columns: Columns = {}
    for prefix, past in pasts.items():
        columns |= _past_columns(prefix, past, rate, seconds)
        columns[f"{prefix}_seconds_since"] = _seconds_since(queries, past.last_time)
    return columns


def _past_with(
    queries: Queries,
    timelines: Timelines,
    groups: np.ndarray | None,
    num_groups: int,
    wanted: np.ndarray,
) -> Past:
    return past_with(
        timelines,
        groups,
        num_groups,
        users=queries.user,
        moments=queries.moment,
        wanted=wanted,
    )


def _past_columns(
    prefix: str, past: Past, watch_rate: float | np.ndarray, mean_watch_seconds: float | np.ndarray
) -> Columns:
    """Return counts, and rates shrunk towards what is expected without them: float32 [...]."""
    return {
        f"{prefix}_impressions": past.impressions.astype(np.float32),
        f"{prefix}_watches": past.watches.astype(np.float32),
        f"{prefix}_watch_rate": _shrunk(past.watches, past.impressions, watch_rate),
        f"{prefix}_mean_watch_seconds": _shrunk(
            past.watch_ms / 1000, past.outcomes, mean_watch_seconds
        ),
    }


def _shrunk(total: np.ndarray, count: np.ndarray, expected: float | np.ndarray) -> np.ndarray:
    """Return (total + k expected) / (count + k), the mean of `count` values and k expected ones.

    Computed in float64, returned as float32.
    """
    mean = (total + PRIOR_COUNT * np.float64(expected)) / (count + PRIOR_COUNT)
    return mean.astype(np.float32)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Divide in float64; NaN where the denominator is not positive: float32."""
    out = np.full(numerator.shape, np.nan)
    np.divide(numerator, denominator, out=out, where=denominator > 0)
    return out.astype(np.float32)


def _seconds_since(queries: Queries, times: np.ndarray) -> np.ndarray:
    """Return the seconds from times [Q, ...] to the moments; NaN where either is unknown."""
    extra = (1,) * (times.ndim - 1)
    moment = queries.moment.reshape(-1, *extra)
    known = queries.has_time.reshape(-1, *extra) & (times >= 0)
    return _ratio(moment - times, np.where(known, MICROSECONDS, 0))
