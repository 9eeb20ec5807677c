import dataclasses
import functools
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

from recsys.core.backends import compile_call, to_numpy
from recsys.core.onnx_session import load_session
from recsys.errors import ArtefactError, BundleError
from recsys.ranking.calibration import Calibration
from recsys.ranking.export import export_ranker
from recsys.ranking.model import outputs_and_losses, quantiles
from recsys.ranking.objective import in_units, log_mean_of_curve
from recsys.ranking.ranker import Ranker
from recsys.ranking.tables import table_sizes
from tests.ranking.small_net import (
    NO_PARTS,
    WEIGHTS,
    first_candidates,
    heads_on,
    make_batch,
    make_model,
)
from tests.ranking.small_world import make_world

needs_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="takes TensorFlow's gradients"
)
NETS = {
    "every part": {},
    "no part": NO_PARTS | {"heads": heads_on(expected=1, median=1, completion=1)},
    "attention": NO_PARTS | {"recent_length": 6},
    "cross": NO_PARTS | {"cross_layers": 2, "heads": heads_on(expected=1, completion=1, curve=1)},
    "experts": NO_PARTS | {"num_experts": 2},
    "bias": NO_PARTS | {"bias_categorical": ("place",)},
}


@functools.cache
def net_of(name):
    return make_model(**NETS[name])


@pytest.fixture(scope="module")
def net():
    return net_of("every part")


def tensors(features):
    return {name: ops.convert_to_tensor(values) for name, values in features.items()}


def outputs(model, features):
    return to_numpy(model(tensors(features)))


def part_of(features, requests=slice(None), candidates=slice(None)):
    return {
        name: values[requests, candidates] if name.startswith("candidate") else values[requests]
        for name, values in features.items()
    }


@pytest.mark.parametrize("name", NETS)
def test_candidates_of_a_request_score_as_if_alone(name):
    model, features = net_of(name)
    together = outputs(model, features)
    for place in range(together.shape[1]):
        alone = outputs(model, part_of(features, candidates=slice(place, place + 1)))
        np.testing.assert_allclose(alone[:, 0], together[:, place], atol=1e-5)


@pytest.mark.parametrize("name", ["every part", "no part"])
def test_requests_score_as_if_alone(name):
    model, features = net_of(name)
    together = outputs(model, features)
    for row in range(0, len(together), 5):
        alone = outputs(model, part_of(features, slice(row, row + 1)))
        np.testing.assert_allclose(alone[0], together[row], atol=1e-5)


def weights_of(dense):
    return to_numpy(dense.kernel.value), to_numpy(dense.bias.value) if dense.use_bias else 0


def slow_net(model, features):
    """Put the parts together by hand, over user and candidate side by side: [Q, C, K]."""
    batch = tensors(features)
    candidate = to_numpy(model._candidate_inputs(batch, False))
    if model.attention is not None:
        found = to_numpy(model.attention(candidate, *model._events(batch, False)))
        candidate = np.concatenate([candidate, found], axis=-1)
    user = np.repeat(to_numpy(model._user_inputs(batch, False))[:, None], candidate.shape[1], 1)
    both = np.concatenate([user, candidate], axis=-1)
    (of_user, bias), (of_candidate, _) = map(weights_of, (model.user_dense, model.candidate_dense))
    first = np.maximum(both @ np.concatenate([of_user, of_candidate]) + bias, 0)
    trunk = to_numpy(model.tower(first))  # [Q, C, D], or [Q, C, H, D] of experts
    columns = []
    for number, name in enumerate(model.heads.names):
        kernel, bias = weights_of(model.head_outputs[name])
        own = trunk if model.settings.num_experts == 1 else trunk[..., number, :]
        columns.append(own @ kernel + bias)
    raw = np.concatenate(columns, axis=-1)
    if model.cross is not None:
        raw = raw + to_numpy(model.cross(both)) @ weights_of(model.cross_outputs)[0]
    if model.bias is not None:
        raw = raw + to_numpy(model.bias(features["bias_categorical"]))[:, None]
    if "curve" in model.heads.names:
        curve = raw[..., model.heads.columns()["curve"]]
        raw[..., 0] += to_numpy(log_mean_of_curve(curve, in_units(model.heads)))
    return raw


@pytest.mark.parametrize("name", NETS)
def test_net_is_its_parts_put_together(name):
    model, features = net_of(name)
    assert (model.attention is None) == (name not in ("every part", "attention"))
    assert (model.cross is None) == (name not in ("every part", "cross"))
    assert (model.bias is None) == (name not in ("every part", "bias"))
    np.testing.assert_allclose(outputs(model, features), slow_net(model, features), atol=1e-5)


