"""A training asked to end by SIGTERM says how to go on, and the same command does."""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.config import load_settings
from pipelines.run import run_one
from pipelines.steps import read_identity
from recsys.core.checkpoint import Checkpoints

CONFIG = Path(__file__).parents[1] / "tiny.toml"
LONG = ["candidates.training.max_epochs=12", "candidates.training.patience=12"]


@pytest.fixture(scope="module")
def interrupted(tiny_run, tmp_path_factory):
    """Return the ended command, and the run that it left."""
    out = tmp_path_factory.mktemp("interrupted")
    shutil.copytree(tiny_run / "prepared", out / "prepared")
    sets = [f"--set={each}" for each in [*LONG, "candidates.training.checkpoint_steps=1"]]
    arguments = ["train-candidates", "--config", str(CONFIG), "--out", str(out), *sets]
    command = [sys.executable, "-m", "pipelines.cli", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as child:
        while not list(out.glob("candidates.partial-*/unfinished/*.npz")):
            assert child.poll() is None, child.stderr.read()
            time.sleep(0.01)
        child.send_signal(signal.SIGTERM)
        _, errors = child.communicate(timeout=60)
    return child.returncode, errors, out


def partial(out):
    (found,) = out.glob("candidates.partial-*")
    return found


def test_command_ends_with_0_and_one_message(interrupted):
    status, errors, out = interrupted
    assert status == 0
    assert "Traceback" not in errors
    (message,) = (line for line in errors.splitlines() if line.startswith("recsys: "))
    assert message.startswith("recsys: SIGTERM came: the training stopped in epoch 1 after ")
    assert message.endswith("the same command again goes on")
    assert not (out / "candidates").exists()


def test_same_command_goes_on_where_it_stopped(interrupted, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(interrupted[2], out)
    assert Checkpoints(partial(out) / "unfinished", 2).load().notes["level"]["steps"] >= 1
    (partial(out) / "mark").touch()
    # How often a training is saved may change between the two.
    run_one("candidates", load_settings(CONFIG, LONG), out)
    assert (out / "candidates" / "mark").exists()
    assert not list(out.glob("candidates.partial-*"))
    assert not (out / "candidates" / "unfinished").exists()
    read_identity(out / "candidates")


def test_training_on_a_log_prepared_anew_does_not_go_on(interrupted, tmp_path, monkeypatch):
    def work(step, settings, paths, directory):
        assert list(directory.iterdir()) == []

    monkeypatch.setattr("pipelines.run._work", work)
    out = tmp_path / "run"
    shutil.copytree(interrupted[2], out)
    with (out / "prepared" / "manifest.json").open("a") as manifest:
        manifest.write("\n")
    run_one("candidates", load_settings(CONFIG, LONG), out)
    assert [path.name for path in out.glob("candidates*")] == ["candidates"]
