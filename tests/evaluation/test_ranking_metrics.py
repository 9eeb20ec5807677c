import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau
from sklearn.metrics import mean_absolute_error, mean_squared_error, ndcg_score, roc_auc_score

from recsys.evaluation.ranking import (
    calibration_table,
    count_inversions,
    gauc,
    mae,
    rmse,
    seconds_ratio,
    user_aucs,
    user_ndcg,
    weighted_user_loss,
    xauc,
)

VALUES = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=2, max_size=40)


def slow_xauc(true, predicted):
    """Return right, wrong-by-truth-tie and all pairs, one by one."""
    right = tied = total = 0
    for i in range(len(true)):
        for j in range(i):
            total += 1
            if true[i] == true[j]:
                tied += 1
            elif predicted[i] == predicted[j]:
                right += 0.5
            else:
                right += (true[i] > true[j]) == (predicted[i] > predicted[j])
    return right, tied, total


@settings(max_examples=100, deadline=None)
@given(VALUES)
def test_xauc_equals_counting_every_pair(pairs):
    true, predicted = np.array(pairs, float).T
    right, tied, total = slow_xauc(true, predicted)
    ours = xauc(true, predicted)
    assert ours.ties_correct == pytest.approx((right + tied) / total, abs=1e-12)
    assert ours.ties_wrong == pytest.approx(right / total, abs=1e-12)
    assert ours.tied_share == tied / total
    if total > tied:
        assert ours.ties_dropped == pytest.approx(right / (total - tied), abs=1e-12)
    else:
        assert math.isnan(ours.ties_dropped)


def test_xauc_without_ties_is_kendalls_tau():
    rng = np.random.default_rng(0)
    true = rng.permutation(5000).astype(float)
    predicted = true + 2000 * rng.normal(size=5000)
    tau = kendalltau(true, predicted).statistic
    assert xauc(true, predicted).ties_dropped == pytest.approx((1 + tau) / 2, abs=1e-12)


def test_xauc_of_two_true_values_is_the_auc():
    rng = np.random.default_rng(1)
    true = rng.integers(0, 2, 3000).astype(float)
    predicted = np.round(true + rng.normal(size=3000), 1)
    assert xauc(true, predicted).ties_dropped == pytest.approx(
        roc_auc_score(true, predicted), abs=1e-12
    )


def test_xauc_of_one_row_is_unknown():
    assert math.isnan(xauc(np.ones(1), np.ones(1)).ties_correct)


def test_inversions_of_a_reversed_million_are_all_pairs():
    assert count_inversions(np.arange(1_000_000)[::-1]) == 1_000_000 * 999_999 // 2


@pytest.mark.parametrize("ranks, expected", [([], 0), ([0], 0), ([2, 0, 1, 0], 4), ([1, 1], 0)])
def test_inversions_hand_worked(ranks, expected):
    assert count_inversions(np.array(ranks, np.int64)) == expected


def test_gauc_equals_scikit_learn_within_users():
    rng = np.random.default_rng(2)
    users = rng.integers(0, 60, 1000)
    labels = rng.random(1000) < 0.3
    scores = np.round(rng.normal(size=1000) + labels, 1)
    total = weight = 0.0
    for user in np.unique(users):
        own = users == user
        if labels[own].any() and not labels[own].all():
            total += own.sum() * roc_auc_score(labels[own], scores[own])
            weight += own.sum()
    assert gauc(users, labels, scores) == pytest.approx(total / weight, abs=1e-12)


def test_gauc_leaves_out_users_of_one_class_and_weighs_by_impressions():
    users = np.array([5, 5, 8, 8, 8, 8, 9, 9])
    labels = np.array([1, 0, 1, 0, 0, 0, 1, 1], bool)
    scores = np.array([0.9, 0.1, 0.2, 0.3, 0.2, 0.1, 5, 6])
    values, weights = user_aucs(users, labels, scores)
    assert values.tolist() == [1.0, 0.5]
    assert weights.tolist() == [2, 4]
    assert gauc(users, labels, scores) == pytest.approx((2 * 1 + 4 * 0.5) / 6)


def test_gauc_of_no_mixed_user_is_unknown():
    assert math.isnan(gauc(np.array([1, 2]), np.array([True, False]), np.ones(2)))