def rows_of(model, name, codes):
    return to_numpy(model.tables[name].table.value)[codes]


def mean_row(model, name, codes):
    """Average the rows of known codes: int [..., S] -> [..., D]."""
    count = np.maximum((codes != 0).sum(axis=-1), 1)[..., None]
    return rows_of(model, name, codes).sum(axis=-2) / count


def items_of(model, features, prefix):
    return [
        rows_of(model, "item_id", features[f"{prefix}_item"]),
        rows_of(model, "kind", features[f"{prefix}_categorical"][..., 0]),
        rows_of(model, "shape", features[f"{prefix}_categorical"][..., 1]),
        mean_row(model, "topics", features[f"{prefix}_bags"][..., 0, :]),
        mean_row(model, "tags", features[f"{prefix}_bags"][..., 1, :]),
    ]


def test_codes_are_looked_up_in_their_own_tables(net):
    model, features = net
    batch = tensors(features)
    surface, hour, weekday = features["user_categorical"].T
    user = [rows_of(model, "surface", surface), rows_of(model, "hour", hour)]
    user += [
        rows_of(model, "weekday", weekday),
        mean_row(model, "item_id", features["history"]),
        to_numpy(model.user_ramps(features["user_numeric"])),
    ]
    found = to_numpy(model._user_inputs(batch, False))
    np.testing.assert_allclose(found, np.concatenate(user, axis=-1), atol=1e-6)
    candidate = items_of(model, features, "candidate")
    candidate.append(to_numpy(model.candidate_ramps(features["candidate_numeric"])))
    found = to_numpy(model._candidate_inputs(batch, False))
    np.testing.assert_allclose(found, np.concatenate(candidate, axis=-1), atol=1e-6)


def test_events_know_their_item_outcome_age_and_place_from_the_newest(net):
    model, features = net
    batch = tensors(features)
    is_event = features["recent_age"] > 0
    assert not is_event.all()
    codes = {"outcome": features["recent_outcome"], "age": features["recent_age"]}
    expected = items_of(model, features, "recent")
    for name, own in codes.items():
        table = to_numpy(model.event_tables[name].table.value)
        expected.append(table[own] * (own > 0)[..., None])
    expected.append(np.where(is_event[..., None], to_numpy(model.places.value), 0.0))
    keys, values, known = map(to_numpy, model._events(batch, False))
    np.testing.assert_allclose(keys, np.concatenate(expected, axis=-1), atol=1e-6)
    np.testing.assert_array_equal(values, keys)
    np.testing.assert_array_equal(known, is_event)


INPUTS = (
    "user_categorical",
    "user_numeric",
    "history",
    "bias_categorical",
    "recent_item",
    "recent_outcome",
    "recent_age",
    "recent_categorical",
    "recent_bags",
    "candidate_item",
    "candidate_categorical",
    "candidate_bags",
    "candidate_numeric",
)


@pytest.mark.parametrize("name", INPUTS)
def test_every_input_matters(net, name):
    model, features = net
    assert set(features) == set(INPUTS)
    changed = np.roll(features[name], 1, axis=0)
    assert (
        np.abs(outputs(model, features) - outputs(model, features | {name: changed})).max() > 1e-3
    )


def test_order_of_the_newest_events_matters(net):
    model, features = net
    turned = {name: values[:, ::-1] for name, values in features.items() if "recent" in name}
    assert np.abs(outputs(model, features) - outputs(model, features | turned)).max() > 1e-3


def test_padding_among_the_newest_events_counts_for_nothing(net):
    model, features = net
    is_padding = features["recent_age"] == 0
    assert is_padding.any()
    garbage = {}
    for name in ("recent_item", "recent_outcome", "recent_categorical", "recent_bags"):
        garbage[name] = features[name].copy()
        garbage[name][is_padding] = 2
    assert (garbage["recent_item"] != features["recent_item"]).any()
    expected = outputs(model, features)
    np.testing.assert_allclose(outputs(model, features | garbage), expected, atol=1e-6)


def test_absent_bias_columns_are_unknown_ones(net):
    model, features = net
    unknown = features | {"bias_categorical": np.zeros_like(features["bias_categorical"])}
    absent = {name: values for name, values in features.items() if name != "bias_categorical"}
    np.testing.assert_array_equal(outputs(model, absent), outputs(model, unknown))


def test_bias_columns_shift_all_candidates_of_a_request_alike(net):
    model, features = net
    absent = {name: values for name, values in features.items() if name != "bias_categorical"}
    shift = (outputs(model, features) - outputs(model, absent))[..., 1:]
    known = features["bias_categorical"][:, 0] > 0
    np.testing.assert_allclose(shift, np.repeat(shift[:, :1], shift.shape[1], 1), atol=1e-5)
    assert (np.abs(shift[known]).max(axis=(1, 2)) > 1e-3).all()
    np.testing.assert_array_equal(shift[~known], 0)


