import numpy as np
import pytest

from recsys.off_policy.cross_fitting import cross_fit


@pytest.mark.parametrize("num_folds", [2, 5])
def test_no_row_is_predicted_by_a_model_of_its_user(num_folds):
    users = np.random.default_rng(0).integers(0, 20, 200)

    def fit_and_predict(learned, held):
        assert not set(users[learned]) & set(users[held])
        assert len(learned) + len(held) == len(users)
        return held * 10

    found = cross_fit(fit_and_predict, users, num_folds=num_folds, seed=0)
    assert found.tolist() == (np.arange(200) * 10).tolist()


def test_predictions_may_have_columns():
    found = cross_fit(lambda _, held: np.stack([held, -held], axis=1), np.arange(6), seed=1)
    assert found.tolist() == [[row, -row] for row in range(6)]


def test_folds_are_of_about_equal_numbers_of_users():
    sizes = []
    cross_fit(lambda _, held: sizes.append(len(held)) or held, np.arange(101), num_folds=4, seed=0)
    assert sorted(sizes) == [25, 25, 25, 26]


@pytest.mark.parametrize("num_folds", [1, 4])
def test_impossible_folds_are_refused(num_folds):
    with pytest.raises(ValueError, match=f"got {num_folds} folds and 3 users"):
        cross_fit(lambda _, held: held, np.array([1, 1, 2, 3]), num_folds=num_folds, seed=0)
