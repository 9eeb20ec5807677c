"""A small random log in catalogue rows, with ties, unknowns and untimed events."""

from dataclasses import dataclass

import numpy as np

from recsys.data.timelines import Timelines, WatchHistories, watch_histories
from recsys.ranking.features import Queries
from recsys.ranking.items import ItemFeatures
from recsys.ranking.spec import FeatureSpec, Priors, new_spec
from recsys.settings import RankingSettings

NUM_USERS, NUM_ITEMS, NUM_TRAINED = 7, 12, 9
SECOND = 1_000_000
NOON = 1_767_268_800 * SECOND
"""Thursday, 1 January 2026, 12:00 UTC."""


class Sizes:
    """Stands in for a vocabulary where only its size counts."""

    def __init__(self, num_codes):
        self.num_codes = num_codes


SETTINGS = RankingSettings(
    user_categorical=("surface",),
    item_categorical=("kind", "topics", "tags", "shape"),
    user_numeric=("age",),
    item_numeric=("height",),
    bias_categorical=("place",),
    history_length=4,
    recent_length=6,
)


@dataclass(frozen=True)
class World:
    timelines: Timelines
    histories: WatchHistories
    items: ItemFeatures
    spec: FeatureSpec

    def user(self, number):
        """Return the timelines and histories of one user alone, as the server has them."""
        own = slice(*self.timelines.offsets[number : number + 2])
        arrays = {name: values[own] for name, values in self.timelines.arrays().items()}
        arrays["offsets"] = np.array([0, own.stop - own.start])
        timelines = Timelines(**arrays)
        return timelines, watch_histories(timelines, NUM_TRAINED)


def make_items(rng):
    topics = rng.integers(-1, 4, (NUM_ITEMS, 3)).astype(np.int32)
    return ItemFeatures(
        code=np.where(np.arange(NUM_ITEMS) < NUM_TRAINED, np.arange(NUM_ITEMS) + 1, 0).astype(
            np.int32
        ),
        codes={
            "kind": rng.integers(0, 4, NUM_ITEMS).astype(np.int32),
            "topics": (topics + 1).astype(np.int32),
            "tags": rng.integers(0, 3, (NUM_ITEMS, 2)).astype(np.int32),
            "shape": rng.integers(0, 6, NUM_ITEMS).astype(np.int32),
        },
        numeric={"height": rng.random(NUM_ITEMS, np.float32)},
        duration_ms=np.where(rng.random(NUM_ITEMS) < 0.2, -1, rng.integers(1, 90_000, NUM_ITEMS)),
        upload_time=np.where(rng.random(NUM_ITEMS) < 0.2, -1, NOON - 10**9 * np.arange(NUM_ITEMS)),
        channel=rng.integers(-1, 3, NUM_ITEMS).astype(np.int32),
        topics=topics,
        num_channels=3,
        num_topics=4,
    )


def make_timelines(rng, num_events=25):
    total = NUM_USERS * num_events
    has_time = np.tile(np.arange(num_events) >= 5, NUM_USERS)
    second = np.sort(rng.integers(0, 40, (NUM_USERS, num_events)), axis=1).ravel()
    moment = np.where(has_time, NOON + second * SECOND, np.tile(np.arange(num_events), NUM_USERS))
    watch_ms = np.where(rng.random(total) < 0.3, -1, rng.integers(0, 15_000, total))
    watch_ms[~has_time] = -1
    return Timelines(
        offsets=np.arange(NUM_USERS + 1) * num_events,
        item=rng.integers(-1, NUM_ITEMS, total).astype(np.int32),
        moment=moment,
        outcome_moment=moment + np.maximum(watch_ms, 0) // 1000 * SECOND,
        has_time=has_time,
        watch_ms=watch_ms,
        clicked=rng.integers(-1, 2, total).astype(np.int8),
        is_impression=rng.random(total) < 0.9,
        is_watch=(watch_ms > 5_000) | (~has_time & (rng.random(total) < 0.5)),
    )


def make_world(seed=0, settings=SETTINGS):
    rng = np.random.default_rng(seed)
    timelines, items = make_timelines(rng), make_items(rng)
    sizes = {"surface": 5, "kind": 4, "topics": 5, "tags": 3, "shape": 6, "place": 4}
    spec = new_spec(
        settings,
        {name: Sizes(size) for name, size in sizes.items()},
        items,
        num_item_codes=NUM_TRAINED + 1,
        retrieval_trained=True,
        priors=Priors(watch_rate=0.3, mean_watch_seconds=6.0, click_rate=0.4),
    )
    return World(timelines, watch_histories(timelines, NUM_TRAINED), items, spec)


def make_queries(rng, num_queries, num_candidates):
    """Return queries (the last of unknown time), candidates, and both kinds of counters."""
    shape = (num_queries, num_candidates)
    sizes = {"surface": 5, "place": 4}
    has_time = np.arange(num_queries) < num_queries - 1
    seconds = rng.integers(0, 45, num_queries)
    queries = Queries(
        user=rng.integers(0, NUM_USERS, num_queries),
        moment=np.where(has_time, NOON + seconds * SECOND, 3),
        has_time=has_time,
        codes={
            name: rng.integers(0, size, num_queries).astype(np.int32)
            for name, size in sizes.items()
        },
        numeric={"age": rng.random(num_queries, np.float32)},
        retrieval_score=rng.random(shape, np.float32),
        retrieval_rank=rng.integers(0, 9, shape).astype(np.float32),
    )
    candidates = rng.integers(0, NUM_ITEMS, shape).astype(np.int32)
    return queries, candidates, *rng.integers(0, 1000, (2, *shape, 5))


def take(queries, rows, *, user=None, columns=slice(None)):
    """Return some of the queries and candidates; `user` renumbers them."""
    return Queries(
        user=queries.user[rows] if user is None else user,
        moment=queries.moment[rows],
        has_time=queries.has_time[rows],
        codes={name: codes[rows] for name, codes in queries.codes.items()},
        numeric={name: values[rows] for name, values in queries.numeric.items()},
        retrieval_score=queries.retrieval_score[rows, columns],
        retrieval_rank=queries.retrieval_rank[rows, columns],
    )
