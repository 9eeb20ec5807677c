"""Negatives come as often as their distribution says."""

import numpy as np
import pytest

from recsys.candidates.negatives import NegativeSampler

COUNTS = np.array([60, 30, 9, 1, 0])


def expected_counts(sampler, **pools):
    return np.exp(sampler.log_expected_counts(np.arange(5), **pools))


@pytest.mark.parametrize(
    "mixture",
    [
        {"uniform": 200_000},
        {"log_uniform": 200_000},
        {"frequency": 200_000},
        {"uniform": 50_000, "frequency": 150_000},
        {"uniform": 100_000, "concurrent": 100_000},
    ],
)
def test_sample_has_the_expected_counts(mixture):
    sampler = NegativeSampler(mixture, COUNTS)
    concurrent = np.array([1, 1, 4, 2], np.int32) if "concurrent" in mixture else None
    items, log_expected = sampler.sample(np.random.default_rng(0), concurrent=concurrent)
    assert (items.dtype, log_expected.dtype) == (np.int32, np.float32)
    assert len(items) == 200_000
    found = np.bincount(items, minlength=5)
    expected = expected_counts(sampler, concurrent=concurrent)
    np.testing.assert_allclose(np.exp(log_expected), expected[items], rtol=1e-5)
    assert expected.sum() == pytest.approx(200_000, rel=1e-4)
    assert (np.abs(found - expected) < 5 * np.sqrt(expected) + 1).all()


def test_uniform_gives_all_items_alike():
    np.testing.assert_allclose(expected_counts(NegativeSampler({"uniform": 10}, COUNTS)), 2)


def test_log_uniform_falls_with_the_rank():
    counts = expected_counts(NegativeSampler({"log_uniform": 1}, COUNTS))
    assert counts.sum() == pytest.approx(1)
    np.testing.assert_allclose(counts[0], np.log(2) / np.log(6), rtol=1e-6)
    assert (np.diff(counts) < 0).all()


def test_frequency_follows_the_watches_and_leaves_nobody_out():
    counts = expected_counts(NegativeSampler({"frequency": 101}, COUNTS))
    np.testing.assert_allclose(counts, [60, 30, 9, 1, 1], rtol=1e-6)


def test_in_batch_draws_labels_and_expects_them_by_frequency():
    sampler = NegativeSampler({"in_batch": 50}, COUNTS)
    items, log_expected = sampler.sample(np.random.default_rng(0), labels=np.array([1, 3]))
    assert set(items) == {1, 3}
    np.testing.assert_allclose(np.exp(log_expected[items == 1]), 50 * 30 / 101, rtol=1e-6)
