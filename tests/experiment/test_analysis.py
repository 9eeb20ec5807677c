import numpy as np
import pytest

from recsys.errors import ComparisonError
from recsys.experiment.analysis import Assignment, MetricRows, analyse, metric_columns
from recsys.experiment.assignment import Split
from recsys.experiment.effect import compare
from recsys.experiment.moments import Moments, columns_of

HALVES = {"control": 0.5, "treatment": 0.5}


def test_assignment_has_each_user_once():
    found = Assignment.of(np.array([7, 3, 7, 9]), np.array(["t", "c", "t", "c"]))
    assert found.users.tolist() == [3, 7, 9]
    assert found.arms.tolist() == ["c", "t", "c"]
    assert found.counts() == {"c": 2, "t": 1}


def test_user_in_two_arms_is_refused_by_name():
    with pytest.raises(ComparisonError, match="1 of 2 are in several, first user 7 with t and c"):
        Assignment.of(np.array([7, 3, 7]), np.array(["t", "c", "c"]))


def test_rows_are_summed_by_user_and_those_of_others_do_not_count():
    users = np.array(["a", "b", "c"])
    rows = MetricRows(np.array(["c", "a", "z", "c", "0"]), np.array([1.0, 2, 4, 8, 16]), np.ones(5))
    before = MetricRows(np.array(["b", "b"]), np.array([5.0, 6.0]), np.array([1.0, 3.0]))
    columns = metric_columns(users, rows, before)
    assert columns.tolist() == [[2, 1, 0, 0], [0, 0, 11, 4], [9, 2, 0, 0]]


def test_users_without_rows_count_with_nothing():
    columns = metric_columns(np.array([1, 2, 3]), MetricRows(np.array([2]), np.array([6.0])))
    assert columns[:, 0].mean() == 2


def simulated_log(*, lift, num_users=4000, seed=0):
    """A test as a site would run it: assigned by hash, rows in any order, users with a taste."""
    rng = np.random.default_rng(seed)
    split = Split(f"salt-{seed}", HALVES)
    users = np.array([f"u{number}" for number in range(num_users)])
    arms = np.array(split.arms)[split.arms_of(users)]
    taste = rng.gamma(2.0, size=num_users)

    def rows(factor):
        owner = rng.permutation(np.repeat(np.arange(num_users), rng.poisson(3, num_users)))
        seconds = taste[owner] * factor[owner] * rng.gamma(2.0, size=len(owner))
        return MetricRows(users[owner], seconds)

    return (
        Assignment.of(users, arms),
        rows(np.where(arms == "treatment", 1 + lift, 1.0)),
        rows(np.ones(num_users)),
    )


def test_effect_is_found_and_cuped_narrows_it():
    assignment, rows, before = simulated_log(lift=0.2)
    names = {"treatment": "treatment", "control": "control"}
    plain = analyse(assignment, HALVES, rows, **names)
    adjusted = analyse(assignment, HALVES, rows, before, **names)
    for found in (plain, adjusted):
        assert found.effect.lift_low < 0.2 < found.effect.lift_high
        assert found.effect.low > 0
        assert sum(found.num_users.values()) == 4000
    assert adjusted.effect.standard_error < 0.95 * plain.effect.standard_error


def test_analysis_is_the_comparison_of_its_arms():
    assignment, rows, _ = simulated_log(lift=0.0, num_users=200)
    found = analyse(assignment, HALVES, rows, treatment="control", control="treatment")
    sums = {user: rows.values[rows.users == user].sum() for user in assignment.users}
    arms = [
        Moments.of(columns_of(np.array([sums[u] for u in assignment.users[assignment.arms == a]])))
        for a in ("control", "treatment")
    ]
    expected = compare(*arms)
    assert found.effect.difference == pytest.approx(float(expected.difference))
    assert found.effect.p_value == pytest.approx(float(expected.p_value))


def test_lost_users_are_refused_before_anything_is_compared():
    assignment, rows, _ = simulated_log(lift=0.0)
    kept = (assignment.arms == "control") | (np.arange(4000) % 5 > 0)
    lossy = Assignment(assignment.users[kept], assignment.arms[kept])
    with pytest.raises(ComparisonError, match="sample ratio mismatch"):
        analyse(lossy, HALVES, rows, treatment="treatment", control="control")


def test_misspelled_arm_is_refused():
    assignment, rows, _ = simulated_log(lift=0.0, num_users=200)
    with pytest.raises(ComparisonError, match="names of the arms"):
        analyse(assignment, HALVES, rows, treatment="treatmnt", control="control")
