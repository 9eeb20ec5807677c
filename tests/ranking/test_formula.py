import numpy as np
import pytest

from recsys.data.vocabulary import Vocabulary
from recsys.errors import ConfigError
from recsys.ranking.formula import Formula
from recsys.settings import RankingSettings

VALUES = {
    "expected_seconds": np.array([[10.0, 20.0], [10.0, 20.0]], np.float32),
    "completion": np.array([[0.5, 0.25], [0.5, 0.25]], np.float32),
    "click": np.array([[1.0, 0.5], [1.0, 0.5]], np.float32),
}
SURFACES = {"surface": Vocabulary.from_ids(["home", "search"])}
COMPLETIONS = {"expected_seconds": 0.0, "completion": 8.0}


def settings(**changes):
    return RankingSettings.model_validate({"user_categorical": ("device", "surface")} | changes)


def codes(*surface):
    return np.column_stack([np.ones(len(surface), np.int32), np.array(surface, np.int32)])


def test_score_is_expected_seconds_unless_said_otherwise():
    found = Formula(settings(), {}).scores(VALUES, codes(0, 1))
    np.testing.assert_array_equal(found, VALUES["expected_seconds"])


def test_score_is_the_weighted_sum():
    formula = Formula(settings(score={"expected_seconds": 0.5, "completion": 8.0}), {})
    np.testing.assert_array_equal(formula.scores(VALUES, codes(0, 0)), [[9.0, 12.0]] * 2)


def test_surface_has_its_own_formula_and_others_the_common_one():
    formula = Formula(settings(score_by_surface={"search": COMPLETIONS}), SURFACES)
    home, search = SURFACES["surface"].codes(["home", "search"])
    np.testing.assert_array_equal(
        formula.scores(VALUES, codes(search, home)), [[4.0, 2.0], [10.0, 20.0]]
    )
    np.testing.assert_array_equal(formula.scores(VALUES, codes(0, search))[0], [10.0, 20.0])


def test_unknown_surface_is_refused_with_those_there_are():
    with pytest.raises(ConfigError, match="no such surface; it has .*home"):
        Formula(settings(score_by_surface={"serach": COMPLETIONS}), SURFACES)


def test_surface_that_is_no_input_cannot_have_a_formula():
    with pytest.raises(ValueError, match="needs 'surface' among user_categorical"):
        RankingSettings.model_validate({"score_by_surface": {"search": COMPLETIONS}})


@pytest.mark.parametrize("score", [{"like": 3.0}, {"expected_seconds": 0.0}])
def test_formula_of_heads_that_are_off_or_of_none_is_refused(score):
    with pytest.raises(ValueError, match="at least one head that is on"):
        settings(score=score)
