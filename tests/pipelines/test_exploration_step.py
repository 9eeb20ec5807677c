"""The step of the neural process in a run: done once, left out where it is off, told by name."""

import json
from pathlib import Path

import pytest

from pipelines.config import load_settings
from pipelines.run import run_one, settings_of
from recsys.artefacts import hash_json
from recsys.errors import ArtefactError

TINY = Path(__file__).parents[1] / "tiny.toml"


@pytest.fixture
def lines():
    return []


@pytest.fixture
def run(tiny_run, tmp_path):
    """A run whose steps up to the ranking net are done."""
    for step in ("prepared", "candidates", "index", "ranking"):
        (tmp_path / step).symlink_to(tiny_run / step)
    return tmp_path


def test_finished_step_is_kept(tiny_run, lines):
    run_one("exploration", load_settings(TINY), tiny_run, announce=lines.append)
    assert lines == [f"exploration: done before, kept ({tiny_run / 'exploration'})"]
    files = {path.name for path in (tiny_run / "exploration").iterdir()}
    needed = {"neural_process.onnx", "spread.json", "features.json", "validation.json", "step.json"}
    assert needed <= files
    assert "unfinished" not in files


def test_step_that_is_off_is_left_out(run, lines):
    settings = load_settings(TINY, ["exploration.enabled=false"])
    run_one("exploration", settings, run, announce=lines.append)
    assert lines == ["exploration: left out by the configuration"]
    assert not (run / "exploration").exists()
    run_one("bundle", settings, run, announce=lines.append)
    assert not (run / "bundle" / "exploration").exists()


def test_what_was_trained_before_it_was_turned_off_is_not_in_the_bundle(tiny_run, run, lines):
    (run / "exploration").symlink_to(tiny_run / "exploration")
    settings = load_settings(TINY, ["exploration.enabled=false"])
    run_one("bundle", settings, run, announce=lines.append)
    manifest = json.loads((run / "bundle" / "manifest.json").read_text())
    assert "exploration" not in manifest["parents"]
    assert "exploration" not in manifest["metrics"]
    assert not any(name.startswith("exploration/") for name in manifest["files"])


def test_bundle_without_the_step_is_refused(run, lines):
    with pytest.raises(ArtefactError, match="exploration: expected the finished work"):
        run_one("bundle", load_settings(TINY), run, announce=lines.append)


def test_bundle_says_what_its_process_was_made_from(tiny_run):
    manifest = json.loads((tiny_run / "bundle" / "manifest.json").read_text())
    step = json.loads((tiny_run / "exploration" / "step.json").read_text())
    assert manifest["parents"]["exploration"] == step["identity"]
    assert manifest["metrics"]["exploration"]["outcome_loss"] > 0


def test_report_has_the_coverage_of_the_intervals(tiny_run):
    metrics = json.loads((tiny_run / "evaluation" / "metrics.json").read_text())
    coverage = metrics["exploration"]["coverage"]
    assert sum(row["impressions"] for row in coverage) == metrics["ranking"]["impressions"]
    assert [row["name"] for row in coverage][-1] == "20 or more"
    for row in coverage:
        assert row["coverage"] + row["below"] + row["above"] == pytest.approx(1)
    assert "Intervals of the neural process" in (tiny_run / "report.html").read_text()


def identity(*overrides):
    return hash_json(settings_of("exploration", load_settings(TINY, overrides)))


@pytest.mark.parametrize(
    ("override", "same"),
    [
        ("exploration.decoder=[8]", False),
        ("ranking.recent_length=7", False),
        ("ranking.hidden=[8]", True),
        ("exploration.training.checkpoint_seconds=7.0", True),
        ("serving.num_candidates=50", True),
    ],
)
def test_step_is_of_the_settings_that_it_depends_on(override, same):
    assert (identity() == identity(override)) == same
