"""The softmax in chunks and by sample, against slow twins and what they estimate."""

import math

import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from recsys.core import softmax
from recsys.core.backends import to_numpy


def values_of(tensor):
    return to_numpy(ops.convert_to_tensor(tensor))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def value_and_gradients(function, *arrays):
    tensors = [tf.constant(array) for array in arrays]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        value = function(*tensors)
    return value.numpy(), [gradient.numpy() for gradient in tape.gradient(value, tensors)]


def partition_by_hand(vectors, rows, weights):
    """Return sum_r weight_r log sum_j exp(v_r . w_j) and its gradients, in float64."""
    exponentials = np.exp(vectors.astype(np.float64) @ rows.T.astype(np.float64))
    shares = weights[:, None] * exponentials / exponentials.sum(axis=1, keepdims=True)
    value = (weights * np.log(exponentials.sum(axis=1))).sum()
    return value, [shares @ rows, shares.T @ vectors]


@pytest.mark.parametrize("num_chunks", [1, 3, 7])
def test_chunked_partition_and_its_gradients_equal_a_slow_twin(rng, num_chunks):
    vectors = rng.normal(size=(7, 4)).astype(np.float32)
    rows = rng.normal(size=(11, 4)).astype(np.float32)
    weights = np.array([1, 0, 2, 1, 0.5, 1, 3], np.float32)
    value, gradients = value_and_gradients(
        lambda v, w: 3 * softmax.chunked_partition(v, w, weights, num_chunks=num_chunks),
        vectors,
        rows,
    )
    expected, expected_gradients = partition_by_hand(vectors, rows, weights)
    assert value == pytest.approx(3 * expected, rel=1e-5)
    for found, wanted in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(found, 3 * wanted, rtol=2e-4, atol=1e-5)


def test_chunked_partition_bears_large_logits(rng):
    vectors = 100 * rng.normal(size=(2, 3)).astype(np.float32)
    rows = 100 * rng.normal(size=(5, 3)).astype(np.float32)
    found = softmax.chunked_partition(vectors, rows, np.ones(2, np.float32), num_chunks=2)
    expected = (vectors.astype(np.float64) @ rows.T).max(axis=1).sum()
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_bfloat16_is_near_float32(rng):
    vectors = rng.normal(size=(64, 16)).astype(np.float32)
    rows = rng.normal(size=(50, 16)).astype(np.float32)
    exact, low = (
        value_and_gradients(
            lambda v, w, p=precision: softmax.chunked_partition(
                v, w, np.ones(64, np.float32), num_chunks=2, precision=p
            ),
            vectors,
            rows,
        )
        for precision in ("float32", "bfloat16")
    )
    assert low[0] == pytest.approx(exact[0], rel=1e-2)
    assert low[0] != exact[0]
    for found, wanted in zip(low[1], exact[1], strict=True):
        assert np.linalg.norm(found - wanted) < 0.02 * np.linalg.norm(wanted)


def sampled(logits, labels, negatives, log_expected):
    label_logits = logits[np.arange(len(labels)), labels]
    negative_logits = logits[:, negatives]
    values = softmax.sampled_softmax(label_logits, negative_logits, labels, negatives, log_expected)
    return values_of(values)


def test_sampled_softmax_equals_a_slow_twin(rng):
    logits = rng.normal(size=(3, 8)).astype(np.float32)
    labels, negatives = np.array([1, 2, 7]), np.array([2, 2, 5, 0])
    log_expected = rng.normal(size=4).astype(np.float32)
    found = sampled(logits, labels, negatives, log_expected)
    for row in range(3):
        own = math.exp(logits[row, labels[row]])
        others = sum(
            math.exp(logits[row, item] - log_expected[column])
            for column, item in enumerate(negatives)
            if item != labels[row]
        )
        assert found[row] == pytest.approx(-math.log(own / (own + others)), rel=1e-5)


