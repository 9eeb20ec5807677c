import pytest
from pydantic import ValidationError

from recsys.settings import RankingSettings

HEADS = ["expected", "median", "completion", "click", "like", "percentile", "curve"]


def ranking(**sections):
    return RankingSettings.model_validate(sections)


def weights(**heads):
    return {name: {"weight": weight} for name, weight in heads.items()}


def test_heads_that_are_on_keep_the_order_of_the_outputs():
    on = ranking(heads=weights(median=2.0, click=0.5, percentile=1.0)).heads.on()
    assert list(on) == ["expected", "median", "completion", "click", "percentile", "curve"]
    assert (on["median"].weight, on["click"].weight) == (2.0, 0.5)
    every = ranking(heads=weights(**dict.fromkeys(HEADS, 1.0)), like_column="liked")
    assert list(every.heads.on()) == HEADS


def test_net_without_settings_has_the_heads_that_are_served():
    assert list(ranking().heads.on()) == ["expected", "completion", "curve"]


@pytest.mark.parametrize("off", [("expected",), ("completion",), ("median", "curve")])
def test_heads_that_are_served_must_be_on(off):
    with pytest.raises(ValidationError, match="give these a weight above 0"):
        ranking(heads=weights(**dict.fromkeys(off, 0.0)))


@pytest.mark.parametrize(("median", "curve"), [(1.0, 0.0), (0.0, 1.0)])
def test_median_or_curve_is_enough(median, curve):
    on = ranking(heads=weights(median=median, curve=curve)).heads.on()
    assert ("median" in on, "curve" in on) == (median > 0, curve > 0)


@pytest.mark.parametrize(
    "head", [{"weight": -1.0}, {"dropout": 1.0}, {"dropout": -0.1}, {"depth": 3}]
)
def test_head_of_impossible_settings_is_refused(head):
    with pytest.raises(ValidationError, match="heads.expected"):
        ranking(heads={"expected": head})


def test_like_head_needs_the_column_of_its_labels():
    with pytest.raises(ValidationError, match="like_column does not name"):
        ranking(heads=weights(like=1.0))
    assert "like" in ranking(heads=weights(like=1.0), like_column="liked").heads.on()


def test_disabled_stage_asks_for_no_column():
    disabled = ranking(
        enabled=False,
        heads=weights(like=1.0),
        like_column="liked",
        bias_categorical=("position",),
        completion_column="done",
        user_categorical=("surface",),
        score_by_surface={"home": {"completion": 1.0}},
    )
    assert (disabled.like_column, disabled.completion_column) == (None, None)
    assert disabled.bias_categorical == ()


def test_formula_gives_the_weights_above_zero_by_value():
    score = ranking(
        heads=weights(like=1.0), like_column="liked", score={"like": 30.0, "completion": 2.0}
    ).score
    assert score.weights() == {"expected_seconds": 1.0, "completion": 2.0, "like": 30.0}


def test_score_is_of_expected_seconds_alone_unless_told_otherwise():
    assert ranking().score.weights() == {"expected_seconds": 1.0}


@pytest.mark.parametrize("value", ["click", "like", "percentile_seconds"])
def test_formula_of_a_head_that_is_off_is_refused(value):
    with pytest.raises(ValidationError, match="score: expected a weight above 0.*no other"):
        ranking(score={value: 1.0})


def test_formula_without_any_weight_is_refused():
    with pytest.raises(ValidationError, match="score: expected a weight above 0"):
        ranking(score={"expected_seconds": 0.0})


def test_formula_of_a_surface_is_checked_under_its_name():
    with pytest.raises(ValidationError, match="score_by_surface.home: expected"):
        ranking(user_categorical=("surface",), score_by_surface={"home": {"click": 1.0}})
    found = ranking(
        user_categorical=("surface",),
        score_by_surface={"home": {"completion": 1.0}},
        score={"completion": 5.0},
    )
    assert found.score_by_surface["home"].weights() == {"expected_seconds": 1.0, "completion": 1.0}


def test_formulas_of_surfaces_need_the_surface():
    with pytest.raises(ValidationError, match="needs 'surface' among user_categorical"):
        ranking(score_by_surface={"home": {"completion": 1.0}})


@pytest.mark.parametrize(("median", "curve"), [(1.0, 0.0), (0.0, 1.0)])
def test_median_may_be_scored_by_whichever_head_gives_it(median, curve):
    heads = weights(median=median, curve=curve)
    assert ranking(heads=heads, score={"median_seconds": 1.0}).score.median_seconds == 1


def test_smaller_is_better_but_for_ranks():
    larger = [
        ranking(validation_metric=metric).larger_is_better
        for metric in ("mae_seconds", "xauc", "gauc", "loss")
    ]
    assert larger == [False, True, True, False]
