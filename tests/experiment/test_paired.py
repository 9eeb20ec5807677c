import numpy as np
import pytest
from scipy import stats

from recsys.experiment.paired import compare_paired_segments, compare_pairs

USERS = np.arange(400)


def pairs(first, second, users, **options):
    given = {"rounds": 400, "seed": 0} | options
    return compare_pairs({"m": first}, {"m": second}, users, **given)["m"]


def test_change_is_the_second_less_the_first():
    found = pairs(np.array([0.0, 1.0, 1.0]), np.array([1.0, 1.0, 1.0]), np.array([0, 0, 1]))
    assert (found.first, found.second) == (pytest.approx(2 / 3), 1)
    assert found.difference.value == pytest.approx(1 / 3)
    assert found.lift.value == pytest.approx(1 / 2)


def test_what_is_hard_for_both_cancels():
    rng = np.random.default_rng(0)
    hardness = rng.normal(size=400)
    first, second = hardness, hardness + 0.05 + 0.1 * rng.normal(size=400)
    found = pairs(first, second, USERS).difference
    assert 0.03 < found.low < 0.05 < found.high < 0.07
    # A reference for the mean of paired differences.
    test = stats.ttest_rel(second, first).confidence_interval(0.95)
    np.testing.assert_allclose([found.low, found.high], [test.low, test.high], atol=2e-3)


def test_a_query_of_nan_in_either_counts_in_neither():
    first, second = np.array([1.0, np.nan, 3.0]), np.array([2.0, 100.0, np.nan])
    found = pairs(first, second, np.arange(3))
    assert (found.first, found.second, found.difference.value) == (1, 2, 1)


def test_weights_weigh_both_sides():
    found = pairs(
        np.array([1.0, 0.0]), np.array([0.0, 1.0]), np.arange(2), weights=np.array([3, 1])
    )
    assert (found.first, found.second, found.difference.value) == (0.75, 0.25, -0.5)


def test_rows_of_one_user_are_no_more_than_a_user():
    rng = np.random.default_rng(1)
    change = rng.normal(size=50)
    once = pairs(np.zeros(50), change, np.arange(50)).difference
    often = pairs(np.zeros(1000), np.repeat(change, 20), np.repeat(np.arange(50), 20)).difference
    np.testing.assert_allclose([once.low, once.high], [often.low, often.high])


def test_equal_systems_have_intervals_of_nothing():
    values = np.random.default_rng(2).random(400)
    found = pairs(values, values, USERS)
    assert vars(found.difference) == {"value": 0, "low": 0, "high": 0}


def test_segments_compare_their_own_queries():
    first, second = np.zeros(4), np.array([1.0, 3.0, -2.0, -2.0])
    segments = {"a": np.array([1, 1, 0, 0], bool), "b": np.array([0, 0, 1, 1], bool)}
    found = compare_paired_segments(first, second, np.arange(4), segments)
    assert [each.difference.value for each in found.values()] == [2, -2]
    assert (found["a"].num_queries, found["a"].num_users) == (2, 2)
    # A one-sample t test of 1 and 3 against 0.
    reference = stats.ttest_1samp([1, 3], 0)
    assert found["a"].p_value == pytest.approx(reference.pvalue)
    interval = reference.confidence_interval(0.95)
    assert found["a"].difference.low == pytest.approx(interval.low)
    assert found["a"].difference.high == pytest.approx(interval.high)
    assert found["b"].p_value == 0  # both users differ by exactly as much


def test_users_of_a_segment_are_those_of_its_queries():
    change = np.array([1.0, 3.0, 2.0, -1.0, 4.0, 0.5])
    users = np.array([0, 0, 1, 2, 3, 4])
    own = np.array([1, 1, 1, 0, 0, 0], bool)
    found = compare_paired_segments(np.zeros(6), change, users, {"a": own, "b": ~own})
    assert (found["a"].num_users, found["b"].num_users) == (2, 3)
    # Users 0 and 1 are 4 over 2 queries and 2 over 1: both have the mean, nothing varies.
    assert found["a"].difference.low == pytest.approx(2)


def test_segments_where_nothing_differs_are_never_found():
    zeros = np.zeros(4)
    found = compare_paired_segments(zeros, zeros, np.arange(4), {"all": np.ones(4, bool)})
    assert (found["all"].p_value, found["all"].adjusted_p_value) == (1, 1)
    assert compare_paired_segments(zeros, zeros, np.arange(4), {}) == {}


def test_number_of_segments_is_corrected_for():
    rng = np.random.default_rng(3)
    change = rng.normal(size=4000)
    change[:200] += 1
    part = np.repeat(np.arange(20), 200)
    segments = {f"s{number}": part == number for number in range(20)}
    found = compare_paired_segments(np.zeros(4000), change, np.arange(4000), segments)
    assert found["s0"].adjusted_p_value < 1e-6
    raw = np.array([each.p_value for each in found.values()])
    # Step up by hand: p times their number over their rank, the least from the largest on.
    order = np.argsort(raw)
    stepped = raw[order] * 20 / np.arange(1, 21)
    expected = np.empty(20)
    expected[order] = np.minimum.accumulate(stepped[::-1])[::-1].clip(max=1)
    np.testing.assert_allclose([each.adjusted_p_value for each in found.values()], expected)


def test_without_an_effect_few_worlds_find_a_segment():
    rng = np.random.default_rng(4)
    part = np.repeat(np.arange(10), 40)
    segments = {f"s{number}": part == number for number in range(10)}
    found = []
    for _ in range(300):
        first, second = rng.random((2, 400))
        changes = compare_paired_segments(first, second, USERS, segments).values()
        found.append(min(each.adjusted_p_value for each in changes) < 0.05)
    # 5 % in the long run; four standard errors of 300 draws above.
    assert np.mean(found) < 0.05 + 4 * np.sqrt(0.05 * 0.95 / 300)
