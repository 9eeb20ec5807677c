"""Against backpropagation, which a perfect prediction must give exactly, and hand-worked mixes."""

import numpy as np
import pytest
import tensorflow as tf

from recsys.core.backends import to_numpy
from recsys.core.gradient_check import double_precision
from recsys.core.synthetic_gradient import GradientPredictor, cut, loss_ahead, mixed_gradient

BATCH, WIDTH, CHUNK, NUM_CHUNKS = 3, 4, 2, 3


@pytest.fixture
def recurrent():
    """A recurrent net whose loss looks at the states after each chunk, in float64."""
    rng = np.random.default_rng(0)
    kernel = tf.Variable(rng.normal(size=(WIDTH, WIDTH)) * 0.5)
    inputs = tf.constant(rng.normal(size=(NUM_CHUNKS * CHUNK, BATCH, WIDTH)))
    wanted = tf.constant(rng.normal(size=(NUM_CHUNKS, BATCH, WIDTH)))
    return kernel, inputs, wanted


def read(recurrent, states, chunk):
    """Return the states after a chunk, and the chunk's own loss."""
    kernel, inputs, wanted = recurrent
    for step in range(chunk * CHUNK, (chunk + 1) * CHUNK):
        states = tf.tanh(states @ kernel + inputs[step])
    return states, tf.reduce_sum((states - wanted[chunk]) ** 2)


def learned(recurrent, at_cut):
    """Return the kernel's gradient; `at_cut(states, chunk)` stands before each but the first."""
    with tf.GradientTape() as tape:
        states, total = tf.zeros((BATCH, WIDTH), tf.float64), 0.0
        for chunk in range(NUM_CHUNKS):
            states = at_cut(states, chunk) if chunk else states
            states, loss = read(recurrent, states, chunk)
            total += loss
    return tape.gradient(total, recurrent[0]).numpy()


def true_gradients(recurrent):
    """Return the loss's gradient in the states before each chunk, by backpropagation."""
    with tf.GradientTape() as tape:
        states, total, before = tf.zeros((BATCH, WIDTH), tf.float64), 0.0, []
        tape.watch(states)
        for chunk in range(NUM_CHUNKS):
            # A copy: the chunk before has a loss of these states too, which is no part of delta.
            before.append(states := tf.identity(states))
            states, loss = read(recurrent, states, chunk)
            total += loss
    return tape.gradient(total, before)


def test_states_pass_unchanged(recurrent):
    states = recurrent[1][0]
    found = mixed_gradient(states, states * 7, true_share=0.3)
    np.testing.assert_array_equal(found, states)


def test_oracle_gives_the_gradient_of_backpropagation(recurrent):
    whole = learned(recurrent, lambda states, _: states)
    oracle = true_gradients(recurrent)
    found = learned(
        recurrent, lambda states, chunk: mixed_gradient(states, oracle[chunk], true_share=0.0)
    )
    np.testing.assert_allclose(found, whole, rtol=1e-12)


def test_oracle_after_each_chunk_gives_the_gradient_of_backpropagation(recurrent):
    """Chunk by chunk, each from the states that the one before left: as they are learned."""
    whole, oracle = learned(recurrent, lambda states, _: states), true_gradients(recurrent)
    kernel, states, total = recurrent[0], tf.zeros((BATCH, WIDTH), tf.float64), 0.0
    for chunk in range(NUM_CHUNKS):
        with tf.GradientTape() as tape:
            states, loss = read(recurrent, states, chunk)
            if chunk + 1 < NUM_CHUNKS:
                ahead = loss_ahead(states, None, lambda *_, chunk=chunk: oracle[chunk + 1])
                loss += tf.reduce_sum(ahead)
        total += tape.gradient(loss, kernel).numpy()
    np.testing.assert_allclose(total, whole, rtol=1e-12)


def test_true_share_of_one_is_backpropagation_whatever_is_predicted(recurrent):
    whole = learned(recurrent, lambda states, _: states)
    wrong = tf.fill((BATCH, WIDTH), tf.constant(9.0, tf.float64))
    found = learned(recurrent, lambda states, _: mixed_gradient(states, wrong, true_share=1.0))
    np.testing.assert_allclose(found, whole, rtol=1e-12)


def test_untrained_predictor_truncates(recurrent):
    truncated = learned(recurrent, lambda states, _: tf.stop_gradient(states))
    with double_precision():
        predictor = GradientPredictor(5, seed=0)
        labels = tf.ones((BATCH, 2), tf.float64)
        found = learned(recurrent, lambda states, _: cut(states, labels, predictor, true_share=0.0))
        ahead = loss_ahead(recurrent[1][0], labels, predictor)
    np.testing.assert_allclose(found, truncated, rtol=1e-12)
    np.testing.assert_array_equal(ahead, np.zeros(BATCH))