def test_validation_sees_what_is_served_without_the_bias(net):
    model, features = net
    batch = make_batch(features)
    assert batch["bias_categorical"].any()
    found = to_numpy(outputs_and_losses(model, tensors(batch)))
    unknown = batch | {"bias_categorical": np.zeros_like(batch["bias_categorical"])}
    raw = outputs(model, {name: unknown[name] for name in features})[:, 0]
    losses = to_numpy(model.objective.row_losses(raw, batch))
    np.testing.assert_allclose(found, np.concatenate([raw, losses], axis=1), atol=1e-5)


def test_training_sees_the_bias(net):
    model, features = net
    batch = make_batch(features)
    unknown = batch | {"bias_categorical": np.zeros_like(batch["bias_categorical"])}
    seen, blind = (
        float(model.loss_of(tensors(each), training=False)[0]) for each in (batch, unknown)
    )
    assert abs(seen - blind) > 1e-3


def test_expected_seconds_are_a_factor_on_the_mean_of_the_curve():
    model, features = make_model(**NETS["cross"])
    before = outputs(model, features)
    model.head_outputs["expected"].bias.assign_add([np.log(2)])
    after = outputs(model, features)
    np.testing.assert_allclose(after[..., 0], before[..., 0] + np.log(2), atol=1e-5)
    np.testing.assert_array_equal(after[..., 1:], before[..., 1:])
    model.head_outputs["curve"].bias.assign([100.0] * model.heads.widths()["curve"])
    # A curve that is certain to last has its last threshold as mean.
    correction = after[..., 0] - means_of_curves(model, after)
    last = np.log(model.heads.thresholds_seconds[-1] / model.heads.mean_watch_seconds)
    np.testing.assert_allclose(outputs(model, features)[..., 0], correction + last, atol=1e-3)


def means_of_curves(model, raw):
    """Return the logarithm of the area below the curves of P(T > t), in units."""
    times = np.array([0, *model.heads.thresholds_seconds]) / model.heads.mean_watch_seconds
    shares = 1 / (1 + np.exp(-raw[..., model.heads.columns()["curve"]].astype(np.float64)))
    curve = np.concatenate([np.ones((*shares.shape[:-1], 1)), shares], axis=-1)
    return np.log(np.trapezoid(curve, times))


def gradients(model, loss, variables):
    import tensorflow as tf

    with tf.GradientTape() as tape:
        value = loss()
    found = tape.gradient(value, [variable.value for variable in variables])
    return [None if each is None else to_numpy(tf.convert_to_tensor(each)) for each in found]


@needs_tensorflow
def test_every_weight_learns(net):
    model, features = net
    batch = tensors(make_batch(features))
    variables = model.trainable_variables
    found = gradients(model, lambda: model.loss_of(batch, training=False)[0], variables)
    for variable, gradient in zip(variables, found, strict=True):
        assert gradient is not None and gradient.any(), variable.path


@needs_tensorflow
def test_curve_learns_nothing_from_the_expected_seconds(net):
    model, features = net
    batch = tensors(make_batch(features))
    outputs = [model.head_outputs[name].kernel for name in ("expected", "curve", "completion")]

    def loss():
        return ops.sum(model.objective.row_losses(model(batch)[:, 0], batch)[:, 0])

    of_expected, *others = gradients(model, loss, outputs)
    assert of_expected.any()
    assert not any(each is not None and each.any() for each in others)


def test_unknown_item_and_padding_have_the_zero_vector(net):
    model, features = net
    batch = {"history": np.array([[3, 0, 0, 0], [3, 3, 3, 3]], np.int32)}
    full = {name: values[:1].repeat(2, axis=0) for name, values in features.items()} | batch
    first, second = outputs(model, full)
    np.testing.assert_allclose(first, second, atol=1e-5)
    assert (to_numpy(model.tables["item_id"](np.zeros(1, np.int32))) == 0).all()


def test_history_and_candidates_share_one_table(net):
    model, _ = net
    of_items = ["item_id", "kind", "shape", "tags", "topics"]
    assert sorted(model.tables) == sorted([*of_items, "hour", "surface", "weekday"])


def test_table_width_grows_with_the_logarithm_within_bounds():
    spec = dataclasses.replace(make_world().spec, num_item_codes=1 << 20, item_categorical={"k": 2})
    sizes = table_sizes(spec, scale=1.5, max_width=25, has_item_ids=True)
    assert (sizes["item_id"].num_codes, sizes["item_id"].width) == (1 << 20, 25)
    assert sizes["k"].width == 4
    assert sizes["hour"].width == round(1.5 * np.log2(25))


