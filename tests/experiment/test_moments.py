import numpy as np
import pytest

from recsys.errors import ComparisonError
from recsys.experiment.moments import Moments, columns_of


def test_columns_without_a_past_are_those_of_a_mean():
    assert columns_of(np.array([5.0, 7.0])).tolist() == [[5, 1, 0, 1], [7, 1, 0, 1]]


def test_columns_of_a_ratio_keep_their_order():
    columns = columns_of(*np.array([[1.0]]), per=[2.0], before=[3.0], per_before=[4.0])
    assert columns.tolist() == [[1, 2, 3, 4]]


@pytest.mark.parametrize("half", [{"per": np.ones(2)}, {"per_before": np.ones(2)}])
def test_ratio_with_half_a_past_is_refused(half):
    with pytest.raises(ValueError, match="per and per_before"):
        columns_of(np.ones(2), before=np.ones(2), **half)


def test_moments_of_hand_worked_users():
    moments = Moments.of(columns_of(np.array([1.0, 3.0]), per=np.array([2.0, 6.0])))
    assert moments.mean.tolist() == [2, 4, 0, 1]
    assert moments.covariance[:2, :2].tolist() == [[2, 4], [4, 8]]


def test_arm_of_one_user_is_refused():
    with pytest.raises(ComparisonError, match="two users or more.*got 1"):
        Moments.of(columns_of(np.ones(1)))


@pytest.mark.parametrize(
    ("empty", "when"), [("per", "in the test"), ("per_before", "before the test")]
)
def test_ratio_of_nothing_is_refused(empty, when):
    ones = dict.fromkeys(["per", "before", "per_before"], np.ones(3))
    with pytest.raises(ComparisonError, match=f"but {when} an arm has a sum of 0"):
        Moments.of(columns_of(np.ones(3), **{**ones, empty: np.zeros(3)}))
