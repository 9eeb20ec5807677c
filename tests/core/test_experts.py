"""Gated experts: their mixture by hand and by a slow twin, and what training leaves out."""

import numpy as np
import pytest

from recsys.core.backends import to_numpy
from recsys.core.layers.experts import GatedExperts
from recsys.core.onnx_export import Input, Output, export_onnx

WIDTH, EXPERTS, TASKS = 5, 3, 2


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def make_experts(rng, num_experts=EXPERTS, dropout=0.0, **changes):
    layer = GatedExperts((4, 6), num_experts, TASKS, dropout, seed=0, **changes)
    layer.build((None, WIDTH))
    for variable in layer.trainable_variables:
        variable.assign(rng.standard_normal(variable.shape).astype(np.float32))
    return layer


def make_constants(values, gates, **changes):
    """Return experts that give values [E] for the input 1, with gates [K, E]."""
    gates = np.array(gates, np.float32)
    layer = GatedExperts((1,), len(values), len(gates), 0.0, seed=0, **changes)
    layer.build((None, 1))
    for tower, value in zip(layer.experts, values, strict=True):
        tower.steps[0].dense.kernel.assign([[value]])
    layer.gates.kernel.assign(np.log(gates).reshape(1, -1))
    return layer


def slow_experts(layer, row):
    """Compute the mixtures of one row, task by task and expert by expert."""
    outputs = [to_numpy(tower(row[None]))[0] for tower in layer.experts]
    kernel = to_numpy(layer.gates.kernel.value).reshape(len(row), TASKS, len(outputs))
    mixed = np.zeros((TASKS, len(outputs[0])))
    for task in range(TASKS):
        odds = np.exp([row @ kernel[:, task, number] for number in range(len(outputs))])
        for share, output in zip(odds / odds.sum(), outputs, strict=True):
            mixed[task] += share * output
    return mixed


def test_mixtures_by_hand():
    layer = make_constants([2.0, 6.0], [[0.5, 0.5], [0.75, 0.25], [1e-9, 1]])
    found = to_numpy(layer(np.ones((1, 1), np.float32)))
    np.testing.assert_allclose(found, [[[4], [3], [6]]], rtol=1e-6)


def test_mixtures_equal_a_slow_twin(rng):
    layer, rows = make_experts(rng), rng.normal(size=(4, WIDTH)).astype(np.float32)
    expected = [slow_experts(layer, row) for row in rows]
    np.testing.assert_allclose(to_numpy(layer(rows)), expected, rtol=1e-4, atol=1e-5)


def test_one_expert_is_a_shared_tower(rng):
    layer = make_experts(rng, 1, gate_dropout=0.9)
    rows = rng.normal(size=(2, 3, WIDTH)).astype(np.float32)
    tower = to_numpy(layer.experts[0](rows))
    for training in (False, True):
        found = to_numpy(layer(rows, training=training))
        np.testing.assert_allclose(found, np.stack([tower] * TASKS, axis=2), rtol=1e-6)


def test_further_axes_are_further_rows(rng):
    layer, rows = make_experts(rng), rng.normal(size=(2, 3, WIDTH)).astype(np.float32)
    flat = to_numpy(layer(rows.reshape(6, WIDTH)))
    np.testing.assert_allclose(to_numpy(layer(rows)), flat.reshape(2, 3, TASKS, 6), rtol=1e-5)


def test_training_mixes_the_experts_left_in_proportion():
    layer = make_constants([1.0, 10.0, 100.0], [[0.5, 0.25, 0.25]], gate_dropout=0.5)
    found = to_numpy(layer(np.ones((400, 1), np.float32), training=True))
    pairs = [(0.5 * 1 + 0.25 * 10) / 0.75, (0.5 * 1 + 0.25 * 100) / 0.75, (10 + 100) / 2]
    mixtures = [1, 10, 100, *pairs, 0.5 * 1 + 0.25 * 110]
    np.testing.assert_allclose(np.unique(found.round(4)), sorted(mixtures), rtol=1e-5)