@pytest.mark.parametrize("metric", [gauc, lambda u, y, s: weighted_user_loss(u, y, s, s)])
def test_labels_that_may_be_unknown_are_refused(metric):
    with pytest.raises(ValueError, match="bool labels"):
        metric(np.zeros(2, int), np.array([1, -1], np.int8), np.zeros(2))


def test_weighted_user_loss_hand_worked():
    pages = np.array([1, 1, 1, 2, 2, 3])
    labels = np.array([1, 0, 0, 1, 0, 1], bool)
    seconds = np.array([10.0, 0, 0, 30, 0, 99])
    scores = np.array([0.5, 0.7, 0.5, 0.1, 0.0, 0.9])
    # Page 1: one pair wrong, one tied, of 10 s each; page 2: one pair right, of 30 s.
    assert weighted_user_loss(pages, labels, seconds, scores) == pytest.approx(15 / 50)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.booleans(), st.integers(0, 5), st.integers(0, 3)),
        min_size=1,
        max_size=30,
    )
)
def test_weighted_user_loss_equals_counting_every_pair(rows):
    wrong = total = 0.0
    for page, label, seconds, score in rows:
        for other_page, other_label, _, other_score in rows:
            if label and not other_label and page == other_page:
                total += seconds
                wrong += seconds * ((other_score > score) + 0.5 * (other_score == score))
    pages, labels, seconds, scores = (np.array(column) for column in zip(*rows, strict=True))
    loss = weighted_user_loss(pages, labels, seconds.astype(float), scores)
    assert math.isnan(loss) if total == 0 else loss == pytest.approx(wrong / total)


def test_errors_equal_scikit_learn():
    rng = np.random.default_rng(3)
    true, predicted = rng.exponential(size=(2, 500))
    assert mae(true, predicted) == pytest.approx(mean_absolute_error(true, predicted), abs=1e-12)
    assert rmse(true, predicted) ** 2 == pytest.approx(
        mean_squared_error(true, predicted), abs=1e-12
    )


def test_seconds_ratio_is_predicted_over_true():
    assert seconds_ratio(np.array([1.0, 3.0]), np.array([2.0, 4.0])) == 1.5
    assert math.isnan(seconds_ratio(np.zeros(2), np.ones(2)))


def test_calibration_table_has_bins_of_equal_frequency():
    predicted = np.array([5.0, 1, 3, 2, 4, 6])
    table = calibration_table(10 * predicted, predicted, num_bins=3)
    assert table.predicted.tolist() == [1.5, 3.5, 5.5]
    assert table.true.tolist() == [15, 35, 55]
    assert table.counts.tolist() == [2, 2, 2]


def test_calibration_table_of_few_rows_has_fewer_bins():
    assert len(calibration_table(np.ones(3), np.ones(3)).counts) == 3
    assert len(calibration_table(np.ones(0), np.ones(0)).counts) == 0


def test_user_ndcg_by_hand():
    # User 1: gains 3, 1 ranked second and first; user 2 has one row, user 3 nothing to gain.
    users, gains = np.array([1, 1, 2, 3, 3]), np.array([3.0, 1.0, 5.0, 0.0, 0.0])
    found = user_ndcg(users, gains, np.array([0.1, 0.2, 0.0, 1.0, 2.0]), 10)
    second = 1 / math.log2(3)
    assert found == pytest.approx((1 + 3 * second) / (3 + second))
    # Cut after the first place.
    assert user_ndcg(users, gains, np.array([0.1, 0.2, 0.0, 1.0, 2.0]), 1) == pytest.approx(1 / 3)
    assert math.isnan(user_ndcg(users[2:], gains[2:], np.zeros(3), 10))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 12))
def test_user_ndcg_equals_scikit_learns(seed, k):
    rng = np.random.default_rng(seed)
    users, gains = rng.integers(0, 5, 40), rng.exponential(size=40)
    scores = rng.permutation(40).astype(float)
    own = [users == user for user in np.unique(users) if (users == user).sum() > 1]
    expected = np.mean([ndcg_score([gains[rows]], [scores[rows]], k=k) for rows in own])
    assert user_ndcg(users, gains, scores, k) == pytest.approx(expected, rel=1e-12)
