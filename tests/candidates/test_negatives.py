"""Negatives come as often as their distribution says."""

import numpy as np
import pytest

from recsys.candidates.negatives import NegativeSampler

COUNTS = np.array([60, 30, 9, 1, 0])


@pytest.mark.parametrize("distribution", ["uniform", "log_uniform", "frequency"])
def test_sample_has_the_expected_counts(distribution):
    sampler = NegativeSampler(distribution, COUNTS)
    size = 200_000
    items, log_expected = sampler.sample(size, np.random.default_rng(0))
    assert (items.dtype, log_expected.dtype) == (np.int32, np.float32)
    found = np.bincount(items, minlength=5)
    expected = np.zeros(5)
    expected[items] = np.exp(log_expected)
    assert expected.sum() == pytest.approx(size, rel=1e-4)
    assert (np.abs(found - expected) < 5 * np.sqrt(expected)).all()


def test_uniform_gives_all_items_alike():
    np.testing.assert_allclose(NegativeSampler("uniform", COUNTS).probability, 0.2)


def test_log_uniform_falls_with_the_rank():
    probability = NegativeSampler("log_uniform", COUNTS).probability
    assert probability.sum() == pytest.approx(1)
    np.testing.assert_allclose(probability[0], np.log(2) / np.log(6))
    assert (np.diff(probability) < 0).all()


def test_frequency_follows_the_watches_and_leaves_nobody_out():
    probability = NegativeSampler("frequency", COUNTS).probability
    np.testing.assert_allclose(probability, np.array([60, 30, 9, 1, 1]) / 101)
