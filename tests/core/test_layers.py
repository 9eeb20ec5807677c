"""Layers against slow twins and hand-worked cases."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import ops

from recsys.core.backends import to_numpy
from recsys.core.layers.bag import masked_mean, prefix_window_means
from recsys.core.layers.embedding import Embedding
from recsys.core.layers.numeric import QuantileRamps, powers, split_missing
from recsys.core.layers.tower import Tower


def test_embedding_of_code_zero_is_the_zero_vector():
    table = Embedding(5, 4, seed=0)
    rows = to_numpy(table(np.array([[0, 3], [4, 0]])))
    assert rows.shape == (2, 2, 4)
    assert not rows[0, 0].any()
    assert not rows[1, 1].any()
    assert rows[0, 1].any()


def test_embedding_stays_zero_at_code_zero_even_if_its_row_is_not():
    table = Embedding(3, 2, seed=0)
    table.build(None)
    table.table.assign(np.ones((3, 2), np.float32))
    np.testing.assert_array_equal(to_numpy(table(np.array([0, 1]))), [[0, 0], [1, 1]])


def test_embedding_depends_on_its_seed_alone():
    first, second, other = (Embedding(6, 3, seed=seed) for seed in (1, 1, 2))
    codes = np.arange(6)
    np.testing.assert_array_equal(to_numpy(first(codes)), to_numpy(second(codes)))
    assert (to_numpy(first(codes))[1:] != to_numpy(other(codes))[1:]).all()


@given(
    st.integers(1, 9).flatmap(
        lambda length: st.tuples(
            st.just(length), st.lists(st.integers(0, length), min_size=1, max_size=4)
        )
    ),
    st.lists(st.integers(1, 12), min_size=1, max_size=3),
)
def test_prefix_window_means_equal_a_mean_of_each_prefix(lengths, windows):
    length, positions = lengths
    rows = np.random.default_rng(length).normal(size=(2, length, 3)).astype(np.float32)
    found = prefix_window_means(rows, np.array([positions, positions[::-1]]), tuple(windows))
    for sequence, own in enumerate((positions, positions[::-1])):
        for place, position in enumerate(own):
            prefix = rows[sequence, :position]
            means = [prefix[-w:].mean(axis=0) if position else np.zeros(3) for w in windows]
            np.testing.assert_allclose(
                to_numpy(found)[sequence, place], np.concatenate(means), rtol=1e-4, atol=1e-6
            )


def test_prefix_window_means_see_nothing_after_the_prefix():
    rows = np.ones((1, 6, 2), np.float32)
    poisoned = rows.copy()
    poisoned[:, 3:] = 1e9
    positions = np.array([[0, 1, 3]])
    found = [to_numpy(prefix_window_means(each, positions, (2, 50))) for each in (rows, poisoned)]
    np.testing.assert_array_equal(found[0], found[1])


def test_masked_mean_counts_known_codes_only():
    rows = np.array([[[2.0, 4.0], [4.0, 0.0], [0.0, 0.0]]], np.float32)
    found = masked_mean(ops.convert_to_tensor(rows), ops.convert_to_tensor([[5, 7, 0]]))
    np.testing.assert_allclose(to_numpy(found), [[3.0, 2.0]])
    empty = masked_mean(ops.zeros((1, 3, 2)), ops.zeros((1, 3), "int32"))
    np.testing.assert_array_equal(to_numpy(empty), [[0.0, 0.0]])


def test_powers_are_value_square_and_root():
    found = to_numpy(powers(ops.convert_to_tensor(np.array([[0.25]], np.float32))))
    np.testing.assert_allclose(found, [[0.25, 0.0625, 0.5]])


def test_split_missing_fills_with_zero_and_tells():
    filled, is_missing = split_missing(ops.convert_to_tensor(np.array([2.0, np.nan], np.float32)))
    np.testing.assert_array_equal(to_numpy(filled), [2, 0])
    np.testing.assert_array_equal(to_numpy(is_missing), [0, 1])


@pytest.mark.parametrize("with_powers", [True, False])
def test_quantile_ramps_interpolate_between_quantiles(with_powers):
    quantiles = np.array([[0.0, 1.0, 10.0, 100.0]])
    layer = QuantileRamps(quantiles, with_powers=with_powers)
    values = np.array([-5, 0, 0.5, 1, 5.5, 10, 1000, np.nan], np.float32)
    found = to_numpy(layer(values[:, None]))
    share = np.interp(np.nan_to_num(values), quantiles[0], np.linspace(0, 1, 4))
    share[-1] = 0
    np.testing.assert_allclose(found[:, 0], share, rtol=1e-5)
    np.testing.assert_array_equal(found[:, -1], np.isnan(values))
    if with_powers:
        np.testing.assert_allclose(found[:, 1], share**2, rtol=1e-5)
        np.testing.assert_allclose(found[:, 2], share**0.5, rtol=1e-5)
    assert found.shape == (8, 4 if with_powers else 2)


def test_quantile_ramps_in_pieces_fill_one_after_the_other():
    quantiles = np.array([[0.0, 1.0, 10.0, 100.0, 200.0], [0.0, 0.0, 2.0, 4.0, 8.0]])
    layer = QuantileRamps(quantiles, with_powers=False, num_pieces=2)
    values = np.array([[0.5, 4.0], [55.0, np.nan], [200.0, -1.0]], np.float32)
    found = to_numpy(layer(values))
    # Two pieces of the first feature, two of the second, then what is missing.
    expected = [[0.25, 0, 1, 0.5, 0, 0], [1, 0.25, 0, 0, 0, 1], [1, 1, 0, 0, 0, 0]]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_piece_may_be_one_ramp():
    quantiles = np.array([[0.0, 1.0, 10.0], [0.0, 0.0, 2.0]])
    layer = QuantileRamps(quantiles, with_powers=False, num_pieces=2)
    found = to_numpy(layer(np.array([[0.5, 1.0], [5.5, np.nan]], np.float32)))
    np.testing.assert_allclose(found, [[0.5, 0, 1, 0.5, 0, 0], [1, 0.5, 0, 0, 0, 1]], rtol=1e-5)


def test_quantile_ramps_step_where_quantiles_are_equal():
    layer = QuantileRamps(np.array([[0.0, 0.0, 0.0, 4.0]]), with_powers=False)
    found = to_numpy(layer(np.array([[0.0], [2.0], [4.0]], np.float32)))[:, 0]
    np.testing.assert_allclose(found, [0, 2 / 3 + 1 / 6, 1], rtol=1e-5)


@pytest.mark.parametrize("num_pieces", [1, 5, 50])
@pytest.mark.parametrize("num_ramps", [50, 100])
def test_quantile_ramps_equal_those_of_every_interval(num_pieces, num_ramps):
    rng = np.random.default_rng(0)
    # Rounded, so that some boundaries are equal and some values lie on one.
    quantiles = np.sort(rng.gamma(1, 5, (7, num_ramps + 1)).round(1), axis=1).astype(np.float32)
    values = rng.gamma(1, 5, (200, 7)).astype(np.float32)
    values = np.concatenate([values, quantiles.T, np.full((1, 7), 1e9), np.full((1, 7), -3.0)])
    layer = QuantileRamps(quantiles, with_powers=False, num_pieces=num_pieces)
    found = to_numpy(layer(values.astype(np.float32)))[:, : 7 * num_pieces]
    low, width = quantiles[:, :-1], np.maximum(np.diff(quantiles.astype(np.float64)), 1e-12)
    ramps = np.clip((values[..., None] - low) / width, 0, 1)
    expected = ramps.reshape(len(values), 7, num_pieces, -1).mean(axis=-1)
    np.testing.assert_allclose(found, expected.reshape(len(values), -1), atol=1e-5)


def test_tower_equals_its_layers_by_hand():
    tower = Tower((4, 3), 0.5, seed=0)
    inputs = np.random.default_rng(0).normal(size=(2, 5)).astype(np.float32)
    found = to_numpy(tower(inputs))
    hidden = inputs
    for dense in (step.dense for step in tower.steps):
        kernel, bias = (to_numpy(variable.value) for variable in dense.variables)
        hidden = np.maximum(hidden @ kernel + bias, 0)
    np.testing.assert_allclose(found, hidden, rtol=1e-5)


def test_tower_without_layers_gives_the_input_back():
    inputs = np.ones((2, 3), np.float32)
    np.testing.assert_array_equal(to_numpy(Tower((), 0.0, seed=0)(inputs)), inputs)


def test_tower_drops_units_in_training_only():
    tower = Tower((64,), 0.5, seed=0)
    inputs = np.ones((1, 8), np.float32)
    calm, dropped = to_numpy(tower(inputs)), to_numpy(tower(inputs, training=True))
    np.testing.assert_array_equal(calm, to_numpy(tower(inputs)))
    assert (dropped == 0).sum() > (calm == 0).sum()
    assert keras.backend.is_keras_tensor(calm) is False
