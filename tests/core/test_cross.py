"""Low-rank cross layers against a hand-worked case and a slow twin."""

import numpy as np
import pytest

from recsys.core.backends import to_numpy
from recsys.core.layers.cross import LowRankCross
from recsys.core.onnx_export import Input, Output, export_onnx

WIDTH = 5


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def make_cross(rng, num_layers=3, **changes):
    layer = LowRankCross(num_layers, 2, seed=0, **changes)
    layer.build((None, WIDTH))
    for variable in layer.trainable_variables:
        variable.assign(0.5 * rng.standard_normal(variable.shape).astype(np.float32))
    return layer


def slow_cross(layer, row):
    """Compute one row, layer by layer and element by element."""
    start = row.astype(np.float64)
    crossed = start.copy()
    for narrow, widen in zip(layer.narrow, layer.widen, strict=True):
        low = crossed @ to_numpy(narrow.kernel.value)
        kernel, bias = to_numpy(widen.kernel.value), to_numpy(widen.bias.value)
        crossed = np.array(
            [start[d] * (low @ kernel[:, d] + bias[d]) + crossed[d] for d in range(len(row))]
        )
    return crossed


def test_one_layer_by_hand():
    layer = LowRankCross(1, 1, seed=0)
    layer.build((None, 2))
    layer.narrow[0].kernel.assign([[1.0], [2.0]])
    layer.widen[0].kernel.assign([[3.0, -1.0]])
    layer.widen[0].bias.assign([0.5, 1.0])
    # V x = 4, U 4 + b = (12.5, -3), times x = (25, -3), plus x.
    np.testing.assert_allclose(to_numpy(layer(np.array([[2, 1]], np.float32))), [[27, -2]])


@pytest.mark.parametrize("num_layers", [1, 2, 4])
def test_layers_equal_a_slow_twin(rng, num_layers):
    layer = make_cross(rng, num_layers)
    rows = rng.normal(size=(4, WIDTH)).astype(np.float32)
    expected = [slow_cross(layer, row) for row in rows]
    np.testing.assert_allclose(to_numpy(layer(rows)), expected, rtol=1e-4, atol=1e-5)


def test_further_axes_are_further_rows(rng):
    layer = make_cross(rng)
    rows = rng.normal(size=(2, 3, WIDTH)).astype(np.float32)
    flat = to_numpy(layer(rows.reshape(6, WIDTH)))
    np.testing.assert_allclose(to_numpy(layer(rows)), flat.reshape(rows.shape), rtol=1e-6)


def test_weights_are_of_the_rank():
    layer = LowRankCross(2, 3, seed=0)
    layer.build((None, None, 7))
    shapes = [tuple(variable.shape) for variable in layer.trainable_variables]
    assert sorted(shapes) == sorted(2 * [(7, 3), (3, 7), (7,)])


def test_first_values_depend_on_the_seed_and_the_layer(rng):
    rows = rng.normal(size=(2, WIDTH)).astype(np.float32)
    first, second, other = (to_numpy(LowRankCross(2, 2, seed=seed)(rows)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, second)
    assert (first != other).all()
    layer = LowRankCross(2, 2, seed=1)
    layer.build((None, WIDTH))
    for one, two in (layer.narrow, layer.widen):
        assert (to_numpy(one.kernel.value) != to_numpy(two.kernel.value)).all()


def test_lower_precision_is_of_training_only(rng):
    rows = rng.normal(size=(3, WIDTH)).astype(np.float32)
    exact = make_cross(np.random.default_rng(1))
    rough = make_cross(np.random.default_rng(1), precision="bfloat16")
    np.testing.assert_array_equal(to_numpy(rough(rows)), to_numpy(exact(rows)))
    trained = to_numpy(rough(rows, training=True))
    assert (trained != to_numpy(exact(rows, training=True))).any()
    np.testing.assert_allclose(trained, to_numpy(exact(rows)), rtol=0.1, atol=0.1)


def test_onnx_computes_the_same(rng, tmp_path):
    layer = make_cross(rng)
    cases = [rng.normal(size=(rows, length, WIDTH)) for rows, length in ((4, 1), (1, 7))]
    cases = [{"rows": case.astype(np.float32)} for case in cases]
    export_onnx(
        lambda batch: layer(batch["rows"]),
        {"rows": Input("float32", ("batch", "candidates", WIDTH))},
        Output("crossed", ("batch", "candidates", WIDTH)),
        tmp_path / "cross.onnx",
        checks=[(case, to_numpy(layer(case["rows"]))) for case in cases],
    )
