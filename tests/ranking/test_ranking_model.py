import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from keras import ops
from scipy.optimize import minimize_scalar

from recsys.core.backends import compile_call, to_numpy
from recsys.errors import ArtefactError, BundleError
from recsys.ranking.calibration import Calibration
from recsys.ranking.export import export_ranker
from recsys.ranking.heads import head_values
from recsys.ranking.model import quantiles, table_sizes
from recsys.ranking.ranker import Ranker
from recsys.settings import RankingSettings
from tests.ranking.small_net import NUM_ROWS, first_candidates, make_batch, make_model
from tests.ranking.small_world import make_world


@pytest.fixture(scope="module")
def net():
    return make_model()


def outputs(model, features):
    return compile_call(model, lambda batch: model(batch))(features)


def test_candidates_of_a_request_score_as_if_alone(net):
    model, features = net
    together = outputs(model, features)
    for place in range(together.shape[1]):
        alone = {
            name: values[:, place : place + 1] if name.startswith("candidate") else values
            for name, values in features.items()
        }
        np.testing.assert_allclose(outputs(model, alone)[:, 0], together[:, place], atol=1e-5)


def test_split_first_layer_is_a_dense_layer_over_both_parts(net):
    model, features = net
    one = first_candidates(features)
    batch = {name: ops.convert_to_tensor(values) for name, values in one.items()}
    user = to_numpy(model._user_inputs(batch, False))
    candidate = to_numpy(model._candidate_inputs(batch, False))[:, 0]
    kernel = np.concatenate(
        [to_numpy(model.user_dense.kernel.value), to_numpy(model.candidate_dense.kernel.value)]
    )
    hidden = np.concatenate([user, candidate], axis=1) @ kernel
    hidden = np.maximum(hidden + to_numpy(model.user_dense.bias.value), 0)
    (dense,) = model.tower.dense_layers
    hidden = np.maximum(hidden @ to_numpy(dense.kernel.value) + to_numpy(dense.bias.value), 0)
    expected = hidden @ to_numpy(model.heads.kernel.value) + to_numpy(model.heads.bias.value)
    np.testing.assert_allclose(outputs(model, one)[:, 0], expected, atol=1e-5)


@pytest.mark.parametrize(
    "name",
    ["user_categorical", "user_numeric", "history", "candidate_item"]
    + ["candidate_categorical", "candidate_bags", "candidate_numeric"],
)
def test_every_input_matters(net, name):
    model, features = net
    changed = np.roll(features[name], 1, axis=0)
    assert np.abs(outputs(model, features) - outputs(model, features | {name: changed})).max() > 0


def test_unknown_item_and_padding_have_the_zero_vector(net):
    model, features = net
    batch = {"history": np.array([[3, 0, 0, 0], [3, 3, 3, 3]], np.int32)}
    full = {name: values[:1].repeat(2, axis=0) for name, values in features.items()} | batch
    first, second = outputs(model, full)
    np.testing.assert_allclose(first, second, atol=1e-5)
    assert (to_numpy(model.tables["item_id"](np.zeros(1, np.int32))) == 0).all()


def test_history_and_candidates_share_one_table(net):
    model, _ = net
    assert sorted(model.tables) == ["hour", "item_id", "kind", "surface", "topics", "weekday"]


def test_table_width_grows_with_the_logarithm_within_bounds():
    spec = dataclasses.replace(make_world().spec, num_item_codes=1 << 20, item_categorical={"k": 2})
    settings = RankingSettings(embedding_scale=1.5, max_embedding_width=25)
    sizes = table_sizes(settings, spec)
    assert (sizes["item_id"].num_codes, sizes["item_id"].width) == (1 << 20, 25)
    assert sizes["k"].width == 4
    assert sizes["hour"].width == round(1.5 * np.log2(25))


def test_expected_seconds_are_least_wrong_at_the_mean():
    watch_time = np.array([0.0, 0.5, 4.0, 9.0])

    def loss(z):
        return np.mean((1 + watch_time) * np.logaddexp(0, z) - watch_time * z)

    best = minimize_scalar(loss, bounds=(-5, 5), method="bounded").x
    raw = np.array([[best, 0.0, 0.0]], np.float32)
    found = head_values(raw, 2.0)["expected_seconds"]
    np.testing.assert_allclose(found, 2.0 * watch_time.mean(), rtol=1e-4)


def test_heads_stay_finite_for_any_output():
    raw = np.array([[-1e4] * 3, [1e4] * 3, [0.0] * 3], np.float32)
    values = head_values(raw, 10.0)
    assert all(np.isfinite(value).all() and value.dtype == np.float32 for value in values.values())
    np.testing.assert_allclose(values["completion"], [0, 1, 0.5])
    np.testing.assert_allclose(values["median_seconds"], [0, 1e5, 10 * np.log(2)], rtol=1e-6)


