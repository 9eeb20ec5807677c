"""Losses against slow twins, and against what they are said to estimate."""

import math

import numpy as np
import pytest
from keras import ops
from scipy.stats import norm

from recsys.core import losses
from recsys.core.backends import to_numpy


def values_of(tensor):
    return to_numpy(ops.convert_to_tensor(tensor))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def least_logit(loss, low=-6.0, high=6.0):
    """Return the constant logit that minimises the mean loss, by a fine scan."""
    grid = np.linspace(low, high, 4801, dtype=np.float32)
    means = [float(np.mean(values_of(loss(logit)))) for logit in grid[::40]]
    near = int(np.argmin(means)) * 40
    fine = grid[max(near - 40, 0) : near + 41]
    return float(fine[int(np.argmin([float(np.mean(values_of(loss(z)))) for z in fine]))])


def test_weighted_mean_ignores_rows_of_weight_zero():
    values = np.array([1.0, 5.0, 1e6], np.float32)
    weights = np.array([3.0, 1.0, 0.0], np.float32)
    assert float(losses.weighted_mean(values, weights)) == pytest.approx(2.0)


def test_weighted_mean_of_nothing_is_zero():
    zeros = np.zeros(2, np.float32)
    assert float(losses.weighted_mean(zeros, zeros)) == 0


def test_binary_cross_entropy_equals_a_slow_twin():
    logits, labels = np.array([-2.0, 0.3, 4.0], np.float32), np.array([1.0, 0.0, 0.25], np.float32)
    for found, logit, label in zip(
        values_of(losses.binary_cross_entropy(logits, labels)), logits, labels, strict=True
    ):
        p = 1 / (1 + math.exp(-logit))
        expected = -label * math.log(p) - (1 - label) * math.log(1 - p)
        assert found == pytest.approx(expected, rel=1e-4)


def test_expected_watch_time_is_least_at_the_mean():
    watch_time = np.array([0, 0, 0, 1, 7], np.float32)
    best = least_logit(lambda z: losses.expected_watch_time(z, watch_time))
    assert math.exp(best) == pytest.approx(watch_time.mean(), rel=5e-3)


def test_weighted_logistic_overestimates_by_the_rate_of_no_click():
    is_clicked = np.array([0, 0, 0, 1, 1], np.float32)
    watch_time = np.array([0, 0, 0, 1, 7], np.float32)
    best = least_logit(lambda z: losses.weighted_logistic(z, is_clicked, watch_time))
    assert math.exp(best) == pytest.approx(watch_time.mean() / (1 - 2 / 5), rel=5e-3)


def test_pinball_is_least_at_the_quantile():
    targets = np.arange(101, dtype=np.float32)
    means = [np.mean(values_of(losses.pinball(np.float32(f), targets, 0.8))) for f in range(101)]
    assert int(np.argmin(means)) == 80


def test_absolute_error_is_twice_the_pinball_of_the_median(rng):
    predictions, targets = rng.normal(size=(2, 9)).astype(np.float32)
    found = values_of(losses.absolute_error(predictions, targets))
    np.testing.assert_allclose(found, np.abs(predictions - targets), rtol=1e-6)
    half = values_of(losses.pinball(predictions, targets, 0.5))
    np.testing.assert_allclose(found, 2 * half, rtol=1e-6)


def test_ordinal_by_hand():
    logits = np.log([[3.0, 1.0, 1 / 4], [3.0, 1.0, 1 / 4]]).astype(np.float32)
    found = values_of(losses.ordinal(logits, np.array([1.0, 2.0, 5.0]), np.array([2.5, 1.0])))
    # P(T > t) is 3/4, 1/2, 1/5; 2.5 is above two thresholds, 1 above none, not even the first.
    probabilities = [[3 / 4, 1 / 2, 4 / 5], [1 / 4, 1 / 2, 4 / 5]]
    np.testing.assert_allclose(found, -np.log(probabilities).mean(axis=1), rtol=1e-5)


def test_ordinal_of_one_threshold_is_a_logistic_loss(rng):
    logits = rng.normal(size=(2, 4, 1)).astype(np.float32)
    watch_time = rng.exponential(size=(2, 4)).astype(np.float32)
    found = values_of(losses.ordinal(logits, np.float32([0.7]), watch_time))
    labels = (watch_time > 0.7).astype(np.float32)
    expected = values_of(losses.binary_cross_entropy(logits[..., 0], labels))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_ordinal_is_least_at_the_shares_above():
    watch_time, thresholds = np.array([0, 0, 0, 1, 7], np.float32), np.float32([0.5, 3])
    for place, share in enumerate((2 / 5, 1 / 5)):
        fixed = np.zeros((5, 2), np.float32)
        fixed[:, place] = 1
        best = least_logit(lambda z, one=fixed: losses.ordinal(z * one, thresholds, watch_time))
        assert 1 / (1 + math.exp(-best)) == pytest.approx(share, abs=2e-3)


def test_gaussian_negative_log_likelihood_equals_the_density(rng):
    mean, targets = rng.normal(size=(2, 9)).astype(np.float32)
    deviation = rng.uniform(0.2, 4, 9).astype(np.float32)
    found = values_of(losses.gaussian_negative_log_likelihood(mean, deviation, targets))
    np.testing.assert_allclose(found, -norm.logpdf(targets, mean, deviation), rtol=1e-5)


def test_gaussian_negative_log_likelihood_is_least_at_mean_and_deviation(rng):
    targets = rng.normal(3, 2, 200).astype(np.float32)

    def mean_loss(mean, log_deviation):
        deviation = np.exp(np.float32(log_deviation))
        return losses.gaussian_negative_log_likelihood(np.float32(mean), deviation, targets)

    assert least_logit(lambda m: mean_loss(m, 0.5)) == pytest.approx(targets.mean(), abs=5e-3)
    best = least_logit(lambda z: mean_loss(targets.mean(), z))
    assert math.exp(best) == pytest.approx(targets.std(), rel=5e-3)


def test_negative_sampling_by_hand():
    """- log s(1) - log s(-2) - log s(3); in the second row a negative is the label itself."""
    label, negatives = np.array([1.0, 1.0]), np.array([[2.0, -3.0], [2.0, -3.0]])
    is_label = np.array([[False, False], [False, True]])
    found = values_of(losses.negative_sampling(label, negatives, is_label))
    of_label, of_first, of_second = (math.log1p(math.exp(z)) for z in (-1.0, 2.0, -3.0))
    expected = [of_label + of_first + of_second, of_label + of_first]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_multinomial_equals_a_slow_twin_and_is_least_at_the_shares():
    logits, counts = np.array([[0.5, -1.0, 2.0]]), np.array([[2.0, 0.0, 1.0]])
    shares = np.exp(logits[0]) / np.exp(logits[0]).sum()
    found = float(values_of(losses.multinomial(logits, counts))[0])
    assert found == pytest.approx(-(2 * math.log(shares[0]) + math.log(shares[2])))
    best = float(values_of(losses.multinomial(np.log([[2 / 3, 1e-9, 1 / 3]]), counts))[0])
    for moved in ([0.7, 1e-9, 0.3], [0.6, 1e-9, 0.4], [2 / 3, 0.1, 1 / 3]):
        assert best < float(values_of(losses.multinomial(np.log([moved]), counts))[0])
