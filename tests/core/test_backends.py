"""What is particular to a backend: sparse gradients under TensorFlow."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from recsys.core.backends import gather_rows, to_numpy
from recsys.core.backends.tensorflow import compile_step, sum_repeated_rows
from recsys.core.optimizers.adam import new_optimizer
from recsys.settings import TrainingSettings


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
        new_optimizer(TrainingSettings(linear_decay=True), None)