def reference_losses(model, batch):
    raw = outputs(model, {name: batch[name] for name in batch if name in model_names(batch)})[:, 0]
    z_expected, z_median, z_completion = raw.T.astype(np.float64)
    time, completed, weight = batch["watch_time"], batch["completed"], batch["weight"]
    expected = (1 + time) * np.logaddexp(0, z_expected) - time * z_expected
    median = np.abs(np.logaddexp(0, z_median) - time)
    completion = np.logaddexp(0, z_completion) - completed * z_completion
    completion *= batch["completed_weight"]
    rows = {"expected_loss": expected, "median_loss": median, "completion_loss": completion}
    return {name: values @ weight / weight.sum() for name, values in rows.items()}, z_completion


def model_names(batch):
    return [name for name in batch if name.startswith(("user_", "candidate_", "history"))]


def test_losses_equal_their_equations(net):
    model, features = net
    batch = make_batch(features)
    expected, _ = reference_losses(model, batch)
    total, figures = model.loss_of(
        {name: ops.convert_to_tensor(values) for name, values in batch.items()}, training=False
    )
    assert {name: float(value) for name, value in figures.items()} == pytest.approx(
        expected, rel=1e-4
    )
    assert float(total) == pytest.approx(sum(expected.values()), rel=1e-4)


def test_pairwise_loss_compares_neighbours_of_one_user():
    model, features = make_model(pairwise_weight=0.5)
    batch = make_batch(features)
    expected, z = reference_losses(model, batch)
    known = (batch["weight"] * batch["completed_weight"]) > 0
    pairs = [
        np.logaddexp(0, -(z[i] - z[j]) * (batch["completed"][i] - batch["completed"][j]))
        for i, j in zip(range(1, NUM_ROWS), range(NUM_ROWS - 1), strict=True)
        if batch["user"][i] == batch["user"][j]
        and batch["completed"][i] != batch["completed"][j]
        and known[i]
        and known[j]
    ]
    total, figures = model.loss_of(
        {name: ops.convert_to_tensor(values) for name, values in batch.items()}, training=False
    )
    assert float(figures["pairwise_loss"]) == pytest.approx(np.mean(pairs), rel=1e-4)
    assert float(total) == pytest.approx(sum(expected.values()) + 0.5 * np.mean(pairs), rel=1e-4)


def test_dropouts_act_in_training_only():
    model, features = make_model(dropout=0.5, embedding_dropout=0.5)
    batch = {name: ops.convert_to_tensor(values) for name, values in make_batch(features).items()}
    first, second = (float(model.loss_of(batch, training=True)[0]) for _ in range(2))
    assert first != second
    first, second = (float(model.loss_of(batch, training=False)[0]) for _ in range(2))
    assert first == second


def test_quantiles_leave_missing_values_aside():
    values = np.array([[0, np.nan], [10, np.nan], [np.nan, np.nan], [20, np.nan]], np.float32)
    np.testing.assert_array_equal(quantiles(values, 4), [[0, 5, 10, 15, 20], [0] * 5])


def calibration_of(spec):
    return Calibration(
        mean_watch_seconds=4.0,
        common_factor=0.5,
        surface_column=0,
        surface_factors=(1.0, 2.0, 1.0, 3.0, 1.0),
        duration_column=spec.item_numeric.index("duration_seconds"),
        duration_edges_seconds=(20.0, 60.0),
        duration_factors=(1.5, 0.5, 1.0, 4.0),
    )


def test_exported_net_gives_what_keras_gives(net, tmp_path):
    model, features = net
    export_ranker(model, first_candidates(features), tmp_path / "ranker.onnx")
    calibration = calibration_of(model.spec)
    model.spec.save(tmp_path / "features.json")
    calibration.save(tmp_path / "calibration.json")
    found = Ranker.load(tmp_path).score(features)
    expected = head_values(outputs(model, features), 4.0)
    factors = calibration.factors_of(features)
    assert len(np.unique(factors)) > 5
    expected["expected_seconds"] *= factors
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-5)


def test_broken_graph_is_refused(tmp_path, net):
    model, _ = net
    (tmp_path / "ranker.onnx").write_bytes(b"nonsense")
    model.spec.save(tmp_path / "features.json")
    calibration_of(model.spec).save(tmp_path / "calibration.json")
    with pytest.raises(BundleError, match="cannot load it"):
        Ranker.load(tmp_path)


def test_broken_description_is_refused(tmp_path):
    (tmp_path / "features.json").write_text('{"user_categorical": {}}')
    with pytest.raises(ArtefactError, match="not a description"):
        Ranker.load(tmp_path)


SAME_LOSS = """
from recsys.core.backends import compile_call
from tests.ranking.small_net import make_batch, make_model
model, features = make_model(pairwise_weight=0.5)
loss = compile_call(model, lambda batch: model.loss_of(batch, training=False)[0])
print(float(loss(make_batch(features))))
"""


def test_loss_is_the_same_under_jax():
    pytest.importorskip("jax")
    model, features = make_model(pairwise_weight=0.5)
    here = compile_call(model, lambda batch: model.loss_of(batch, training=False)[0])
    finished = subprocess.run(
        [sys.executable, "-c", SAME_LOSS],
        env=os.environ | {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert float(finished.stdout) == pytest.approx(float(here(make_batch(features))), rel=1e-5)
