import numpy as np
import pytest

from recsys.errors import ComparisonError
from recsys.off_policy.estimators import ips
from recsys.off_policy.weights import (
    check_overlap,
    check_support,
    importance_weights,
    marginal_weights,
    measure_overlap,
)
from tests.off_policy.exact_logs import LOGGING, TARGET, exact_log


def test_weight_is_target_over_logging():
    found = importance_weights(np.array([0.2, 0.0]), np.array([0.1, 0.5], np.float32))
    np.testing.assert_allclose(found, [2, 0], rtol=1e-7)


@pytest.mark.parametrize("logging", [None, np.array([]), np.full(3, np.nan)])
def test_log_without_propensities_is_refused(logging):
    with pytest.raises(ComparisonError, match="the log has none; log it"):
        importance_weights(np.ones(3), logging)


@pytest.mark.parametrize("bad", [0.0, -0.1, 1.5, np.nan])
def test_propensity_that_is_no_probability_is_refused_by_row(bad):
    with pytest.raises(ComparisonError, match="propensity of row 1.*1 of 3"):
        importance_weights(np.ones(3), np.array([0.5, bad, 1.0]))


@pytest.mark.parametrize("bad", [-0.1, 1.5, np.nan])
def test_target_that_is_no_probability_is_refused(bad):
    with pytest.raises(ComparisonError, match="target probability of row 2"):
        importance_weights(np.array([0.0, 1.0, bad]), np.ones(3))


def test_other_shape_is_refused():
    with pytest.raises(ValueError, match=r"\[2\] and \[3\]"):
        importance_weights(np.ones(2), np.ones(3))


def test_effective_rows_of_hand_worked_weights():
    overlap = measure_overlap(np.array([3.0, 1.0, 0.0, 0.0]), np.arange(4))
    assert overlap.effective_rows == 16 / 10
    assert overlap.matched_share == 0.5
    assert overlap.mean_weight == 1
    assert overlap.largest_share == 0.75
    # Parts 2, 0, -1, -1: sqrt(4 / 3 . 6) / 4
    assert overlap.mean_weight_error == pytest.approx(np.sqrt(8) / 4)


def test_equal_weights_count_every_row():
    assert measure_overlap(np.ones(50), np.arange(50)).effective_rows == pytest.approx(50)


def log_and_target(logging, target, *, number=20_000, seed=0):
    """Weights of rows drawn by one policy of few items, seen by another."""
    items = np.random.default_rng(seed).choice(len(logging), number, p=logging)
    return importance_weights(np.array(target)[items], np.array(logging)[items])


def test_overlapping_policies_pass():
    weights = log_and_target([0.5, 0.3, 0.2], [0.1, 0.1, 0.8])
    overlap = check_overlap(weights, np.arange(len(weights)))
    assert overlap.mean_weight == pytest.approx(1, abs=0.05)
    # E[w]^2 / E[w^2] of the rows
    share = 1 / (0.1**2 / 0.5 + 0.1**2 / 0.3 + 0.8**2 / 0.2)
    assert overlap.effective_rows / overlap.num_rows == pytest.approx(share, rel=0.05)


def test_target_outside_of_what_is_logged_is_refused():
    weights = log_and_target([0.5, 0.5, 0.0], [0.4, 0.4, 0.2])
    with pytest.raises(ComparisonError, match=r"mean weight of 1, got 0\.8.*never shows"):
        check_overlap(weights, np.arange(len(weights)))


def test_propensities_of_something_else_are_refused():
    weights = log_and_target([0.5, 0.5], [0.5, 0.5])
    with pytest.raises(ComparisonError, match=r"got 8\.0.*too small"):
        check_overlap(8 * weights * np.linspace(0.99, 1.01, len(weights)), np.arange(len(weights)))


def test_target_that_the_log_hardly_shows_is_refused():
    weights = log_and_target([0.999, 0.001], [0.0, 1.0])
    with pytest.raises(ComparisonError, match="at least 100 effective rows, got"):
        check_overlap(weights, np.arange(len(weights)))
    assert check_overlap(weights, np.arange(len(weights)), min_effective_rows=5).num_rows == 20_000


def test_float32_propensities_of_a_policy_compared_with_itself_pass():
    share = np.full(1000, 1 / 3)
    check_overlap(importance_weights(share, share.astype(np.float32)), np.arange(1000))


def test_unsupported_share_is_told_and_refused():
    logging, target = np.array([[0.5, 0.5, 0.0]]), np.array([[0.9, 0.095, 0.005]])
    assert check_support(target, logging) == pytest.approx(0.005)
    with pytest.raises(ComparisonError, match=r"at most 1\.0%.*got 30\.0%"):
        check_support(np.array([[0.7, 0.0, 0.3]]), logging)


def test_marginal_weights_of_hand_worked_categories():
    logging, target = np.array([[0.1, 0.6, 0.3]] * 2), np.array([[0.5, 0.1, 0.4]] * 2)
    # Items 0 and 2 are of category 7: (0.5 + 0.4) / (0.1 + 0.3).
    found = marginal_weights(target, logging, np.array([7, 3, 7]), np.array([2, 1]))
    np.testing.assert_allclose(found, [0.9 / 0.4, 0.1 / 0.6])


def test_marginal_weights_are_exact_and_lighter_where_rewards_follow_the_category():
    log = exact_log()
    category = np.array([4, 0, 4])
    reward = np.array([[2.0, 5.0, 2.0], [1.0, 3.0, 1.0]])
    rewards = reward[log.context, log.item]
    found = marginal_weights(TARGET[log.context], LOGGING[log.context], category, log.item)
    assert ips(found, rewards).value == pytest.approx((TARGET * reward).sum() / 2, abs=1e-12)
    assert found.var() < log.weights.var()


def test_marginal_weights_of_a_category_each_are_the_weights():
    log = exact_log()
    found = marginal_weights(
        TARGET[log.context], LOGGING[log.context], np.array([2, 0, 1]), log.item
    )
    np.testing.assert_allclose(found, log.weights)
