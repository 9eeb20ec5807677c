import numpy as np
import pytest
from scipy.stats import chi2

from recsys.exploration.plackett_luce import plackett_luce_order, plackett_luce_propensities
from tests.exploration.orders import chi_squares

SCORE = np.array([3.0, 1.0, 2.5, 0.0], np.float32)


def draw(score, temperature, seed=0):
    return plackett_luce_order(score, temperature, rng=np.random.default_rng(seed))


def test_propensities_of_a_hand_worked_order():
    # Weights e^(s / t) are 4, 2, 1 and 1; drawn: the second, the first, the last, the third.
    score = np.log([4.0, 2.0, 1.0, 1.0]) * 5
    found = plackett_luce_propensities(score, 5.0, np.array([1, 0, 3, 2]))
    np.testing.assert_allclose(found, [2 / 8, 4 / 6, 1 / 2, 1], rtol=1e-12)


def test_propensities_are_how_often_orders_come():
    rng = np.random.default_rng(7)
    orders = np.array([plackett_luce_order(SCORE, 1.5, rng=rng) for _ in range(20_000)])
    found = chi_squares(orders, lambda order: plackett_luce_propensities(SCORE, 1.5, order))
    assert len(found) > 12
    statistic, freedom = np.sum(list(found.values()), axis=0)
    assert 0.001 < chi2.sf(statistic, freedom) < 0.999


def test_no_temperature_is_the_order_of_the_scores():
    order = draw(SCORE, 1e-6)
    np.testing.assert_array_equal(order, [0, 2, 1, 3])
    np.testing.assert_allclose(plackett_luce_propensities(SCORE, 1e-6, order), 1)


def test_huge_temperature_is_any_order():
    orders = np.array([draw(SCORE, 1e9, seed) for seed in range(4000)])
    firsts = np.bincount(orders[:, 0], minlength=4)
    assert chi2.sf(np.square(firsts - 1000).sum() / 1000, 3) > 0.001
    found = plackett_luce_propensities(SCORE, 1e9, orders[0])
    np.testing.assert_allclose(found, [1 / 4, 1 / 3, 1 / 2, 1], rtol=1e-6)


def test_far_apart_scores_are_no_trouble():
    score = np.array([1e6, -1e6, 0.0])
    order = np.array([2, 0, 1])
    np.testing.assert_array_equal(plackett_luce_propensities(score, 1e-3, order), [0, 1, 1])
    np.testing.assert_array_equal(draw(score, 1e-3), [0, 2, 1])


def test_same_generator_gives_the_same_order():
    np.testing.assert_array_equal(draw(SCORE, 3.0, 5), draw(SCORE, 3.0, 5))
    assert len({tuple(draw(SCORE, 3.0, seed)) for seed in range(20)}) > 3


@pytest.mark.parametrize("number", [0, 1])
def test_few_candidates_are_ordered(number):
    order = draw(SCORE[:number], 1.0)
    np.testing.assert_array_equal(order, np.arange(number))
    np.testing.assert_array_equal(
        plackett_luce_propensities(SCORE[:number], 1.0, order), np.ones(number)
    )
