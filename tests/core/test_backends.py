"""What is particular to a backend: sparse gradients under TensorFlow."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from recsys.core.backends import compile_step, gather_rows, to_numpy
from recsys.core.backends.tensorflow import sum_repeated_rows, update_rows
from recsys.core.optimizers.by_name import new_optimizer
from recsys.settings import TrainingSettings

LARGE = 12
"""Rows of a table that no gradient here has as many slices as."""


def test_sum_repeated_rows_keeps_the_dense_gradient():
    values = tf.constant([[1.0, 2.0], [3.0, 4.0], [10.0, 20.0]])
    sparse = tf.IndexedSlices(values, tf.constant([2, 0, 2]), tf.constant([4, 2]))
    summed = sum_repeated_rows(sparse)
    assert sorted(summed.indices.numpy().tolist()) == [0, 2]
    dense = tf.convert_to_tensor(summed).numpy()
    np.testing.assert_array_equal(dense, [[3, 4], [0, 0], [11, 22], [0, 0]])


def test_sum_repeated_rows_leaves_dense_gradients_and_none_alone():
    dense = tf.ones((2, 2))
    assert sum_repeated_rows(dense) is dense
    assert sum_repeated_rows(None) is None


class Table(keras.Model):
    def __init__(self):
        super().__init__()
        self.table = self.add_weight(shape=(3, 1), initializer="ones")

    def call(self, ids):
        return gather_rows(self.table, ids)


def test_compile_step_is_right_for_repeated_ids():
    """Gradients +1 and -.9 on one id in each step: Adam must see their sum, .1."""
    model = Table()
    model.build(())
    optimizer = new_optimizer(TrainingSettings(learning_rate=0.1), None)
    optimizer.build(model.trainable_variables)
    step = compile_step(
        model,
        lambda batch: (tf.reduce_sum(model(batch["ids"])[:, 0] * batch["slope"]), {}),
        optimizer,
    )
    batch = {"ids": np.array([1, 1]), "slope": np.array([1.0, -0.9], np.float32)}
    for _ in range(3):
        step(batch)
    # Adam of a constant gradient takes steps of the learning rate whatever its size.
    np.testing.assert_allclose(to_numpy(model.table.value)[:, 0], [1, 0.7, 1], atol=1e-4)


def test_new_optimizer_refuses_a_decay_without_an_end():
    with pytest.raises(ValueError, match="number of batches"):
        new_optimizer(TrainingSettings(decay="linear"), None)


@pytest.mark.parametrize(
    "rows", [[3], [2, 2, 2, 2, 2], [4, 0, 4, 1], [5, 1, 1, 0, 5, 3, 3, 3, 2, 5, 0], list(range(6))]
)
def test_rows_are_changed_once_by_the_sum_of_their_slices(rows):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(len(rows), 3)).astype(np.float32)
    summed = np.zeros((LARGE, 3), np.float32)
    np.add.at(summed, rows, values)
    table = keras.Variable(rng.normal(size=(LARGE, 3)).astype(np.float32))
    slot = keras.Variable(np.zeros((LARGE, 3), np.float32))
    before = np.array(table.numpy())

    def rule(gradient, slots):
        return 2 * gradient, [slots[0] + gradient**2 + 1]

    @tf.function
    def step():
        update_rows(table, [slot], tf.IndexedSlices(values, tf.constant(rows), (LARGE, 3)), rule)

    step()
    np.testing.assert_allclose(table.numpy(), before - 2 * summed, rtol=1e-5, atol=1e-6)
    is_met = np.isin(np.arange(LARGE), rows)[:, None]
    np.testing.assert_allclose(slot.numpy(), is_met * (summed**2 + 1), rtol=1e-5)


@pytest.mark.parametrize("num_rows", [3, 5, 6, 40])
def test_gradients_of_small_and_large_tables_have_the_same_sums(num_rows):
    """A table of no more rows than slices gets a dense gradient, which is faster."""
    rng = np.random.default_rng(num_rows)
    rows, values = rng.integers(0, num_rows, 5), rng.normal(size=(5, 2)).astype(np.float32)
    expected = np.zeros((num_rows, 2), np.float32)
    np.add.at(expected, rows, values)
    table = keras.Variable(np.zeros((num_rows, 2), np.float32))
    slot = keras.Variable(np.zeros((num_rows, 2), np.float32))
    kinds = []

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(gather_rows(table, tf.constant(rows)) * values)
        gradient = tape.gradient(loss, table.value)
        kinds.append(type(sum_repeated_rows(gradient)))
        update_rows(table, [slot], gradient, lambda g, slots: (g, [slots[0] + g**2]))
        return tf.convert_to_tensor(sum_repeated_rows(gradient))

    np.testing.assert_allclose(step().numpy(), expected, rtol=1e-6)
    np.testing.assert_allclose(table.numpy(), -expected, rtol=1e-6)
    np.testing.assert_allclose(slot.numpy(), expected**2, rtol=1e-5)
    assert issubclass(kinds[0], tf.IndexedSlices) == (num_rows > 5)
