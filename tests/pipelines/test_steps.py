import subprocess
import sys

import pytest

from pipelines.steps import read_identity, run_step
from recsys.errors import ArtefactError


def writer(text):
    return lambda directory: (directory / "file").write_text(text)


def silent(line):
    pass


def test_finished_step_is_kept(tmp_path):
    target = tmp_path / "prepared"
    first = run_step(target, {"a": 1}, writer("first"), announce=silent)
    second = run_step(target, {"a": 1}, writer("second"), announce=silent)
    assert first == second == read_identity(target)
    assert (target / "file").read_text() == "first"


def test_forced_step_is_done_again(tmp_path):
    target = tmp_path / "prepared"
    run_step(target, {"a": 1}, writer("first"), announce=silent)
    run_step(target, {"a": 2}, writer("second"), forced=True, announce=silent)
    assert (target / "file").read_text() == "second"


def test_other_settings_are_refused(tmp_path):
    target = tmp_path / "prepared"
    run_step(target, {"a": 1}, writer("first"), announce=silent)
    with pytest.raises(ArtefactError, match="--force"):
        run_step(target, {"a": 2}, writer("second"), announce=silent)


def test_failed_step_leaves_nothing(tmp_path):
    def fail(directory):
        (directory / "half").write_text("x")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        run_step(tmp_path / "prepared", {}, fail, announce=silent)
    assert [path.name for path in tmp_path.iterdir()] == [".prepared.lock"]


def killed_in_the_middle(directory):
    (directory / "unfinished").mkdir(exist_ok=True)
    (directory / "unfinished" / "checkpoint").write_text("half")
    raise RuntimeError("killed")


def goes_on(directory):
    found = directory / "unfinished" / "checkpoint"
    (directory / "file").write_text(found.read_text() if found.exists() else "anew")


def begun(target, inputs, **options):
    with pytest.raises(RuntimeError):
        run_step(target, inputs, killed_in_the_middle, announce=silent, **options)


@pytest.mark.parametrize(
    ("inputs", "resume_key", "expected"),
    [({"a": 1}, "log", "half"), ({"a": 2}, "log", "anew"), ({"a": 1}, "other log", "anew")],
)
def test_killed_step_finds_what_it_had_done(tmp_path, inputs, resume_key, expected):
    target = tmp_path / "candidates"
    begun(target, {"a": 1}, resume_key="log")
    assert not target.exists()
    run_step(target, inputs, goes_on, resume_key=resume_key, announce=silent)
    assert (target / "file").read_text() == expected
    assert {path.name for path in tmp_path.iterdir()} == {"candidates", ".candidates.lock"}
    assert {path.name for path in target.iterdir()} == {"file", "step.json"}


def test_forced_step_goes_on_too_and_keeps_the_old_one_until_it_is_done(tmp_path):
    target = tmp_path / "candidates"
    run_step(target, {"a": 1}, writer("old"), resume_key="log", announce=silent)
    begun(target, {"a": 1}, resume_key="log", forced=True)
    assert (target / "file").read_text() == "old"
    run_step(target, {"a": 1}, goes_on, resume_key="log", forced=True, announce=silent)
    assert (target / "file").read_text() == "half"


def test_step_that_another_process_is_at_is_refused(tmp_path):
    code = f"""
import time
from pathlib import Path
from pipelines.steps import run_step
def work(directory):
    print("at work", flush=True)
    time.sleep(60)
run_step(Path({str(tmp_path / "candidates")!r}), {{}}, work, announce=lambda line: None)
"""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "at work\n"
        with pytest.raises(ArtefactError, match=f"process {other.pid} is at work on it"):
            run_step(tmp_path / "candidates", {}, writer("x"), announce=silent)
        run_step(tmp_path / "ranking", {}, writer("x"), announce=silent)
        other.kill()
    run_step(tmp_path / "candidates", {}, writer("x"), announce=silent)
    assert (tmp_path / "candidates" / "file").read_text() == "x"


def test_directory_of_no_step_is_refused(tmp_path):
    (tmp_path / "prepared").mkdir()
    with pytest.raises(ArtefactError, match="finished work"):
        run_step(tmp_path / "prepared", {}, writer("x"), announce=silent)
