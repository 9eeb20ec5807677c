"""The whole step on a world of which the answer is known.

Item k is watched (k + 1) x 5 s, and up to 2 s longer by chance.
"""

import json
import shutil
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest

from pipelines import train_ranking
from pipelines.prepare import prepare
from pipelines.ranking_training import Validation
from recsys.core.checkpoint import Checkpoints
from recsys.data.examples import TEST, TRAINING, VALIDATION
from recsys.data.prepared import load_prepared
from recsys.errors import DataError
from recsys.ranking.calibration import Calibration
from recsys.ranking.heads import Heads
from recsys.ranking.items import ItemFeatures
from recsys.ranking.predictions import feature_matrix, ranking_predictions
from recsys.ranking.ranker import Ranker
from recsys.ranking.rows import RankingRows, map_rows, rows_by_shard
from recsys.settings import (
    DataSettings,
    RankingSettings,
    RecsysSettings,
    SplitSettings,
    TrainingSettings,
    WatchRule,
)
from tests.ranking.small_net import NUM_ROWS, first_candidates, make_model
from tests.worlds import START, as_log

NUM_USERS, NUM_ITEMS, LENGTH = 60, 6, 30
DAYS = 10
CHANGED_ITEM = 5

SETTINGS = RecsysSettings(
    name="constant watch",
    data=DataSettings(source="table", shards=2, processes=1, watch=WatchRule(min_ms=15_000)),
    split=SplitSettings(kind="time", validation_from="2026-01-08", test_from="2026-01-09"),
    ranking=RankingSettings(
        user_categorical=("surface",),
        item_categorical=("channel_id",),
        hidden=(32, 16),
        max_embedding_width=4,
        training=TrainingSettings(
            batch_size=64, max_epochs=6, learning_rate=1e-2, tensorboard=False
        ),
    ),
)


