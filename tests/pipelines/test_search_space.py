import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import ValidationError

from pipelines.config import override_settings
from pipelines.search_space import new_search_space
from recsys.errors import ConfigError
from recsys.settings import SearchRange
from tests.pipelines.small_study import new_settings


def distribution(name, searched):
    return new_search_space(new_settings({name: searched})).distributions[name]


def test_settings_decide_whether_a_number_is_whole():
    assert distribution("candidates.dropout", {"low": 0, "high": 0.5}) == FloatDistribution(0, 0.5)
    widths = distribution("candidates.embedding_width", {"low": 32, "high": 128, "step": 32})
    assert widths == IntDistribution(32, 128, step=32)
    counts = distribution("candidates.negatives.uniform", {"low": 64, "high": 512, "log": True})
    assert counts == IntDistribution(64, 512, log=True)


def test_choices_may_be_lists():
    space = new_search_space(new_settings({"candidates.tower": {"choices": [[256], [512, 256]]}}))
    assert isinstance(space.distributions["candidates.tower"], CategoricalDistribution)
    drawn = {"candidates.tower": space.distributions["candidates.tower"].choices[1]}
    assert space.settings_of(drawn).candidates.tower == (512, 256)
    assert space.values_of(drawn) == {"candidates.tower": [512, 256]}
    assert space.drawn_of_settings() == drawn


def test_what_is_drawn_changes_nothing_else():
    settings = new_settings()
    drawn = {"candidates.dropout": 0.25, "candidates.training.learning_rate": 0.5}
    candidates = new_search_space(settings).settings_of(drawn).candidates
    assert (candidates.dropout, candidates.training.learning_rate) == (0.25, 0.5)
    assert candidates.training.max_epochs == settings.candidates.training.max_epochs
    assert candidates.model_copy(update={"dropout": 0.0, "training": None}) == (
        settings.candidates.model_copy(update={"training": None})
    )


def test_names_without_quotes_are_the_same_space():
    quoted = new_settings({"candidates.dropout": {"low": 0, "high": 0.5}})
    nested = new_settings({"candidates": {"dropout": {"low": 0, "high": 0.5}}})
    assert nested.tune == quoted.tune


@pytest.mark.parametrize(
    ("name", "searched", "message"),
    [
        ("candidates.droput", {"low": 0, "high": 0.5}, "droput: unknown key.*'dropout'"),
        ("candidates.training.rate", {"low": 0, "high": 1}, "training.rate: unknown key"),
        ("candidates.dropout", {"low": 0, "high": 1}, "candidates.dropout: .*less than 1; got 1"),
        ("candidates.dropout", {"low": -0.1, "high": 0.5}, "greater than or equal to 0; got -0.1"),
        ("candidates.encoder", {"choices": ["bag", "gur"]}, "encoder: .*'gru'.*got 'gur'"),
        ("candidates.embedding_width", {"low": 8.5, "high": 16}, "valid integer.*got 8.5"),
        ("candidates.embedding_width", {"low": 8, "high": 9, "step": 0.5}, "a whole step"),
        ("candidates.context", {"choices": [["country"], []]}, "how the log is prepared"),
        ("ranking.dropout", {"low": 0, "high": 0.5}, "such as candidates.dropout.*tune.stage"),
        ("dropout", {"low": 0, "high": 0.5}, "such as candidates.dropout"),
    ],
)
def test_wrong_space_is_named_before_anything_is_trained(name, searched, message):
    with pytest.raises(ConfigError, match=f"(?s)tune.space.*{message}"):
        new_search_space(new_settings({name: searched}))


def test_settings_that_do_not_go_together_are_no_space():
    def space(*optimizers):
        return {
            "candidates.training.table_optimizer": {"choices": optimizers},
            "candidates.training.table_learning_rate": {"low": 0.01, "high": 0.1},
        }

    # Though the configuration as it stands, with `adam`, cannot have such a rate.
    assert new_search_space(new_settings(space("adagrad", "row_adagrad"))).distributions
    with pytest.raises(ConfigError, match="has no effect with table_optimizer = 'adam'"):
        new_search_space(new_settings(space("adagrad", "adam")))


def test_each_end_is_validated_beside_each_of_the_others(monkeypatch):
    seen = set()

    def note(settings, overrides, origin):
        changed = override_settings(settings, overrides, origin=origin)
        seen.add((changed.candidates.dropout, changed.candidates.embedding_width))
        return changed

    monkeypatch.setattr("pipelines.search_space.override_settings", note)
    searched = {
        "candidates.dropout": {"low": 0.1, "high": 0.5},
        "candidates.embedding_width": {"choices": [8, 16, 32]},
    }
    new_search_space(new_settings(searched))
    assert seen == {(dropout, width) for dropout in (0.1, 0.5) for width in (8, 16, 32)}


def test_metric_that_trials_are_compared_by_is_not_searched():
    space = {"ranking.validation_metric": {"choices": ["loss", "xauc"]}}
    with pytest.raises(ConfigError, match="what is measured"):
        new_search_space(new_settings(space, stage="ranking"))


def test_empty_space_shows_how_one_looks():
    settings = new_settings()
    empty = settings.model_copy(update={"tune": settings.tune.model_copy(update={"space": {}})})
    with pytest.raises(ConfigError, match="candidates.training.learning_rate.*low = 1e-4"):
        new_search_space(empty)


@pytest.mark.parametrize(
    ("searched", "message"),
    [
        ({}, "expected low and high"),
        ({"low": 1}, "expected low and high"),
        ({"low": 2, "high": 1}, "the smaller first"),
        ({"low": 0, "high": 1, "log": True}, "low > 0"),
        ({"low": 1, "high": 3, "log": True, "step": 1}, "no step"),
        ({"low": 0, "high": 1, "step": 0.3}, "whole number of steps"),
        ({"low": 0, "choices": [1]}, "choices alone"),
    ],
)
def test_range_says_what_it_expects(searched, message):
    with pytest.raises(ValidationError, match=message):
        SearchRange(**searched)
