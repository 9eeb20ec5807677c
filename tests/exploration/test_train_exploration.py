"""The whole step on a world of a known answer: even users watch 5 s of all, odd ones 50 s."""

import json
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest

from benchmarks.peers.cut_histories import cut_features, cut_timelines, impressions_of
from pipelines import train_exploration
from pipelines.prepare import prepare
from pipelines.train_ranking import spec_of
from recsys.data.examples import TEST, TRAINING, VALIDATION
from recsys.data.prepared import load_prepared
from recsys.errors import DataError
from recsys.exploration.predictor import Predictor
from recsys.exploration.rows import exploration_rows
from recsys.ranking.items import ItemFeatures
from recsys.ranking.rows import rows_by_shard
from recsys.settings import (
    DataSettings,
    ExplorationSettings,
    RankingSettings,
    RecsysSettings,
    SplitSettings,
    TrainingSettings,
    WatchRule,
)
from tests.worlds import START, as_log

NUM_USERS, NUM_ITEMS, LENGTH = 60, 6, 30
SPLITS = (TRAINING, VALIDATION, TEST)
EXPLORATION = ExplorationSettings(
    enabled=True,
    context_length=8,
    encoder=(32,),
    decoder=(32,),
    training=TrainingSettings(batch_size=64, max_epochs=6, learning_rate=1e-2, tensorboard=False),
)
SETTINGS = RecsysSettings(
    name="two levels",
    data=DataSettings(source="table", shards=2, processes=1, watch=WatchRule(min_ms=15_000)),
    split=SplitSettings(kind="time", validation_from="2026-01-08", test_from="2026-01-09"),
    ranking=RankingSettings(user_categorical=("surface",), item_categorical=("channel_id",)),
    exploration=EXPLORATION,
)


def world_log():
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(NUM_USERS), LENGTH)
    minutes = rng.integers(0, 10 * 24 * 60, len(user))
    times = [START + timedelta(minutes=int(minute)) for minute in minutes]
    events = pa.table(
        {
            "user_id": [f"u{number}" for number in user],
            "item_id": [f"i{number}" for number in rng.integers(0, NUM_ITEMS, len(user))],
            "event_time": pa.array(times, pa.timestamp("us", tz="UTC")),
            "watch_ms": pa.array(np.where(user % 2, 50_000, 5_000), pa.int64()),
            "surface": ["home" if even else "search" for even in minutes % 2 == 0],
        }
    )
    items = pa.table(
        {
            "item_id": [f"i{number}" for number in range(NUM_ITEMS)],
            "channel_id": [f"c{number % 2}" for number in range(NUM_ITEMS)],
            "duration_ms": pa.array([20_000] * NUM_ITEMS, pa.int64()),
        }
    )
    return as_log(events, items=items)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    out = tmp_path_factory.mktemp("prepared")
    prepare(world_log(), SETTINGS, out)
    return out


@pytest.fixture(scope="module")
def world(prepared, tmp_path_factory):
    log = load_prepared(prepared)
    items = ItemFeatures.build(log.catalogue, log.vocabularies, SETTINGS.ranking)
    spec = spec_of(log, items, SETTINGS.ranking)
    scratch = tmp_path_factory.mktemp("rows")
    return log, items, spec, exploration_rows(log, items, spec, SPLITS, 8, scratch)


@pytest.fixture(scope="module")
def trained(prepared, tmp_path_factory):
    out = tmp_path_factory.mktemp("trained")
    train_exploration.main(SETTINGS, prepared, out)
    return out


def predict(trained, rows, size):
    cut = rows.cut(size)
    chosen = np.flatnonzero((rows.impressions.split == TEST) & (cut.context_sizes() == size))
    found = Predictor.load(trained).predict(cut.inputs(chosen, cut.context[chosen]))
    return found, rows.impressions.watch_ms[chosen] / 1000


def test_one_watch_tells_the_level_of_a_user(trained, world):
    found, seconds = predict(trained, world[3], 1)
    error = np.abs(found.mean[:, 0] - np.log1p(seconds))
    assert error.mean() < 0.15