def test_sampled_softmax_gives_an_accidental_hit_no_weight(rng):
    logits = rng.normal(size=(1, 5)).astype(np.float32)
    label, zeros = np.array([3]), np.zeros(3, np.float32)
    with_hits = sampled(logits, label, np.array([0, 3, 3]), zeros)
    without = sampled(logits, label, np.array([0]), zeros[:1])
    np.testing.assert_allclose(with_hits, without, rtol=1e-6)


def test_sampled_softmax_gives_hidden_negatives_no_weight_in_their_rows(rng):
    logits = rng.normal(size=(2, 6)).astype(np.float32)
    labels, negatives, zeros = np.array([0, 0]), np.array([1, 2, 3]), np.zeros(3, np.float32)
    is_hidden = np.array([[False, True, False], [False, False, False]])
    found = values_of(
        softmax.sampled_softmax(
            logits[:, 0], logits[:, negatives], labels, negatives, zeros, is_hidden=is_hidden
        )
    )
    first = sampled(logits[:1], labels[:1], np.array([1, 3]), zeros[:2])
    second = sampled(logits[1:], labels[1:], negatives, zeros)
    np.testing.assert_allclose(found, np.concatenate([first, second]), rtol=1e-6)


def test_sampled_softmax_of_all_others_equals_the_full_softmax(rng):
    logits = rng.normal(size=(2, 6)).astype(np.float32)
    labels = np.array([4, 1])
    found = sampled(logits, labels, np.arange(6), np.zeros(6, np.float32))
    full = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(2), labels]
    np.testing.assert_allclose(found, full, rtol=1e-5)


def test_sampled_softmax_estimates_the_partition_function_without_bias(rng):
    logits = rng.normal(size=(1, 20)).astype(np.float32)
    probability = rng.dirichlet(np.full(20, 2.0))
    label, size = np.array([0]), 30
    partitions = []
    for _ in range(400):
        negatives = rng.choice(20, size, p=probability)
        log_expected = np.log(size * probability[negatives]).astype(np.float32)
        loss = sampled(logits, label, negatives, log_expected)
        partitions.append(np.exp(loss[0] + logits[0, 0]))
    exact = np.exp(logits[0]).sum()
    error = np.std(partitions) / np.sqrt(len(partitions))
    assert abs(np.mean(partitions) - exact) < 4 * error
    assert error < 0.04 * exact


def test_standard_logq_corrects_the_label_too(rng):
    logits = rng.normal(size=(3, 6)).astype(np.float32)
    labels, negatives = np.array([0, 2, 5]), np.array([1, 3, 4])
    log_expected = rng.normal(size=6).astype(np.float32)
    found = values_of(
        softmax.sampled_softmax(
            logits[np.arange(3), labels],
            logits[:, negatives],
            labels,
            negatives,
            log_expected[negatives],
            label_log_expected_counts=log_expected[labels],
        )
    )
    corrected = logits - log_expected
    for row in range(3):
        own = corrected[row, labels[row]]
        total = sum(math.exp(corrected[row, item]) for item in (labels[row], *negatives))
        assert found[row] == pytest.approx(math.log(total) - own, rel=1e-4)


def test_gradient_is_that_of_the_corrected_logq_loss(rng):
    label_logits = rng.normal(size=5).astype(np.float32)
    negative_logits = rng.normal(size=(5, 8)).astype(np.float32)
    log_expected = rng.normal(size=8).astype(np.float32)
    labels, negatives = np.full(5, 99), np.arange(8)

    def ours(own, others):
        return tf.reduce_sum(softmax.sampled_softmax(own, others, labels, negatives, log_expected))

    def published(own, others):
        corrected = tf.reduce_logsumexp(others - log_expected, axis=1)
        share = tf.exp(own - tf.reduce_logsumexp(tf.stack([own, corrected]), axis=0))
        return tf.reduce_sum(tf.stop_gradient(1 - share) * (corrected - own))

    found = value_and_gradients(ours, label_logits, negative_logits)[1]
    expected = value_and_gradients(published, label_logits, negative_logits)[1]
    for our, their in zip(found, expected, strict=True):
        np.testing.assert_allclose(our, their, rtol=1e-4, atol=1e-6)
