"""A small ranking net with random weights, the same under every backend, and a batch for it."""

import numpy as np

from recsys.core.backends import to_numpy
from recsys.ranking.features import ranking_features
from recsys.ranking.model import RankingModel, Scales, quantiles, table_sizes
from tests.ranking.small_world import SETTINGS, make_queries, make_world

NUM_ROWS = 24


def make_model(seed=3, **changes):
    world = make_world()
    settings = SETTINGS.model_copy(update={"hidden": (16, 8), "max_embedding_width": 6} | changes)
    asked = make_queries(np.random.default_rng(5), NUM_ROWS, 5)
    features = features_of(world, asked)
    scales = Scales(
        quantiles(features["user_numeric"], 10),
        quantiles(features["candidate_numeric"].reshape(-1, len(world.spec.item_numeric)), 10),
        mean_watch_seconds=4.0,
    )
    model = RankingModel(settings, world.spec, scales, table_sizes(settings, world.spec), seed=seed)
    # Initial values differ between Keras's backends, and some are too small to see.
    rng = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        variable.assign(0.5 * rng.standard_normal(variable.shape).astype(np.float32))
    for table in model.tables.values():
        table.table.assign(to_numpy(table.table.value) * (np.arange(table.num_codes) > 0)[:, None])
    return model, features


def features_of(world, asked):
    queries, candidates, item_counters, channel_counters = asked
    return ranking_features(
        queries,
        candidates,
        world.timelines,
        world.histories,
        world.items,
        item_counters,
        channel_counters,
        world.spec,
    )


def first_candidates(features):
    return {
        name: values[:, :1] if name.startswith("candidate") else values
        for name, values in features.items()
    }


def make_batch(features, seed=7):
    rng = np.random.default_rng(seed)
    return first_candidates(features) | {
        "watch_time": rng.exponential(1.0, NUM_ROWS).astype(np.float32),
        "completed": (np.arange(NUM_ROWS) % 2).astype(np.float32),
        "completed_weight": (rng.random(NUM_ROWS) < 0.8).astype(np.float32),
        "user": rng.integers(0, 2, NUM_ROWS).astype(np.int32),
        "weight": (np.arange(NUM_ROWS) < NUM_ROWS - 4).astype(np.float32),
    }
