"""`recsys tune` from the command line, on both stages, once each."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import pipelines
from pipelines.cli import app
from pipelines.config import load_settings
from pipelines.environment import shared_cores
from recsys.errors import ConfigError

CONFIG = Path(__file__).parents[1] / "tiny.toml"


def tune(out, *arguments):
    command = ["tune", "--config", str(CONFIG), "--out", str(out), *arguments]
    done = CliRunner().invoke(app, command)
    if done.exception:
        raise done.exception
    return json.loads(done.stdout.splitlines()[-1])


def sets(*overrides):
    return [f"--set={override}" for override in overrides]


@pytest.fixture(scope="module")
def prepared(tiny_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("tune")
    shutil.copytree(tiny_run / "prepared", out / "prepared")
    return out


@pytest.fixture(scope="module")
def tuned(prepared):
    arguments = sets(
        "candidates.training.max_epochs=1",
        "tune.space.candidates.training.learning_rate={low=1e-3, high=1e-2, log=true}",
        "tune.space.candidates.tower={choices=[[32], [16]]}",
    )
    return prepared, tune(prepared, *arguments, "--trials", "2", "--json")


def test_tune_candidates_writes_a_config_that_runs(tuned):
    out, found = tuned
    assert found["trials"] == {"complete": 2}
    best = load_settings(Path(found["config"]))
    assert best == load_settings(CONFIG, ["candidates.training.max_epochs=1", *overrides(found)])


def overrides(found):
    return found["best"]["overrides"]


def test_tune_writes_trials_and_report(tuned):
    out, found = tuned
    trials = json.loads((out / "tune" / "trials.json").read_text())
    assert [trial["is_baseline"] for trial in trials] == [True, False]
    assert trials[0]["settings"] == {
        "candidates.training.learning_rate": 5e-3,
        "candidates.tower": [32],
    }
    values = [trial["ndcg@10"] for trial in trials]
    assert found["best"]["ndcg@10"] == max(values)
    assert [trial["epochs"] for trial in trials] == [[value] for value in values]
    curves = json.loads((out / "tune" / trials[1]["directory"] / "curves.json").read_text())
    assert curves["epochs"][0]["metrics"]["ndcg@10"] == values[1]
    assert (out / "tune" / "report.html").read_text().startswith("<!")


def test_tune_leaves_no_checkpoint_and_no_net(tuned):
    assert list((tuned[0] / "tune").rglob("*.npz")) == []
    assert not (tuned[0] / "candidates").exists()


def test_tune_ranking_by_its_metric(prepared, tmp_path):
    shutil.copytree(prepared / "prepared", tmp_path / "prepared")
    arguments = sets(
        "tune.stage=ranking",
        "ranking.training.max_epochs=1",
        "ranking.validation_metric=mae_seconds",
        "tune.space.ranking.dropout={low=0, high=0.5}",
    )
    found = tune(tmp_path, *arguments, "--trials", "1", "--json")
    assert found["best"]["mae_seconds"] > 0
    assert overrides(found) == ["ranking.dropout=0.0"]
    assert list((tmp_path / "tune" / "trials").rglob("unfinished")) == []


def test_wrong_space_is_named_before_the_log_is_prepared(tmp_path):
    with pytest.raises(ConfigError, match="'dropout'"):
        tune(tmp_path, *sets("tune.space.candidates.droput={low=0, high=0.5}"))
    assert list(tmp_path.iterdir()) == []


def test_tune_without_optuna_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.delitem(sys.modules, "pipelines.tune", raising=False)
    monkeypatch.delattr(pipelines, "tune", raising=False)
    with pytest.raises(ConfigError, match=r"pip install recsys\[tune\]"):
        tune(tmp_path)


def test_shared_cores_last_as_long_as_the_block(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = dict(os.environ)
    with shared_cores(3):
        assert os.environ["TF_NUM_INTRAOP_THREADS"] == "2"
        assert os.environ["OMP_NUM_THREADS"] == "1"
    assert dict(os.environ) == before
