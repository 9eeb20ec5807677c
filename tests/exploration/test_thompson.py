import math

import numpy as np
import pytest

from recsys.exploration.thompson import (
    expected_seconds,
    interval,
    placement_propensities,
    thompson_scores,
)

MEAN = np.array([2.0, 1.5, 1.9, 0.2])
DEVIATION = np.array([0.3, 1.0, 0.5, 0.1])


def test_scores_have_the_given_mean_and_deviation():
    scores = thompson_scores(
        np.tile(MEAN, (20_000, 1)), np.tile(DEVIATION, (20_000, 1)), rng=np.random.default_rng(0)
    )
    np.testing.assert_allclose(scores.mean(axis=0), MEAN, atol=0.03)
    np.testing.assert_allclose(scores.std(axis=0), DEVIATION, rtol=0.03)


def test_scores_are_those_of_the_generator():
    first, again = (thompson_scores(MEAN, DEVIATION, rng=np.random.default_rng(5)) for _ in "12")
    np.testing.assert_array_equal(first, again)


def test_scores_without_deviation_are_the_means():
    scores = thompson_scores(MEAN, np.zeros(4), rng=np.random.default_rng(0))
    np.testing.assert_array_equal(scores, MEAN)


def test_first_of_two_follows_the_closed_form():
    mean, deviation = np.array([1.0, 1.4]), np.array([0.5, 0.8])
    found = placement_propensities(
        mean, deviation, 1, num_draws=40_000, rng=np.random.default_rng(1)
    )
    z = (mean[0] - mean[1]) / math.hypot(*deviation)
    probability = 0.5 * (1 + math.erf(z / math.sqrt(2)))
    assert abs(found.probability[0] - probability) < 3 * found.standard_error[0]
    exact = math.sqrt(probability * (1 - probability) / 40_000)
    np.testing.assert_allclose(found.standard_error, exact, rtol=0.02)


@pytest.mark.parametrize("num_places", [1, 2, 3])
def test_propensities_sum_to_the_places(num_places):
    found = placement_propensities(
        MEAN, DEVIATION, num_places, num_draws=501, rng=np.random.default_rng(0)
    )
    np.testing.assert_allclose(found.probability.sum(), num_places)


@pytest.mark.parametrize("num_places", [4, 9])
def test_as_many_places_as_candidates_are_certain(num_places):
    found = placement_propensities(
        MEAN, DEVIATION, num_places, num_draws=50, rng=np.random.default_rng(0)
    )
    np.testing.assert_array_equal(found.probability, 1)
    assert (found.standard_error > 0).all()


def test_draws_are_the_same_however_many_are_held_at_once(monkeypatch):
    whole = placement_propensities(MEAN, DEVIATION, 2, num_draws=100, rng=np.random.default_rng(3))
    monkeypatch.setattr("recsys.exploration.thompson.MAX_VALUES", 28)
    parts = placement_propensities(MEAN, DEVIATION, 2, num_draws=100, rng=np.random.default_rng(3))
    np.testing.assert_array_equal(whole.probability, parts.probability)


def test_no_candidates_have_no_propensities():
    found = placement_propensities(
        np.zeros(0), np.zeros(0), 1, num_draws=3, rng=np.random.default_rng(0)
    )
    assert found.probability.shape == (0,)


@pytest.mark.parametrize(("num_places", "num_draws"), [(0, 10), (1, 0)])
def test_no_places_or_draws_are_refused(num_places, num_draws):
    with pytest.raises(ValueError, match="at least one place and one draw"):
        placement_propensities(
            MEAN, DEVIATION, num_places, num_draws=num_draws, rng=np.random.default_rng(0)
        )


def test_expected_seconds_are_the_mean_of_draws():
    draws = np.expm1(2.0 + 0.5 * np.random.default_rng(0).standard_normal(400_000))
    found = expected_seconds(np.array([2.0]), np.array([0.5]))
    np.testing.assert_allclose(found, draws.mean(), rtol=0.005)


def test_expected_seconds_are_never_negative():
    assert expected_seconds(np.array([-3.0]), np.array([0.1]))[0] == 0


def test_interval_is_between_the_quantiles():
    low, high = interval(np.array([2.0]), np.array([0.5]), 0.8)
    np.testing.assert_allclose(low, math.exp(2 - 1.2815516 * 0.5) - 1)
    np.testing.assert_allclose(high, math.exp(2 + 1.2815516 * 0.5) - 1)


def test_interval_begins_at_zero_seconds():
    low, high = interval(np.array([0.1]), np.array([1.0]), 0.8)
    assert low[0] == 0
    assert high[0] > 0


@pytest.mark.parametrize("share", [0.0, 1.0, 80.0])
def test_share_that_is_none_is_refused(share):
    with pytest.raises(ValueError, match="between 0 and 1"):
        interval(MEAN, DEVIATION, share)
