import math

import numpy as np
import pytest
from scipy.stats import chi2

from recsys.exploration.thompson import (
    expected_seconds,
    interval,
    thompson_propensities,
    thompson_scores,
)
from tests.exploration.orders import chi_squares

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


def normal_cdf(z):
    return 0.5 * (1 + math.erf(z / math.sqrt(2)))


@pytest.mark.parametrize("gap", [-3.0, -0.4, 0.0, 1.5])
def test_first_of_two_follows_the_closed_form(gap):
    mean, deviation = np.array([1.0 + gap, 1.0]), np.array([0.5, 0.8])
    exact = normal_cdf(gap / math.hypot(*deviation))
    found = thompson_propensities(mean, deviation, np.array([0, 1]))
    np.testing.assert_allclose(found, [exact, 1], rtol=1e-3)
    found = thompson_propensities(mean, deviation, np.array([1]))
    np.testing.assert_allclose(found, [1 - exact], rtol=1e-3)


@pytest.mark.parametrize("number", [1, 7, 300])
def test_like_candidates_are_each_as_likely_as_what_is_left(number):
    order = np.random.default_rng(0).permutation(number)[:100]
    found = thompson_propensities(np.full(number, 2.0), np.full(number, 0.7), order)
    np.testing.assert_allclose(found, 1 / (number - np.arange(len(order))), rtol=1e-3)


def test_propensities_are_how_often_orders_come():
    mean, deviation = np.array([2.0, 1.5, 1.9, 1.2]), np.array([0.5, 1.0, 0.4, 1.2])
    drawn = thompson_scores(
        np.tile(mean, (20_000, 1)), np.tile(deviation, (20_000, 1)), rng=np.random.default_rng(7)
    )
    orders = np.argsort(-drawn, axis=1)
    found = chi_squares(orders, lambda order: thompson_propensities(mean, deviation, order))
    assert len(found) > 12
    statistic, freedom = np.sum(list(found.values()), axis=0)
    assert 0.001 < chi2.sf(statistic, freedom) < 0.999


def test_propensities_of_all_that_may_come_next_sum_to_one():
    rng = np.random.default_rng(3)
    mean, deviation = rng.normal(2, 1, 40), rng.uniform(0.1, 2, 40)
    order = np.argsort(-thompson_scores(mean, deviation, rng=rng))
    for place in (0, 5, 30):
        following = [
            thompson_propensities(mean, deviation, np.append(order[:place], candidate))[-1]
            for candidate in order[place:]
        ]
        np.testing.assert_allclose(sum(following), 1, rtol=2e-3)


def test_finer_integrals_say_the_same(monkeypatch):
    rng = np.random.default_rng(3)
    mean, deviation = rng.normal(2, 1, 200), 0.1 * np.exp(rng.uniform(0, 3, 200))
    order = np.argsort(-thompson_scores(mean, deviation, rng=rng))[:80]
    found = thompson_propensities(mean, deviation, order)
    monkeypatch.setattr("recsys.exploration.thompson.NUM_CELLS", 8192)
    np.testing.assert_allclose(found, thompson_propensities(mean, deviation, order), rtol=3e-3)


def test_sure_candidates_are_where_their_means_put_them():
    found = thompson_propensities(MEAN, np.full(4, 1e-3), np.argsort(-MEAN))
    np.testing.assert_allclose(found, 1, rtol=1e-3)


def test_no_place_has_no_propensity():
    assert thompson_propensities(MEAN, DEVIATION, np.zeros(0, int)).shape == (0,)


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
