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
    assert list(tmp_path.iterdir()) == []


def test_directory_of_no_step_is_refused(tmp_path):
    (tmp_path / "prepared").mkdir()
    with pytest.raises(ArtefactError, match="finished work"):
        run_step(tmp_path / "prepared", {}, writer("x"), announce=silent)
