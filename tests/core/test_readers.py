"""What reads histories: convolution and capsules against slow twins in NumPy."""

import numpy as np
import pytest

from recsys.core.backends import to_numpy
from recsys.core.layers.capsules import InterestCapsules, squash
from recsys.core.layers.convolution import PrefixConvolution

NUM_WATCHES, WIDTH = 6, 3
ROWS = np.random.default_rng(0).normal(size=(2, NUM_WATCHES, WIDTH)).astype(np.float32)
POSITIONS = np.array([[0, 1, 6], [2, 5, 3]])


def values_of(variable):
    return to_numpy(variable.value)


def make_convolution(length=4, heights=(1, 3)):
    layer = PrefixConvolution(
        WIDTH, length=length, heights=heights, num_filters=2, num_vertical=2, seed=0
    )
    layer.build(None)
    rng = np.random.default_rng(1)
    for variable in layer.trainable_variables:
        variable.assign(rng.normal(size=variable.shape))
    return layer


def convolve_slowly(layer, prefix):
    """Return what Caser says of the newest watches of one prefix: float [D]."""
    window = np.zeros((layer.length, WIDTH))
    newest = prefix[-layer.length :] if len(prefix) else prefix
    if len(newest):
        window[-len(newest) :] = newest
    columns = []
    for height, convolution in zip(layer.heights, layer.horizontal, strict=True):
        kernel, bias = values_of(convolution.kernel), values_of(convolution.bias)
        answers = [
            np.maximum(np.einsum("hd,hdf->f", window[place : place + height], kernel) + bias, 0)
            for place in range(layer.length - height + 1)
        ]
        columns.append(np.max(answers, axis=0))
    columns.append((window.T @ values_of(layer.vertical)).ravel())
    return np.concatenate(columns) @ values_of(layer.mix.kernel) + values_of(layer.mix.bias)


@pytest.mark.parametrize(("length", "heights"), [(4, (1, 3)), (1, (1,)), (9, (2, 9))])
def test_convolution_of_all_prefixes_equals_each_alone(length, heights):
    layer = make_convolution(length, heights)
    found = to_numpy(layer(ROWS))
    assert found.shape == (2, NUM_WATCHES + 1, WIDTH)
    for sequence in range(2):
        for end in range(NUM_WATCHES + 1):
            expected = convolve_slowly(layer, ROWS[sequence, :end])
            np.testing.assert_allclose(found[sequence, end], expected, rtol=1e-4, atol=1e-5)


def make_capsules(num_rounds=3):
    layer = InterestCapsules(WIDTH, num_interests=2, num_rounds=num_rounds, seed=0)
    layer.build(None)
    return layer


def route_slowly(layer, prefix):
    """Return the interests of one prefix: float [K, D]."""
    votes = [watch @ values_of(layer.votes.kernel) for watch in prefix]
    logits = np.array([[query @ vote for vote in votes] for query in values_of(layer.queries)])
    interests = np.zeros((2, WIDTH))
    for _ in range(layer.num_rounds if votes else 0):
        shares = np.exp(logits) / np.exp(logits).sum(axis=0)
        sums = shares @ votes
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        interests = sums * lengths / (1 + lengths**2)
        logits = logits + interests @ np.array(votes).T
    return interests


@pytest.mark.parametrize("num_rounds", [1, 3])
def test_routing_of_all_prefixes_equals_each_alone(num_rounds):
    layer = make_capsules(num_rounds)
    found = to_numpy(layer(ROWS, POSITIONS))
    assert found.shape == (2, 3, 2, WIDTH)
    for sequence in range(2):
        for place, end in enumerate(POSITIONS[sequence]):
            expected = route_slowly(layer, ROWS[sequence, :end])
            np.testing.assert_allclose(found[sequence, place], expected, rtol=1e-4, atol=1e-5)


def test_watches_of_two_kinds_gather_around_two_interests():
    layer = make_capsules(num_rounds=8)
    layer.votes.kernel.assign(np.eye(WIDTH, dtype=np.float32))
    layer.queries.assign(np.array([[0.1, 0, 0], [0, 0.1, 0]], np.float32))
    rows = np.array([[[3, 0, 0], [0, 3, 0], [3, 0, 0]]], np.float32)
    (interests,) = to_numpy(layer(rows, np.array([[3]])))[0]
    assert interests[0, 0] > 5 * interests[0, 1]
    assert interests[1, 1] > 5 * interests[1, 0]


def test_squashing_keeps_the_direction_and_shortens_below_1():
    vectors = np.array([[3.0, 4.0], [0.0, 0.0], [0.0, 1.0]], np.float32)
    expected = np.array([[0.6, 0.8], [0, 0], [0, 1]]) * np.array([[25 / 26], [0], [0.5]])
    np.testing.assert_allclose(to_numpy(squash(vectors)), expected, atol=1e-5)
