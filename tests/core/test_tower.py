"""What towers may be made of, against NumPy and hand-worked cases."""

import keras
import numpy as np
import pytest
from scipy.special import expit, softmax

from recsys.core.backends import to_numpy
from recsys.core.layers.activations import activation_of
from recsys.core.layers.normalisation import MOMENTUM, Normaliser
from recsys.core.layers.residual import ResidualBlock
from recsys.core.layers.tower import Tower
from recsys.settings import LayerSettings

ROWS = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)


def relu(values):
    return np.maximum(values, 0)


REFERENCES = {
    "relu": relu,
    "leaky_relu": lambda x: np.where(x > 0, x, 0.2 * x),
    "elu": lambda x: np.where(x > 0, x, np.expm1(x)),
    "selu": lambda x: 1.05070098 * np.where(x > 0, x, 1.67326324 * np.expm1(x)),
    "silu": lambda x: x * expit(x),
    "swish": lambda x: x * expit(x),
    "sigmoid": expit,
    "tanh": np.tanh,
    "softplus": lambda x: np.logaddexp(0, x),
    "softmax": lambda x: softmax(x, axis=-1),
    "gaussian": lambda x: np.exp(-(x**2) / 2),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_activation_by_name_is_what_its_name_says(name):
    np.testing.assert_allclose(
        to_numpy(activation_of(name)(ROWS)), REFERENCES[name](ROWS), atol=1e-5
    )


def test_tower_activates_each_layer():
    tower = Tower((5, 3), 0.0, layers=LayerSettings(activation="tanh"), seed=0)
    found = to_numpy(tower(ROWS))
    hidden = ROWS
    for step in tower.steps:
        kernel, bias = to_numpy(step.dense.kernel.value), to_numpy(step.dense.bias.value)
        hidden = np.tanh(hidden @ kernel + bias)
    np.testing.assert_allclose(found, hidden, atol=1e-6)


def test_batch_is_normalised_by_the_rows_that_count():
    is_counted = np.array([True, True, False, True, True, False])
    normaliser = Normaliser("batch")
    found = to_numpy(normaliser(ROWS, training=True, is_counted=is_counted))
    mean, variance = ROWS[is_counted].mean(axis=0), ROWS[is_counted].var(axis=0)
    np.testing.assert_allclose(found, (ROWS - mean) / np.sqrt(variance + 1e-3), rtol=1e-4)
    # Served, by the running means, which have moved a step from 0 and 1.
    served = to_numpy(normaliser(ROWS))
    mean, variance = (1 - MOMENTUM) * mean, MOMENTUM + (1 - MOMENTUM) * variance
    np.testing.assert_allclose(served, (ROWS - mean) / np.sqrt(variance + 1e-3), rtol=1e-4)


def test_layer_is_normalised_by_row():
    found = to_numpy(Normaliser("layer")(ROWS, training=True))
    mean, variance = ROWS.mean(axis=1, keepdims=True), ROWS.var(axis=1, keepdims=True)
    np.testing.assert_allclose(found, (ROWS - mean) / np.sqrt(variance + 1e-3), rtol=1e-4)


def test_no_normalisation_changes_nothing():
    np.testing.assert_array_equal(to_numpy(Normaliser("none")(ROWS, training=True)), ROWS)


def block_of(width, kind, **changes):
    block = ResidualBlock(
        width, 0.0, layers=LayerSettings(residual=kind, activation="tanh", **changes), seed=0
    )
    block.build(ROWS.shape)
    kernels = [to_numpy(dense.kernel.value) for dense in block.dense_layers]
    return block, kernels


def test_block_of_version_1_activates_the_sum():
    block, (first, second) = block_of(4, "v1")
    expected = np.tanh(ROWS + np.tanh(ROWS @ first) @ second)
    np.testing.assert_allclose(to_numpy(block(ROWS)), expected, atol=1e-6)


def test_block_of_version_2_passes_the_sum_untouched():
    block, (first, second) = block_of(4, "v2")
    expected = ROWS + np.tanh(np.tanh(ROWS) @ first) @ second
    np.testing.assert_allclose(to_numpy(block(ROWS)), expected, atol=1e-6)


def test_bottleneck_is_narrow_amid():
    block, kernels = block_of(8, "bottleneck")
    assert [kernel.shape for kernel in kernels] == [(4, 2), (2, 2), (2, 8)]
    branch = np.tanh(np.tanh(ROWS @ kernels[0]) @ kernels[1]) @ kernels[2]
    expected = np.tanh(ROWS @ to_numpy(block.projection.kernel.value) + branch)
    np.testing.assert_allclose(to_numpy(block(ROWS)), expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["v1", "v2"])
def test_block_that_adds_nothing_is_the_identity_of_its_width(kind):
    block, _ = block_of(4, kind)
    block.dense_layers[-1].kernel.assign(np.zeros((4, 4), np.float32))
    expected = ROWS if kind == "v2" else np.tanh(ROWS)
    np.testing.assert_allclose(to_numpy(block(ROWS)), expected, atol=1e-6)
    assert not block.is_projected


def test_tower_of_version_2_activates_its_end():
    layers = LayerSettings(residual="v2", normalisation="layer")
    tower = Tower((4, 4), 0.0, layers=layers, seed=0)
    hidden = ROWS
    tower(ROWS)
    for step in tower.steps:
        hidden = step(hidden)
    expected = relu(to_numpy(tower.last_normaliser(hidden)))
    np.testing.assert_allclose(to_numpy(tower(ROWS)), expected, atol=1e-6)
    assert (to_numpy(tower(ROWS)) >= 0).all()


@pytest.mark.parametrize("kind", ["none", "v1", "v2", "bottleneck"])
def test_dropout_is_on_in_training_alone(kind):
    tower = Tower((8, 8), 0.5, layers=LayerSettings(residual=kind), seed=0)
    calm = [to_numpy(tower(ROWS)) for _ in range(2)]
    trained = [to_numpy(tower(ROWS, training=True)) for _ in range(2)]
    np.testing.assert_array_equal(calm[0], calm[1])
    assert (trained[0] != trained[1]).any()


def test_penalties_are_of_the_kernels_alone():
    tower = Tower((3,), 0.0, layers=LayerSettings(l1=0.1, l2=0.01), seed=0)
    tower.build(ROWS.shape)
    tower.steps[0].dense.bias.assign([5.0, 5.0, 5.0])
    kernel = to_numpy(tower.steps[0].dense.kernel.value)
    expected = 0.1 * np.abs(kernel).sum() + 0.01 * (kernel**2).sum()
    assert float(sum(tower.losses)) == pytest.approx(expected, rel=1e-5)


def test_no_penalty_is_none():
    tower = Tower((3,), 0.0, seed=0)
    tower.build(ROWS.shape)
    assert tower.losses == []


def test_longest_weights_into_a_unit_are_cut_by_the_optimizer():
    tower = Tower((3,), 0.0, layers=LayerSettings(max_norm=0.5), seed=0)
    tower.build(ROWS.shape)
    dense = tower.steps[0].dense
    dense.kernel.assign(np.array([[3, 0, 0.1], [4, 0, 0], [0, 0.2, 0], [0, 0, 0]], np.float32))
    optimizer = keras.optimizers.SGD(0.0)
    optimizer.build([dense.kernel])
    optimizer.apply([np.zeros((4, 3), np.float32)], [dense.kernel])
    lengths = np.linalg.norm(to_numpy(dense.kernel.value), axis=0)
    np.testing.assert_allclose(lengths, [0.5, 0.2, 0.1], atol=1e-5)