def world_log(changed_from=None):
    """Return the log; from a moment on, item 5 is watched as item 0 is."""
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(NUM_USERS), LENGTH)
    item = rng.integers(0, NUM_ITEMS, len(user))
    minutes = rng.integers(0, DAYS * 24 * 60, len(user))
    times = np.array([START + timedelta(minutes=int(minute)) for minute in minutes])
    is_changed = (item == CHANGED_ITEM) & (times >= (changed_from or times.max()))
    watched_like = np.where(is_changed, 0, item)
    events = pa.table(
        {
            "user_id": [f"u{number}" for number in user],
            "item_id": [f"i{number}" for number in item],
            "event_time": pa.array(times, pa.timestamp("us", tz="UTC")),
            "watch_ms": (watched_like + 1) * 5000 + rng.integers(0, 2000, len(user)),
            "surface": ["home" if even else "search" for even in user % 2 == 0],
            "liked": item % 2 == 0,
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
def trained(prepared, tmp_path_factory):
    out = tmp_path_factory.mktemp("ranking")
    train_ranking.main(SETTINGS, prepared, out)
    return out


def test_step_writes_what_a_bundle_takes(trained):
    names = {path.name for path in trained.iterdir()}
    assert names == {
        "ranker.onnx",
        "calibration.json",
        "features.json",
        "heads.json",
        "validation.json",
        "curves.json",
        "unfinished",
    }


def test_step_clears_its_rows_also_those_of_a_kill(trained, prepared, tmp_path):
    shutil.copytree(trained / "unfinished", tmp_path / "unfinished")
    (tmp_path / "unfinished" / "rows").mkdir()
    (tmp_path / "unfinished" / "rows" / "left.npy").touch()
    train_ranking.main(SETTINGS, prepared, tmp_path)
    names = {path.name for path in (tmp_path / "unfinished").iterdir()}
    assert names == {path.name for path in (trained / "unfinished").iterdir()}
    assert "rows" not in names


def test_net_learns_the_watch_time_of_each_item(trained, prepared):
    found = ranking_predictions(SETTINGS.ranking, load_prepared(prepared), trained, TEST)
    seconds = found.watch_ms / 1000
    assert len(seconds) > 100
    assert np.abs(found.values["median_seconds"] - seconds).mean() < 2
    assert np.abs(found.values["expected_seconds"] - seconds).mean() < 3
    assert found.values["expected_seconds"].sum() == pytest.approx(seconds.sum(), rel=0.05)
    completed = found.completed == 1
    np.testing.assert_array_equal(completed, found.watch_ms >= 20_000)
    completion = found.values["completion"]
    assert completion[completed].min() > completion[~completed].max()
    inside = (found.values["low_seconds"] <= seconds) & (seconds <= found.values["high_seconds"])
    assert inside.mean() > 0.6


def test_validation_metrics_are_those_of_the_exported_net(trained, prepared):
    written = json.loads((trained / "validation.json").read_text())
    found = ranking_predictions(SETTINGS.ranking, load_prepared(prepared), trained, VALIDATION)
    seconds = found.watch_ms / 1000
    error = np.abs(found.values["median_seconds"] - seconds).mean()
    assert written["mae_seconds"] == pytest.approx(error, rel=1e-3)
    assert written["seconds_ratio"] == pytest.approx(1, abs=1e-6)
    ratio = found.values["expected_seconds"].sum(dtype=np.float64) / seconds.sum()
    assert ratio == pytest.approx(1, abs=1e-3)


def test_predictions_are_those_of_the_net_times_the_factors_of_their_rows(trained, prepared):
    log, ranker = load_prepared(prepared), Ranker.load(trained)
    found = ranking_predictions(SETTINGS.ranking, log, trained, TEST)
    items = ItemFeatures.build(log.catalogue, log.vocabularies, SETTINGS.ranking)
    factors = [
        ranker.calibration.factors_of(rows.features)[:, 0]
        for rows in rows_by_shard(log, items, ranker.spec, {TEST})
    ]
    assert len(np.unique(np.concatenate(factors))) > 1
    calibrated = found.uncalibrated_seconds * np.concatenate(factors)
    np.testing.assert_allclose(calibrated, found.values["expected_seconds"], rtol=1e-6)


def test_predictions_know_their_surface_bucket_and_day(trained, prepared):
    log = load_prepared(prepared)
    found = ranking_predictions(SETTINGS.ranking, log, trained, TEST)
    # Users of even number are at home; users are numbered anew, but each has one surface.
    assert set(found.surface) == {1, 2}
    assert len(np.unique(np.column_stack([found.user, found.surface]), axis=0)) == len(
        np.unique(found.user)
    )
    # All durations are 20 s: one bucket, the one of known durations.
    assert set(found.duration_bucket) == {1}
    assert np.unique(found.day).astype(str).tolist() == ["2026-01-09", "2026-01-10"]
    moments = [shard.ranking.moment[shard.ranking.split == TEST] for shard in log.shards]
    days = np.concatenate(moments).astype("datetime64[us]").astype("datetime64[D]")
    np.testing.assert_array_equal(found.day, days)


def test_likes_and_clicks_reach_rows_and_predictions(prepared, trained, tmp_path):
    ranking = SETTINGS.ranking.model_copy(update={"like_column": "liked"})
    changed = SETTINGS.model_copy(update={"ranking": ranking})
    clicks = world_log()
    prepare(clicks, changed, tmp_path)
    found = ranking_predictions(ranking, load_prepared(tmp_path), trained, TEST)
    np.testing.assert_array_equal(found.liked, found.watch_ms // 5000 % 2)
    assert set(found.clicked) == {-1}


def test_log_without_scores_of_the_candidate_stage_says_so(trained):
    assert Ranker.load(trained).spec.retrieval_trained is False


def test_mapped_rows_equal_the_shards_one_after_the_other(trained, prepared, tmp_path):
    log, spec = load_prepared(prepared), Ranker.load(trained).spec
    items = ItemFeatures.build(log.catalogue, log.vocabularies, SETTINGS.ranking)
    mapped = map_rows(log, items, spec, (TRAINING, TEST), tmp_path)
    parts = list(rows_by_shard(log, items, spec, (TRAINING, TEST)))
    assert set(mapped.split) == {TRAINING, TEST}
    for name in ("user", "item", "watch_ms", "completed", "clicked", "liked"):
        joined = np.concatenate([getattr(part, name) for part in parts])
        np.testing.assert_array_equal(getattr(mapped, name), joined)
    for name, values in mapped.features.items():
        np.testing.assert_array_equal(values, np.concatenate([p.features[name] for p in parts]))
    assert len(np.unique(mapped.user)) == NUM_USERS


def test_feature_matrix_names_every_column(trained, prepared):
    matrix = feature_matrix(SETTINGS.ranking, load_prepared(prepared), trained, TRAINING)
    assert matrix.values.shape == (len(matrix.watch_ms), len(matrix.names))
    item = matrix.values[:, matrix.names.index("item_id")]
    assert matrix.names.index("item_id") in matrix.categorical
    # Items never watched for long are not trained, and share code 0.
    assert sorted(set(item)) == [0, 1, 2, 3, 4]
    for code in (1, 2, 3, 4):
        assert len(set(matrix.watch_ms[item == code] // 5000)) == 1


def rows_of_small_world(features):
    unknown = np.full(NUM_ROWS, -1)
    return RankingRows(
        first_candidates(features),
        user=np.arange(NUM_ROWS) % 3,
        item=unknown,
        duration_ms=unknown,
        watch_ms=1000 * np.arange(NUM_ROWS),
        completed=unknown,
        clicked=unknown,
        liked=unknown,
        split=np.where(np.arange(NUM_ROWS) < 20, VALIDATION, TRAINING),
    )


@pytest.mark.parametrize("calibrate_durations", [True, False])
def test_setting_decides_whether_durations_are_calibrated(calibrate_durations):
    model, features = make_model(calibrate_durations=calibrate_durations)
    validation = Validation(model, rows_of_small_world(features))
    calibration = validation.calibration()
    assert (len(set(calibration.duration_factors)) > 4) == calibrate_durations
    assert len(set(calibration.surface_factors)) > 3
    before, after = validation.metrics(), validation.metrics(calibration)
    assert before["seconds_ratio"] != pytest.approx(1, abs=0.05)
    assert after["seconds_ratio"] == pytest.approx(1, abs=1e-6)
    assert before["mae_seconds"] == after["mae_seconds"]


def with_refit(refit):
    split = SETTINGS.split.model_copy(update={"validation_from": "2026-01-05"})
    # Parts beyond the tower would only take longer to compile.
    parts = {"recent_length": 0, "cross_layers": 0, "refit": refit}
    ranking = SETTINGS.ranking.model_copy(update=parts)
    return SETTINGS.model_copy(update={"split": split, "ranking": ranking})


@pytest.fixture(scope="module")
def changing(tmp_path_factory):
    """Return the log of a world that changes, and the nets trained without and with a refit."""
    out = tmp_path_factory.mktemp("changing")
    prepare(world_log(START + timedelta(days=4)), with_refit(False), out)
    without = tmp_path_factory.mktemp("without")
    train_ranking.main(with_refit(False), out, without)
    # The first training of the other one is found done.
    with_it = tmp_path_factory.mktemp("with_it")
    shutil.copytree(without / "unfinished", with_it / "unfinished")
    train_ranking.main(with_refit(True), out, with_it)
    return load_prepared(out), without, with_it


def test_refit_leaves_the_first_training_and_its_figures_as_they_were(changing):
    _, without, with_it = changing
    names = {path.name for path in without.iterdir()}
    assert {path.name for path in with_it.iterdir()} == names | {"refit"}
    for name in ("validation.json", "features.json"):
        assert (with_it / name).read_bytes() == (without / name).read_bytes()


def test_refitted_net_has_the_factors_of_rows_held_out_at_its_own_level(changing):
    log, *nets = changing
    held_out, moved = (Calibration.load(directory / "calibration.json") for directory in nets)
    assert moved.surface_factors == held_out.surface_factors
    assert moved.duration_factors == held_out.duration_factors
    levels = [
        factors.common_factor
        * ranking_predictions(SETTINGS.ranking, log, net, TRAINING).uncalibrated_seconds.sum()
        for net, factors in zip(nets, (held_out, moved), strict=True)
    ]
    assert levels[1] == pytest.approx(levels[0], rel=1e-3)
    assert moved.common_factor != held_out.common_factor


def test_refit_trains_for_as_many_epochs_as_were_best(changing):
    _, _, directory = changing
    first, second = (
        json.loads((path / "curves.json").read_text()) for path in (directory, directory / "refit")
    )
    assert len(second["epochs"]) == first["best_epoch"] + 1
    assert all(not epoch["metrics"] for epoch in second["epochs"])


def test_refitted_net_knows_what_only_the_validation_shows(changing):
    log, *nets = changing
    error = []
    for directory in nets:
        found = ranking_predictions(SETTINGS.ranking, log, directory, TEST)
        own = log.catalogue.item_ids(found.item) == np.array(f"i{CHANGED_ITEM}")
        assert own.sum() > 20 and found.watch_ms[own].max() < 7000
        error.append(np.abs(found.uncalibrated_seconds[own] - 6).mean())
    without, with_it = error
    assert with_it < 0.7 * without


def test_refit_takes_its_tables_of_heads_from_all_rows(changing):
    _, without, with_it = changing
    before, after = (Heads.load(path / "heads.json") for path in (without, with_it))
    assert after.mean_watch_seconds < before.mean_watch_seconds


def test_log_without_validation_rows_is_refused(tmp_path):
    split = SETTINGS.split.model_copy(update={"test_from": "2026-01-08T00:00:01"})
    settings = SETTINGS.model_copy(update={"split": split})
    out = tmp_path / "ranking"
    for directory in (tmp_path / "prepared", out):
        directory.mkdir()
    prepare(world_log(), settings, tmp_path / "prepared")
    with pytest.raises(DataError, match="validation part of the log has no impression"):
        train_ranking.main(settings, tmp_path / "prepared", out)


@pytest.fixture(scope="module")
def in_integers(prepared, tmp_path_factory):
    def train(**changes):
        out = tmp_path_factory.mktemp("ranking")
        ranking = SETTINGS.ranking.model_copy(update={"hidden": (64, 64), **changes})
        train_ranking.main(SETTINGS.model_copy(update={"ranking": ranking}), prepared, out)
        return out, json.loads((out / "precision.json").read_text())

    return train


def test_net_in_integers_is_measured_and_served(in_integers, prepared):
    out, measured = in_integers(precision="int8")
    assert measured["chosen"] == "int8"
    assert measured["num_products"] >= 1
    assert (out / "ranker.onnx").read_bytes() == (out / "ranker_int8.onnx").read_bytes()
    for name in ("float32", "int8"):
        assert measured[name]["milliseconds"] > 0
    ndcg = {name: measured[name]["ndcg"] for name in ("float32", "int8")}
    assert measured["ndcg_loss"] == pytest.approx(1 - ndcg["int8"] / ndcg["float32"])
    found = ranking_predictions(SETTINGS.ranking, load_prepared(prepared), out, TEST)
    again = {name: Ranker.load(out, f"ranker_{name}.onnx") for name in ("float32", "int8")}
    assert found.values["expected_seconds"].shape == found.watch_ms.shape
    assert again["int8"].spec == again["float32"].spec


@pytest.mark.parametrize(("loss", "chosen"), [(-1.0, "float32"), (1.0, None)])
def test_automatic_choice_minds_the_loss(in_integers, monkeypatch, loss, chosen):
    monkeypatch.setattr("pipelines.ranking_precision.MAX_TIME_RATIO", 1e9)
    out, measured = in_integers(precision="auto", max_ndcg_loss=loss)
    assert measured["chosen"] == (chosen or "int8")
    graph = f"ranker_{measured['chosen']}.onnx"
    assert (out / "ranker.onnx").read_bytes() == (out / graph).read_bytes()


def test_automatic_choice_minds_the_time(in_integers, monkeypatch):
    monkeypatch.setattr("pipelines.ranking_precision.MAX_TIME_RATIO", 0.0)
    assert in_integers(precision="auto", max_ndcg_loss=1.0)[1]["chosen"] == "float32"


def test_order_that_cannot_be_measured_stays_in_floats(in_integers, monkeypatch):
    monkeypatch.setattr("pipelines.ranking_precision.MAX_TIME_RATIO", 1e9)
    monkeypatch.setattr("pipelines.ranking_precision.user_ndcg", lambda *_: float("nan"))
    _, measured = in_integers(precision="auto", max_ndcg_loss=1.0)
    assert (measured["chosen"], measured["ndcg_loss"]) == ("float32", None)
    assert measured["int8"]["ndcg"] is None


def test_bagged_ensemble_with_solved_heads_is_served_as_one(prepared, tmp_path):
    parts = {"ensemble": 2, "ensemble_bagged": True, "head_solver": "l-bfgs", "head_iterations": 3}
    parts |= {"recent_length": 0, "cross_layers": 0}
    ranking = SETTINGS.ranking.model_copy(update=parts)
    train_ranking.main(SETTINGS.model_copy(update={"ranking": ranking}), prepared, tmp_path)
    assert (tmp_path / "heads_solved.json").exists()
    assert (tmp_path / "member_2" / "heads_solved.json").exists()
    weights = [
        list(Checkpoints(directory / "unfinished", 2).load().groups["best"])
        for directory in (tmp_path, tmp_path / "member_2")
    ]
    assert any(not np.array_equal(*pair) for pair in zip(*weights, strict=True))
    found = ranking_predictions(ranking, load_prepared(prepared), tmp_path, TEST)
    assert found.values["expected_seconds"].mean() == pytest.approx(
        found.watch_ms.mean() / 1000, rel=0.3
    )
