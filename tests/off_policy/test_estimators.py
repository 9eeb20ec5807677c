import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.off_policy.estimators import (
    choose_limit,
    clipped_ips,
    direct_method,
    doubly_robust,
    ips,
    shrunk_doubly_robust,
    snips,
    switch_doubly_robust,
)
from tests.off_policy.exact_logs import LOGGING, MODEL, REWARD, TARGET, VALUE, exact_log

LOG = exact_log()
OF_MODEL = (LOG.weights, LOG.rewards, LOG.predicted, LOG.expected)
WEIGHTS = TARGET / LOGGING


def expectation(weights, *, model):
    """E over the log of a corrected model: sum over contexts and items of mu (v + w (r - q))."""
    correction = (LOGGING * weights * (REWARD - model)).sum(axis=1)
    return float(((TARGET * model).sum(axis=1) + correction).mean())


def test_unbiased_estimators_make_no_error_on_an_exact_log():
    for terms in (ips(LOG.weights, LOG.rewards), snips(LOG.weights, LOG.rewards)):
        assert terms.value == pytest.approx(VALUE, abs=1e-12)
    assert doubly_robust(*OF_MODEL).value == pytest.approx(VALUE, abs=1e-12)


def test_direct_method_says_what_the_model_says():
    assert direct_method(LOG.expected).value == pytest.approx((TARGET * MODEL).sum() / 2)


@pytest.mark.parametrize("limit", [1.0, 2.9, 6.0])
def test_clipping_loses_what_lies_above_the_limit(limit):
    expected = (LOGGING * np.minimum(WEIGHTS, limit) * REWARD).sum() / 2
    assert clipped_ips(LOG.weights, LOG.rewards, limit=limit).value == pytest.approx(expected)


@pytest.mark.parametrize("limit", [0.0, 1.0, 3.5, 6.0])
def test_switch_trusts_the_model_above_the_limit(limit):
    expected = expectation(np.where(limit >= WEIGHTS, WEIGHTS, 0), model=MODEL)
    found = switch_doubly_robust(*OF_MODEL, limit=limit).value
    assert found == pytest.approx(expected, abs=1e-12)


def test_switch_keeps_a_weight_equal_to_its_limit():
    one = np.ones(1)
    assert switch_doubly_robust(one * 4, one * 2, one, one, limit=4.0).value == 1 + 4 * (2 - 1)


@pytest.mark.parametrize("shrinkage", [0.5, 3.0, 1e3])
def test_shrinkage_weighs_by_its_equation(shrinkage):
    shrunk = shrinkage * WEIGHTS / (WEIGHTS**2 + shrinkage)
    found = shrunk_doubly_robust(*OF_MODEL, shrinkage=shrinkage).value
    assert found == pytest.approx(expectation(shrunk, model=MODEL), abs=1e-12)


def test_shrinkage_runs_from_the_direct_method_to_doubly_robust():
    ends = [shrunk_doubly_robust(*OF_MODEL, shrinkage=s).value for s in (0.0, float("inf"))]
    assert ends[0] == direct_method(LOG.expected).value
    assert ends[1] == doubly_robust(*OF_MODEL).value
    assert shrunk_doubly_robust(*OF_MODEL, shrinkage=1e12).value == pytest.approx(ends[1])


def test_hand_worked_rows():
    weights, rewards = np.array([2.0, 0.0, 1.0]), np.array([3.0, 9.0, 6.0])
    assert ips(weights, rewards).value == 4.0
    assert snips(weights, rewards).value == 4.0
    assert clipped_ips(weights, rewards, limit=1.0).value == 3.0
    predicted, expected = np.array([1.0, 1.0, 2.0]), np.array([1.0, 2.0, 3.0])
    assert doubly_robust(weights, rewards, predicted, expected).value == pytest.approx(14 / 3)


def test_self_normalised_estimate_of_no_weight_is_unknown():
    assert np.isnan(snips(np.zeros(2), np.ones(2)).value)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.floats(-50, 50), st.integers(0, 10_000))
def test_shifted_rewards_shift_self_normalised_and_corrected_estimates(number, shift, seed):
    # IPS itself does not shift by it: what it lacks of a mean weight of 1, it lacks of the shift.
    rng = np.random.default_rng(seed)
    weights, rewards, predicted, expected = rng.gamma(1.0, size=(4, number))
    before = snips(weights, rewards).value
    assert snips(weights, rewards + shift).value == pytest.approx(before + shift, abs=1e-9)
    before = doubly_robust(weights, rewards, predicted, expected).value
    after = doubly_robust(weights, rewards + shift, predicted + shift, expected + shift).value
    assert after == pytest.approx(before + shift, abs=1e-9)


def test_perfect_model_leaves_no_variance_to_the_weights():
    mean = TARGET @ REWARD.T
    terms = doubly_robust(LOG.weights, LOG.rewards, LOG.rewards, np.diag(mean)[LOG.context])
    for context in (0, 1):
        assert np.ptp(terms.above[LOG.context == context]) == 0


def test_limit_is_loose_where_bias_costs_more_and_tight_where_variance_does():
    rng = np.random.default_rng(0)
    users = np.arange(4000)

    def chosen(weights, rewards):
        def clipped(limit):
            return clipped_ips(weights, rewards, limit=limit)

        return choose_limit(clipped, ips(weights, rewards), (1.0, 4.0, np.inf), users)

    light = rng.choice([0.5, 1.5], 4000)
    assert chosen(light, light + 0.01 * rng.random(4000)) == 4.0  # Nothing is cut: first of equals.
    # Four heavy rows, whose rewards cancel: cutting them costs no bias.
    rare = np.where(users < 4, 300.0, 0.7)
    assert chosen(rare, np.where(users < 4, (-1.0) ** users, 1.0)) == 1.0
