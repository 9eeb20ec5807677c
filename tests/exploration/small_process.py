"""Small random impressions with contexts, and a small net with random weights."""

import numpy as np

from recsys.data.timelines import Timelines
from recsys.exploration.features import KnownWatches, target_numeric
from recsys.exploration.neural_process import NeuralProcess, Scales
from recsys.exploration.rows import ExplorationRows
from recsys.ranking.model import quantiles
from recsys.ranking.rows import RankingRows
from recsys.ranking.tables import TableSize
from recsys.settings import ExplorationSettings, TrainingSettings
from tests.ranking.small_world import NUM_ITEMS, make_world

WORLD = make_world()
SPEC = WORLD.spec
SETTINGS = ExplorationSettings(
    context_length=6,
    encoder=(16, 12),
    decoder=(16,),
    training=TrainingSettings(batch_size=32, max_epochs=3, tensorboard=False),
)
SPACES = SPEC.user_categorical | SPEC.item_categorical | SPEC.item_bags
SIZES = {
    name: TableSize(number, 4)
    for name, number in (SPACES | {"item_id": SPEC.num_item_codes}).items()
}


def make_rows(num_users=8, per_user=9, seed=0):
    """Return rows of which the first six of a user train, the next two validate.

    What was watched is what the rows before say, so that a row is also the number of a watch.
    """
    rng = np.random.default_rng(seed)
    total = num_users * per_user
    user = np.repeat(np.arange(num_users), per_user)
    place = np.tile(np.arange(per_user), num_users)
    watch_ms = rng.integers(0, 60_000, total)
    timelines = make_timelines(rng, num_users, per_user, watch_ms)
    known = KnownWatches(timelines)
    impressions = RankingRows(
        features=make_features(rng, total),
        user=user.astype(np.int32),
        item=timelines.item,
        duration_ms=np.full(total, -1),
        watch_ms=watch_ms,
        completed=rng.integers(-1, 2, total).astype(np.int8),
        clicked=np.full(total, -1, np.int8),
        liked=np.full(total, -1, np.int8),
        split=np.where(place < 6, 0, np.where(place < 8, 1, 2)).astype(np.int8),
    )
    context = known.newest(user, timelines.moment, SETTINGS.context_length)
    return ExplorationRows(impressions, context, known.watches, WORLD.items, SPEC)


def make_timelines(rng, num_users, per_user, watch_ms):
    """Return an event every ten moments, each known five later."""
    total = len(watch_ms)
    moment = np.tile(np.arange(per_user) * 10, num_users)
    return Timelines(
        offsets=np.arange(num_users + 1) * per_user,
        item=rng.integers(0, NUM_ITEMS, total).astype(np.int32),
        moment=moment,
        outcome_moment=moment + 5,
        has_time=np.ones(total, bool),
        watch_ms=watch_ms,
        clicked=np.full(total, -1, np.int8),
        is_impression=np.ones(total, bool),
        is_watch=watch_ms > 20_000,
    )


def make_features(rng, total):
    """Return what the ranking net would be fed of a candidate each."""
    numeric = rng.random((total, 1, len(SPEC.item_numeric)), np.float32)
    numeric[rng.random(numeric.shape) < 0.1] = np.nan
    bags = [codes(rng, SPEC.item_bags.values(), total) for _ in range(3)]
    return {
        "user_categorical": codes(rng, SPEC.user_categorical.values(), total),
        "candidate_item": rng.integers(0, SPEC.num_item_codes, (total, 1)).astype(np.int32),
        "candidate_categorical": codes(rng, SPEC.item_categorical.values(), total)[:, None],
        "candidate_bags": np.stack(bags, axis=-1)[:, None],
        "candidate_numeric": numeric,
    }


def codes(rng, numbers, total):
    return np.stack([rng.integers(0, number, total) for number in numbers], axis=-1).astype(
        np.int32
    )


def make_scales(rows, num_quantiles, *, mean, deviation):
    columns = [SPEC.item_numeric.index(name) for name in target_numeric(SPEC)]
    numeric = rows.impressions.features["candidate_numeric"][:, 0, columns]
    return Scales(quantiles(numeric, num_quantiles), mean=mean, deviation=deviation)


def make_model(rows, seed=3, **changes):
    """Return a net whose every weight is large enough to be seen."""
    scales = make_scales(rows, 10, mean=2.5, deviation=1.2)
    settings = SETTINGS.model_copy(update=changes)
    model = NeuralProcess(settings, SPEC, scales, SIZES, seed=seed)
    rng = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        variable.assign(0.4 * rng.standard_normal(variable.shape).astype(np.float32))
    return model


def outputs(model, inputs):
    return np.array(model(inputs))