def test_mix_is_mixed_again_at_each_cut():
    """y = 5 * cut(3 * cut(2 x)): by hand, behind the second .25 * 5 + .75 * 8 = 7.25."""
    x, first, second = (tf.Variable([[value]]) for value in (1.0, -4.0, 8.0))
    with tf.GradientTape() as tape:
        states = 3.0 * mixed_gradient(2.0 * x, first + 0.0, true_share=0.25)
        value = 5.0 * mixed_gradient(states, second + 0.0, true_share=0.25)
    of_x, of_first, of_second = tape.gradient(value, [x, first, second])
    assert float(of_x[0, 0]) == pytest.approx(2 * (0.25 * 3 * 7.25 + 0.75 * -4))
    assert float(of_first[0, 0]) == pytest.approx(-4 - 3 * 7.25)
    assert float(of_second[0, 0]) == pytest.approx(8 - 5)


def moved(predictor, *shapes):
    """Return the predictor with weights that are not its first."""
    predictor.build(*shapes)
    rng = np.random.default_rng(3)
    for variable in predictor.trainable_variables:
        variable.assign(rng.normal(size=variable.shape))
    return predictor


def test_predictor_learns_by_its_squared_error_and_its_states_do_not():
    rng = np.random.default_rng(1)
    labels, slope = tf.constant(rng.normal(size=(BATCH, 2))), tf.constant(rng.normal(size=WIDTH))
    states = tf.Variable(rng.normal(size=(BATCH, WIDTH)))
    with double_precision():
        predictor = moved(GradientPredictor(5, seed=0), (None, WIDTH), (None, 2))
    weights = [variable.value for variable in predictor.trainable_variables]
    with tf.GradientTape(persistent=True) as tape:
        value = tf.reduce_sum(cut(states, labels, predictor, true_share=0.0) * slope)
        error = tf.reduce_sum((predictor(states + 0.0, labels) - slope) ** 2) / 2
    for found, expected in zip(
        tape.gradient(value, weights), tape.gradient(error, weights), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-12)
    predicted = predictor(states + 0.0, labels)
    np.testing.assert_allclose(tape.gradient(value, states), predicted, rtol=1e-12)


def test_loss_ahead_gives_the_prediction_to_the_states_and_teaches_nothing():
    rng = np.random.default_rng(2)
    labels = tf.constant(rng.normal(size=(BATCH, 2)).astype(np.float32))
    states = tf.Variable(rng.normal(size=(BATCH, WIDTH)).astype(np.float32))
    predictor = moved(GradientPredictor(0, seed=0), (None, WIDTH), (None, 2))
    weights = [variable.value for variable in predictor.trainable_variables]
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(loss_ahead(states, labels, predictor))
    of_states, *of_weights = tape.gradient(value, [states, *weights])
    np.testing.assert_allclose(of_states, predictor(states + 0.0, labels), rtol=1e-6)
    assert of_weights == [None] * len(weights)


@pytest.mark.parametrize("hidden", [0, 5])
def test_prediction_depends_on_the_label_and_each_example_stands_alone(hidden):
    predictor = moved(GradientPredictor(hidden, seed=0), (None, 2), (None, 3))
    states, labels = np.ones((2, 2), np.float32), np.eye(2, 3, dtype=np.float32)
    found = to_numpy(predictor(states, labels))
    assert found.shape == (2, 2)
    assert np.abs(found[0] - found[1]).max() > 0.1
    np.testing.assert_allclose(to_numpy(predictor(states[1:], labels[1:])), found[1:], rtol=1e-6)


def test_bootstrapped_predictor_finds_the_gradient_of_a_linear_net():
    """h <- a h a step, loss (h_6 - y)^2 / 2: delta before step t is a^(6-t) (a^(6-t) h - y).

    At one place of the sequence it is linear in (h, y): a linear predictor can be perfect, and
    learns so from the next predictor alone.
    """
    factor, rate, num_steps = 0.9, 0.3, 6
    rng = np.random.default_rng(0)
    predictors = [
        moved(GradientPredictor(0, seed=step), (None, 1), (None, 1)) for step in range(num_steps)
    ]
    weights = [variable for each in predictors for variable in each.trainable_variables]
    start = rng.normal(size=(64, 1)).astype(np.float32)
    wanted = rng.normal(size=(64, 1)).astype(np.float32)

    @tf.function
    def learn():
        with tf.GradientTape() as tape:
            states = tf.constant(start)
            for predictor in predictors:
                states = factor * cut(states, wanted, predictor, true_share=0.0)
            value = tf.reduce_sum((states - wanted) ** 2) / 2
        for variable, gradient in zip(
            weights, tape.gradient(value, [each.value for each in weights]), strict=True
        ):
            variable.value.assign_sub(rate / 64 * gradient)

    for _ in range(300):
        learn()
    for step, predictor in enumerate(predictors):
        ahead = factor ** (num_steps - step)
        states = factor**step * start
        expected = ahead * (ahead * states - wanted)
        np.testing.assert_allclose(to_numpy(predictor(states, wanted)), expected, atol=1e-3)
