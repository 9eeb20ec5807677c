"""Draws with a gradient, and the divergence that holds them near a standard normal."""

import numpy as np
import pytest
from keras import ops
from scipy.stats import norm

from recsys.core import losses
from recsys.core.backends import to_numpy
from recsys.core.layers.gaussian import GaussianSample

MEAN, LOG_VARIANCE = np.array([0.7, -1.2, 0.0]), np.array([-1.0, 0.4, 0.0])


def draws(number):
    shape = (number, 3)
    mean = ops.convert_to_tensor(np.broadcast_to(MEAN, shape).astype(np.float32))
    log_variance = ops.convert_to_tensor(np.broadcast_to(LOG_VARIANCE, shape).astype(np.float32))
    return to_numpy(GaussianSample(seed=3)(mean, log_variance, training=True)).astype(np.float64)


def test_draws_have_the_mean_and_the_variance_that_they_are_given():
    found = draws(40_000)
    np.testing.assert_allclose(found.mean(axis=0), MEAN, atol=0.02)
    np.testing.assert_allclose(found.var(axis=0), np.exp(LOG_VARIANCE), rtol=0.04)


def test_outside_of_training_a_draw_is_the_mean():
    mean = np.array([[0.5, -2.0]], np.float32)
    np.testing.assert_array_equal(to_numpy(GaussianSample(seed=0)(mean, 9 + mean)), mean)


def test_each_draw_is_another_and_a_seed_repeats_them():
    mean = np.zeros((2, 2), np.float32)
    layer, twin = GaussianSample(seed=1), GaussianSample(seed=1)
    first, second = (to_numpy(layer(mean, mean, training=True)) for _ in range(2))
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(to_numpy(twin(mean, mean, training=True)), first)


def test_divergence_is_the_mean_log_ratio_of_draws():
    found = draws(40_000)
    own = norm.logpdf(found, MEAN, np.exp(LOG_VARIANCE / 2)).sum(axis=1)
    estimate = (own - norm.logpdf(found).sum(axis=1)).mean()
    closed = float(losses.divergence_from_standard_normal(MEAN, LOG_VARIANCE))
    assert closed == pytest.approx(estimate, rel=0.02)


def test_divergence_by_hand():
    mean, log_variance = np.array([[0.0, 0.0], [2.0, 0.0]]), np.array([[0.0, 0.0], [0.0, 1.0]])
    found = to_numpy(losses.divergence_from_standard_normal(mean, log_variance))
    np.testing.assert_allclose(found, [0.0, 2.0 + (np.e - 2) / 2], rtol=1e-6)
