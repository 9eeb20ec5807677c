"""A small ranking net with random weights, the same under every backend, and a batch for it.

All of its parts and heads are on, each head with a weight of its own.
"""

import numpy as np

from recsys.core.backends import to_numpy
from recsys.ranking.features import ranking_features
from recsys.ranking.heads import fit_heads
from recsys.ranking.model import RankingModel, Scales, quantiles
from recsys.ranking.spec import model_inputs
from recsys.ranking.tables import table_sizes
from recsys.settings.ranking import HeadsSettings
from tests.ranking.small_world import SETTINGS, make_queries, make_world

NUM_ROWS = 24
WEIGHTS = {
    "expected": 1.0,
    "median": 0.5,
    "completion": 2.0,
    "click": 0.25,
    "like": 0.75,
    "percentile": 1.5,
    "curve": 3.0,
}
PARTS = {
    "max_embedding_width": 6,
    "hidden": (16, 8),
    "num_experts": 3,
    "cross_rank": 3,
    "attention_width": 4,
    "like_column": "liked",
}
NO_PARTS = {"num_experts": 1, "cross_layers": 0, "recent_length": 0, "bias_categorical": ()}


def heads_on(**weights):
    """Return settings of heads by weight; those that are not named are off."""
    every = dict.fromkeys(WEIGHTS, 0.0) | weights
    return HeadsSettings(**{name: {"weight": weight} for name, weight in every.items()})


def make_model(seed=3, **changes):
    """Return a net and its inputs for some requests; `changes` are settings of the net."""
    settings = SETTINGS.model_copy(update=PARTS | {"heads": heads_on(**WEIGHTS)} | changes)
    world = make_world(settings=settings)
    asked = make_queries(np.random.default_rng(5), NUM_ROWS, 5)
    features = features_of(world, asked)
    scales = Scales(
        quantiles(features["user_numeric"], 10),
        quantiles(features["candidate_numeric"].reshape(-1, len(world.spec.item_numeric)), 10),
    )
    heads = make_heads(settings)
    sizes = table_sizes(
        world.spec,
        scale=settings.embedding_scale,
        max_width=settings.max_embedding_width,
        has_item_ids=settings.item_ids,
    )
    model = RankingModel(settings, world.spec, scales, heads, sizes, seed=seed)
    # Initial values differ between Keras's backends, and some are too small to see.
    rng = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        size = variable.shape[0] ** -0.5 if len(variable.shape) > 1 else 0.5
        variable.assign(size * rng.standard_normal(variable.shape).astype(np.float32))
    for table in model.tables.values():
        codes = np.arange(table.num_codes)[:, None]
        table.table.assign(to_numpy(table.table.value) * (codes > 0))
    return model, {name: features[name] for name in model_inputs(features)}


def make_heads(settings):
    rng = np.random.default_rng(2)
    return fit_heads(
        tuple(settings.heads.on()),
        rng.exponential(4.0, 500),
        np.where(rng.random(500) < 0.2, np.nan, rng.uniform(1, 90, 500)),
        num_thresholds=5,
        num_duration_groups=3,
    )


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
    return first_candidates(features) | make_labels(rng, NUM_ROWS)


def make_labels(rng, num_rows):
    """Return labels of a training batch: some unknown, rows of two users, the last four padding."""
    row = np.arange(num_rows)
    labels = {
        "watch_time": rng.exponential(1.0, num_rows),
        "percentile": rng.random(num_rows),
        "weight": row < num_rows - 4,
    }
    for place, name in enumerate(("completed", "clicked", "liked")):
        labels[name] = row % (place + 2) == 1
        labels[f"{name}_weight"] = rng.random(num_rows) < 0.8
    floats = {name: values.astype(np.float32) for name, values in labels.items()}
    return floats | {"user": rng.integers(0, 2, num_rows).astype(np.int32)}