@pytest.mark.parametrize("rate", [0.1, 0.4])
def test_experts_are_left_out_at_the_rate(rate):
    layer = make_constants([1.0, 3.0], [[0.5, 0.5]], gate_dropout=rate)
    found = to_numpy(layer(np.ones((4000, 1), np.float32), training=True))[:, 0, 0]
    for alone in (1, 3):
        assert (found == alone).mean() == pytest.approx(rate * (1 - rate), abs=0.03)


def test_tasks_of_an_example_lose_the_same_experts():
    layer = make_constants([1.0, 3.0], [[0.5, 0.5], [0.75, 0.25]], gate_dropout=0.5)
    found = to_numpy(layer(np.ones((99, 1), np.float32), training=True))[:, :, 0]
    assert {tuple(pair.round(4)) for pair in found} == {(1, 1), (3, 3), (2, 1.5)}


def test_no_example_loses_all_experts():
    layer = make_constants([1.0, 3.0], [[0.75, 0.25]], gate_dropout=0.999)
    found = to_numpy(layer(np.ones((50, 1), np.float32), training=True))
    assert np.median(found) == 1.5
    assert found.min() >= 1


@pytest.mark.parametrize("changes", [{"dropout": 0.5}, {"gate_dropout": 0.5}])
def test_dropout_is_on_in_training_only(rng, changes):
    layer, rows = make_experts(rng, **changes), rng.normal(size=(8, WIDTH)).astype(np.float32)
    calm = to_numpy(layer(rows))
    np.testing.assert_array_equal(to_numpy(layer(rows)), calm)
    np.testing.assert_allclose(calm[0], slow_experts(layer, rows[0]), rtol=1e-4, atol=1e-5)
    assert (to_numpy(layer(rows, training=True)) != calm).any()


def test_first_values_and_dropout_depend_on_the_seed(rng):
    rows = rng.normal(size=(8, WIDTH)).astype(np.float32)

    def found(seed):
        layer = GatedExperts((4,), EXPERTS, TASKS, 0.5, gate_dropout=0.5, seed=seed)
        return to_numpy(layer(rows, training=True))

    np.testing.assert_array_equal(found(1), found(1))
    assert (found(1) != found(2)).any()


def test_experts_begin_apart():
    layer = GatedExperts((4,), EXPERTS, TASKS, 0.0, seed=0)
    layer.build((None, WIDTH))
    first, second, third = (to_numpy(tower.variables[0].value) for tower in layer.experts)
    assert (first != second).all()
    assert (second != third).all()


def test_lower_precision_of_experts_is_of_training_only(rng):
    rows = rng.normal(size=(3, WIDTH)).astype(np.float32)
    layers = [
        make_experts(np.random.default_rng(1), 1, precision=precision)
        for precision in ("float32", "bfloat16")
    ]
    exact, rough = (to_numpy(layer(rows)) for layer in layers)
    np.testing.assert_array_equal(rough, exact)
    exact, rough = (to_numpy(layer(rows, training=True)) for layer in layers)
    assert (rough != exact).any()
    np.testing.assert_allclose(rough, exact, rtol=0.1, atol=0.1)


def test_lower_precision_of_gates_is_of_training_only():
    layer = make_constants([1.0, 3.0], [[0.7, 0.3]], precision="bfloat16")
    one = np.ones((1, 1), np.float32)
    assert to_numpy(layer(one)).item() == pytest.approx(1.6, rel=1e-6)
    assert to_numpy(layer(one, training=True)).item() != pytest.approx(1.6, rel=1e-6)
    assert to_numpy(layer(one, training=True)).item() == pytest.approx(1.6, rel=1e-2)


def test_onnx_computes_the_same(rng, tmp_path):
    layer = make_experts(rng, dropout=0.5, gate_dropout=0.5)
    cases = [rng.normal(size=(rows, length, WIDTH)) for rows, length in ((4, 1), (1, 7))]
    cases = [{"rows": case.astype(np.float32)} for case in cases]
    export_onnx(
        lambda batch: layer(batch["rows"]),
        {"rows": Input("float32", ("batch", "candidates", WIDTH))},
        Output("mixed", ("batch", "candidates", TASKS, 6)),
        tmp_path / "experts.onnx",
        checks=[(case, to_numpy(layer(case["rows"]))) for case in cases],
    )