CALM = {"attention_dropout": 0.0, "gate_dropout": 0.0, "bias_dropout": 0.0}


@pytest.mark.parametrize("name", ["dropout", "embedding_dropout", *CALM])
def test_dropout_acts_in_training_only(name):
    model, features = make_model(**CALM | {name: 0.5})
    batch = tensors(make_batch(features))
    first, second = (float(model.loss_of(batch, training=True)[0]) for _ in range(2))
    assert first != second
    first, second = (float(model.loss_of(batch, training=False)[0]) for _ in range(2))
    assert first == second


def test_net_without_dropouts_is_the_same_in_training():
    model, features = make_model(**CALM)
    batch = tensors(make_batch(features))
    calm, trained = (float(model.loss_of(batch, training=on)[0]) for on in (False, True))
    assert trained == pytest.approx(calm, rel=1e-6)


def test_dropout_of_a_head_is_its_own():
    heads = heads_on(**WEIGHTS)
    like = heads.like.model_copy(update={"dropout": 0.9})
    model, features = make_model(**CALM, heads=heads.model_copy(update={"like": like}))
    batch = tensors(features)
    difference = np.abs(to_numpy(model(batch, training=True)) - to_numpy(model(batch)))
    dropped = [where.start for name, where in model.heads.columns().items() if name == "like"]
    assert np.flatnonzero(difference.max(axis=(0, 1)) > 1e-5).tolist() == dropped


def test_quantiles_leave_missing_values_aside():
    values = np.array([[0, np.nan], [10, np.nan], [np.nan, np.nan], [20, np.nan]], np.float32)
    np.testing.assert_array_equal(quantiles(values, 4), [[0, 5, 10, 15, 20], [0] * 5])


def calibration_of(spec):
    return Calibration(
        common_factor=0.5,
        surface_column=0,
        surface_factors=(1.0, 2.0, 1.0, 3.0, 1.0),
        duration_column=spec.item_numeric.index("duration_seconds"),
        duration_edges_seconds=(20.0, 60.0),
        duration_factors=(1.5, 0.5, 1.0, 4.0),
    )


def write_descriptions(model, directory):
    model.spec.save(directory / "features.json")
    model.heads.save(directory / "heads.json")
    calibration_of(model.spec).save(directory / "calibration.json")


@pytest.fixture(scope="module", params=["every part", "no part", "cross"])
def exported(request, tmp_path_factory):
    """Return a net, features, and the directory that it was exported into."""
    model, features = net_of(request.param)
    directory = tmp_path_factory.mktemp("exported")
    export_ranker(model, first_candidates(features), directory / "ranker.onnx")
    write_descriptions(model, directory)
    return model, features, directory


def served(features):
    return {name: values for name, values in features.items() if name != "bias_categorical"}


def test_exported_net_gives_what_keras_gives(exported):
    model, features, directory = exported
    found = Ranker.load(directory).score(features)
    duration = features["candidate_numeric"][..., model.spec.item_numeric.index("duration_seconds")]
    expected = model.heads.values(outputs(model, served(features)), duration)
    factors = calibration_of(model.spec).factors_of(features)
    assert len(np.unique(factors)) > 5
    expected["expected_seconds"] *= factors
    assert set(found) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-5)


def test_exported_net_asks_for_what_it_is_served_with(exported):
    model, features, directory = exported
    session = load_session(directory / "ranker.onnx", num_threads=1)
    names = {value.name for value in session.get_inputs()}
    assert names == set(served(features))
    assert any(name.startswith("recent") for name in names) == (model.attention is not None)


def test_curve_gives_an_interval_and_decides_the_median(exported):
    model, features, directory = exported
    found = Ranker.load(directory).score(features)
    assert ("low_seconds" in found) == ("curve" in model.heads.names)
    if "curve" in model.heads.names:
        assert (found["low_seconds"] <= found["median_seconds"]).all()
        assert (found["median_seconds"] <= found["high_seconds"]).all()


def test_broken_graph_is_refused(tmp_path, net):
    model, _ = net
    (tmp_path / "ranker.onnx").write_bytes(b"nonsense")
    write_descriptions(model, tmp_path)
    with pytest.raises(BundleError, match="cannot load it"):
        Ranker.load(tmp_path)


@pytest.mark.parametrize("name", ["features.json", "heads.json", "calibration.json"])
def test_broken_or_missing_description_is_refused(tmp_path, net, name):
    write_descriptions(net[0], tmp_path)
    (tmp_path / name).write_text('{"user_categorical": {}}')
    with pytest.raises(ArtefactError, match=f"{name}: not a"):
        Ranker.load(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ArtefactError, match=f"{name}: not a"):
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
