"""Gradients of all layers and losses; and that the check sees wrong ones."""

import keras
import numpy as np
import pytest
from keras import ops

from benchmarks.gradient_cases import CASES, NOT_CHECKED, check, own_parts
from recsys.core.gradient_check import (
    LARGEST_ERROR,
    check_function,
    check_layer,
    double_precision,
)

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="the cases are worked out under TensorFlow"
)


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_central_differences(name):
    errors = check(name)
    assert errors
    assert {path: error for path, error in errors.items() if error > LARGEST_ERROR} == {}


def test_every_layer_and_loss_has_a_case():
    checked = {name.partition(",")[0] for name in CASES} | set(NOT_CHECKED)
    parts = set(own_parts())
    assert parts - checked == set(), "write a case in benchmarks/gradient_cases.py"
    assert checked - parts == set()
    assert "recsys.core.losses.pinball" in parts
    assert "recsys.ranking.model.RankingModel" in parts


def rng():
    return np.random.default_rng(0)


def with_gradient(gradient):
    """Return x^2 with a gradient of one's own."""

    @ops.custom_gradient
    def squared(values):
        return ops.square(values), lambda upstream: upstream * gradient(values)

    return squared


def test_right_gradient_passes_and_wrong_ones_do_not():
    values = np.array([0.5, -1.0, 2.0])
    wrong = {
        "sign": lambda values: -2 * values,
        "factor": lambda values: 2.001 * values,
        "one element": lambda values: 2 * values * np.array([1.0, 1.0, 0.99]),
    }
    with double_precision():
        right = check_function(with_gradient(lambda values: 2 * values), values, rng=rng())
        assert right["input0"] < LARGEST_ERROR
        for name, gradient in wrong.items():
            found = check_function(with_gradient(gradient), values, rng=rng())
            assert found["input0"] > LARGEST_ERROR, name


def test_cut_gradient_is_seen():
    with double_precision():
        found = check_function(lambda values: ops.stop_gradient(values**2), [1.0, 2.0], rng=rng())
    assert found["input0"] == pytest.approx(1)


def test_error_that_a_plain_sum_hides_is_seen():
    """The sum of a softmax is 1 whatever its gradient says."""

    @ops.custom_gradient
    def without_gradient(logits):
        return ops.softmax(logits), lambda upstream: ops.zeros_like(logits)

    with double_precision():
        found = check_function(without_gradient, np.array([[0.1, 0.7, -0.3]]), rng=rng())
    assert found["input0"] > 0.1


class Doubling(keras.layers.Layer):
    """A user's layer."""

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), initializer="ones", name="scale")

    def call(self, inputs):
        return inputs * self.scale


def test_layer_of_a_user_is_checked_by_variable_and_input():
    with double_precision():
        found = check_layer(Doubling(name="doubling"), np.ones((2, 3)), rng=rng())
    assert found.keys() == {"doubling/scale", "input0"}
    assert max(found.values()) < LARGEST_ERROR


def test_dropout_and_running_means_stand_still():
    with double_precision():
        layers = [keras.layers.Dropout(0.5, seed=1), keras.layers.BatchNormalization()]
        layer = keras.Sequential(layers)
        found = check_layer(layer, rng().normal(size=(8, 3)), rng=rng(), training=True)
    assert max(found.values()) < LARGEST_ERROR


def test_float32_is_refused():
    layer = Doubling()
    layer.build((None, 3))
    with pytest.raises(ValueError, match="expected float64, got float32.*double_precision"):
        check_layer(layer, np.ones((2, 3)), rng=rng())


def test_precision_is_put_back():
    before = keras.config.floatx(), keras.config.dtype_policy().name
    with pytest.raises(KeyError), double_precision():
        assert keras.config.floatx() == "float64"
        raise KeyError
    assert (keras.config.floatx(), keras.config.dtype_policy().name) == before
