import numpy as np
import pytest

from recsys.core.backends import to_numpy
from recsys.core.layers.shallow import ShallowTower

NUM_CODES = (4, 7)
UNITS = 3


def make_tower(hidden_rate=0.0, seed=0):
    """Return a tower of random weights: an untrained one gives zeros."""
    tower = ShallowTower(NUM_CODES, UNITS, hidden_rate, seed=seed)
    tower.build(None)
    rng = np.random.default_rng(seed)
    for variable in tower.trainable_variables:
        variable.assign(rng.standard_normal(variable.shape).astype(np.float32))
    return tower


def random_codes(rows, first=0):
    rng = np.random.default_rng(1)
    return np.stack([rng.integers(first, size, rows) for size in NUM_CODES], 1).astype(np.int32)


def test_output_equals_its_equation():
    tower, codes = make_tower(), random_codes(20)
    rows = [
        to_numpy(table.table.value)[own] * (own > 0)[:, None]
        for table, own in zip(tower.tables, codes.T, strict=True)
    ]
    hidden = np.concatenate(rows, axis=1) @ to_numpy(tower.hidden.kernel.value)
    expected = np.maximum(hidden, 0) @ to_numpy(tower.outputs.kernel.value)
    np.testing.assert_allclose(to_numpy(tower(codes)), expected, rtol=1e-4, atol=1e-5)


def test_output_by_hand():
    tower = ShallowTower((3,), 2, 0.0, seed=0)
    tower.build(None)
    table = np.zeros((3, 16), np.float32)
    table[:, :2] = [[9, 9], [1, -2], [3, 4]]
    tower.tables[0].table.assign(table)
    tower.hidden.kernel.assign(np.eye(16))
    tower.outputs.kernel.assign(np.arange(32).reshape(16, 2) + 1)
    # relu gives (1, 0) and (3, 4), weighed by the rows (1, 2) and (3, 4).
    found = to_numpy(tower(np.array([[0], [1], [2]], np.int32)))
    np.testing.assert_allclose(found, [[0, 0], [1, 2], [15, 22]])


@pytest.mark.parametrize("training", [False, True])
def test_zero_codes_give_exactly_zero(training):
    found = to_numpy(make_tower(0.5)(np.zeros((9, 2), np.int32), training=training))
    np.testing.assert_array_equal(found, np.zeros((9, UNITS)))


def test_every_column_matters_alone():
    tower = make_tower()
    for codes in ([[2, 0]], [[0, 2]], [[0, 6]]):
        assert to_numpy(tower(np.array(codes, np.int32))).any()


def test_untrained_tower_says_nothing():
    tower = ShallowTower(NUM_CODES, UNITS, 0.0, seed=0)
    assert not to_numpy(tower(random_codes(9, first=1))).any()


def test_whole_rows_are_hidden_in_training_and_the_others_left_as_they_are():
    tower, codes = make_tower(0.3), random_codes(2000, first=1)
    calm, trained = to_numpy(tower(codes)), to_numpy(tower(codes, training=True))
    hidden = (trained == 0).all(axis=1)
    np.testing.assert_allclose(trained[~hidden], calm[~hidden], rtol=1e-4, atol=1e-5)
    assert hidden.mean() - (calm == 0).all(axis=1).mean() == pytest.approx(0.3, abs=0.05)
    np.testing.assert_array_equal(to_numpy(tower(codes)), calm)


def test_nothing_is_hidden_at_a_rate_of_zero():
    tower, codes = make_tower(0.0), random_codes(50)
    np.testing.assert_array_equal(to_numpy(tower(codes, training=True)), to_numpy(tower(codes)))


def test_tower_depends_on_its_seed_alone():
    first, second, other = (ShallowTower(NUM_CODES, UNITS, 0.1, seed=seed) for seed in (1, 1, 2))
    for tower in (first, second, other):
        tower.build(None)
    for layers in zip(first.tables, second.tables, other.tables, strict=True):
        same, again, different = (to_numpy(table.table.value) for table in layers)
        np.testing.assert_array_equal(same, again)
        assert (same[1:] != different[1:]).all()
    one, two = (to_numpy(table.table.value)[1:4] for table in first.tables)
    assert (one != two).all()