def test_unknown_user_is_somewhere_between(trained, world):
    found, _ = predict(trained, world[3], 0)
    assert np.abs(np.expm1(found.mean) - 17).mean() < 8
    one, _ = predict(trained, world[3], 1)
    assert found.deviation.mean() > 2 * one.deviation.mean()


def test_validation_figures_are_those_of_the_best_epoch(trained):
    figures = json.loads((trained / "validation.json").read_text())
    curves = json.loads((trained / "curves.json").read_text())
    best = curves["epochs"][curves["best_epoch"]]["metrics"]
    assert figures["outcome_loss"] == best["outcome_loss"]
    assert best["outcome_loss"] == min(
        epoch["metrics"]["outcome_loss"] for epoch in curves["epochs"]
    )


def test_same_seed_gives_the_same_net(trained, prepared, tmp_path):
    train_exploration.main(SETTINGS, prepared, tmp_path)
    for name in ("neural_process.onnx", "spread.json"):
        assert (tmp_path / name).read_bytes() == (trained / name).read_bytes()


def test_log_without_validation_is_refused(world, tmp_path):
    log, items, spec, _ = world
    rows = exploration_rows(log, items, spec, (TRAINING,), 8, tmp_path)
    with pytest.raises(DataError, match="the validation part"):
        train_exploration.train_exploration(rows, EXPLORATION, tmp_path, seed=0)


def test_contexts_hold_what_was_known_of_the_same_user(world):
    log, _, _, rows = world
    impressions = impressions_of(log, SPLITS)
    events = impressions.timelines
    row, _ = np.nonzero(rows.context >= 0)
    number = rows.context[rows.context >= 0]
    np.testing.assert_array_equal(events.user_of_event()[number], rows.impressions.user[row])
    assert (events.outcome_moment[number] < impressions.examples.moment[row]).all()
    np.testing.assert_array_equal(rows.watches.watch_ms[number], events.watch_ms[number])


def test_whole_contexts_give_the_features_of_whole_histories(world, tmp_path):
    log, items, spec, _ = world
    rows = exploration_rows(log, items, spec, SPLITS, LENGTH, tmp_path)
    chosen = np.arange(len(rows))
    whole = list(rows_by_shard(log, items, spec, SPLITS))
    cut = next(
        cut_features(
            impressions_of(log, SPLITS),
            chosen,
            rows.context,
            items,
            spec,
            log.catalogue.num_trained,
        )
    )
    overlapping = _is_under_way(log, rows)
    for name, values in cut.items():
        expected = np.concatenate([part.features[name] for part in whole])
        np.testing.assert_array_equal(values[~overlapping], expected[~overlapping])


def test_cut_features_hide_the_rest_of_the_user(world):
    log, items, spec, rows = world
    cut = rows.cut(3)
    found = next(
        cut_features(
            impressions_of(log, SPLITS),
            np.arange(len(rows)),
            cut.context,
            items,
            spec,
            log.catalogue.num_trained,
        )
    )
    seen = found["user_numeric"][:, spec.user_numeric.index("user_impressions")]
    np.testing.assert_array_equal(seen, np.minimum(rows.context_sizes(), 3))
    np.testing.assert_array_equal((found["recent_age"] > 0).sum(axis=1), seen)


def test_cut_timelines_are_in_order_of_time(world):
    log, _, _, rows = world
    timelines = cut_timelines(impressions_of(log, SPLITS).timelines, rows.context)
    same_user = np.diff(timelines.user_of_event()) == 0
    assert (np.diff(timelines.moment)[same_user] >= 0).all()


def _is_under_way(log, rows):
    """Say where the user has an event that began before the moment but has no outcome yet."""
    impressions, users = impressions_of(log, SPLITS), rows.impressions.user
    began = np.array(
        [
            ((users == user) & (impressions.examples.moment < moment)).sum()
            for user, moment in zip(users, impressions.examples.moment, strict=True)
        ]
    )
    return began != rows.context_sizes()
