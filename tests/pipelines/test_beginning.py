"""What a candidate net begins with, in a run as in a trial: an older net, item vectors, chance."""

from types import SimpleNamespace

import pytest

from pipelines import train_candidates, tune
from recsys.settings import CandidateSettings, RecsysSettings
from tests.pipelines.small_study import new_settings


def began(monkeypatch, directory, *, older, way):
    """Return what `begin` returns, and how item vectors were asked for."""
    asked = []
    monkeypatch.setattr(train_candidates, "warm_start", lambda model, log, number: older)
    monkeypatch.setattr(train_candidates, "training_labels", lambda log, settings: "labels")
    monkeypatch.setattr(
        train_candidates, "begin_items", lambda *given, seed: asked.append((*given, seed))
    )
    model = SimpleNamespace(settings=CandidateSettings(initial_items=way), seed=4)
    until = train_candidates.begin(model, "log", directory)
    return until, [(given[0] is model, *given[1:]) for given in asked]


def test_item_vectors_are_for_a_net_without_an_older_run(monkeypatch, tmp_path):
    expected = [(True, "labels", tmp_path, 4)]
    assert began(monkeypatch, tmp_path, older=None, way="skip_gram") == (None, expected)
    assert began(monkeypatch, tmp_path, older=9, way="skip_gram") == (9, [])
    assert began(monkeypatch, tmp_path, older=None, way="random") == (None, [])


@pytest.mark.parametrize("older", [None, 9])
def test_trials_begin_as_runs_do(monkeypatch, tmp_path, older):
    settings: RecsysSettings = new_settings()
    steps = []

    def trained(model, log, directory, *, seed, learned_until, after_epoch):
        steps.append(("train", model, directory, seed, learned_until))

    def begun(model, log, directory):
        steps.append(("begin", model, directory))
        return older

    monkeypatch.setattr(tune, "load_prepared", lambda prepared: "log")
    monkeypatch.setattr(train_candidates, "new_model", lambda log, settings, seed: "net")
    monkeypatch.setattr(train_candidates, "begin", begun)
    monkeypatch.setattr(train_candidates, "train_model", trained)
    tune.train_stage(tmp_path, settings, tmp_path, print)
    assert steps == [("begin", "net", tmp_path), ("train", "net", tmp_path, 5, older)]
