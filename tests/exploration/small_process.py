"""Small random impressions with contexts, and a small net with random weights."""

import numpy as np

from recsys.exploration.neural_process import NeuralProcess, Scales
from recsys.exploration.rows import ExplorationRows, context_rows, item_numeric
from recsys.ranking.model import TableSize, quantiles
from recsys.settings.exploration import ExplorationSettings
from recsys.settings.training import TrainingSettings
from tests.ranking.small_world import make_world

SPEC = make_world().spec
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
    """Return rows of which the first six of a user train, the next two validate."""
    rng = np.random.default_rng(seed)
    total = num_users * per_user
    user = np.repeat(np.arange(num_users, dtype=np.int32), per_user)
    place = np.tile(np.arange(per_user), num_users)
    numeric = rng.random((total, len(item_numeric(SPEC))), np.float32)
    numeric[rng.random(numeric.shape) < 0.1] = np.nan
    features = {
        "item": rng.integers(0, SPEC.num_item_codes, total).astype(np.int32),
        "categorical": codes(rng, SPEC.item_categorical.values(), total),
        "bags": np.stack([codes(rng, SPEC.item_bags.values(), total) for _ in range(3)], axis=-1),
        "numeric": numeric,
        "request": codes(rng, SPEC.user_categorical.values(), total),
    }
    return ExplorationRows(
        features=features,
        context=context_rows(user, place * 10, place * 10 + 5, SETTINGS.context_length),
        user=user,
        watch_ms=rng.integers(0, 60_000, total),
        completed=rng.integers(-1, 2, total).astype(np.int8),
        split=np.where(place < 6, 0, np.where(place < 8, 1, 2)).astype(np.int8),
    )


def codes(rng, numbers, total):
    return np.stack([rng.integers(0, number, total) for number in numbers], axis=-1).astype(
        np.int32
    )


def make_model(rows, seed=3, **changes):
    """Return a net whose every weight is large enough to be seen."""
    scales = Scales(quantiles(rows.features["numeric"], 10), mean=2.5, deviation=1.2)
    settings = SETTINGS.model_copy(update=changes)
    model = NeuralProcess(settings, SPEC, scales, SIZES, seed=seed)
    rng = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        variable.assign(0.4 * rng.standard_normal(variable.shape).astype(np.float32))
    return model


def outputs(model, inputs):
    return np.array(model(inputs))
