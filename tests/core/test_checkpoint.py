"""Checkpoint files: whole or refused, on disk before they count, the newest few kept."""

import os
import warnings
from pathlib import Path

import numpy as np
import pytest

from recsys.core.checkpoint import Checkpoint, Checkpoints
from recsys.errors import TrainingError


def state(number):
    arrays = [np.full((3, 2), number, np.float32), np.asarray(number, np.int64)]
    return Checkpoint({"model": iter(arrays), "best": []}, {"number": number})


def saved(directory, *, kept, count):
    checkpoints = Checkpoints(directory, kept)
    for number in range(count):
        checkpoints.save(state(number))
    return sorted(directory.iterdir())


def number_of(directory):
    return Checkpoints(directory, 2).load().notes["number"]


def test_checkpoint_comes_back_as_it_was(tmp_path):
    saved(tmp_path, kept=2, count=1)
    found = Checkpoints(tmp_path, 2).load()
    matrix, scalar = found.groups["model"]
    np.testing.assert_array_equal(matrix, np.zeros((3, 2)))
    assert (matrix.dtype, scalar.dtype, scalar.shape) == (np.float32, np.int64, ())
    assert list(found.groups["best"]) == []
    assert found.notes == {"number": 0}


def test_no_checkpoint_is_none(tmp_path):
    assert Checkpoints(tmp_path / "absent", 2).load() is None


@pytest.mark.parametrize("kept", [1, 2, 3])
def test_newest_checkpoints_are_kept(tmp_path, kept):
    paths = saved(tmp_path, kept=kept, count=5)
    assert [path.name for path in paths] == [
        f"checkpoint-{number:06d}.npz" for number in range(6 - kept, 6)
    ]
    assert number_of(tmp_path) == 4


def test_checkpoint_after_a_torn_one_takes_its_place(tmp_path):
    paths = saved(tmp_path, kept=3, count=3)
    for torn in paths[1:]:
        torn.write_bytes(b"")
    checkpoints = Checkpoints(tmp_path, 1)
    with pytest.warns(RuntimeWarning) as warned:
        assert checkpoints.load().notes["number"] == 0
    assert [str(path) in str(each.message) for path, each in zip(paths[:0:-1], warned, strict=True)]
    checkpoints.save(state(9))
    assert list(tmp_path.iterdir()) == [paths[1]]
    assert number_of(tmp_path) == 9


def test_every_damage_is_noticed(tmp_path):
    older, newest = saved(tmp_path, kept=2, count=2)
    whole, rng = newest.read_bytes(), np.random.default_rng(0)
    for position in rng.choice(len(whole), 150, replace=False):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << int(rng.integers(8))
        newest.write_bytes(damaged)
        assert_whole_or_passed_over(tmp_path)
    for length in rng.choice(len(whole), 20, replace=False):
        newest.write_bytes(whole[:length])
        with pytest.warns(RuntimeWarning, match=newest.name):
            assert number_of(tmp_path) == 0


def assert_whole_or_passed_over(directory):
    """A flipped bit of a time stamp harms nothing; one of an array or the notes must not pass."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = Checkpoints(directory, 2).load()
    matrix, scalar = found.groups["model"]
    assert int(scalar) == found.notes["number"] == matrix[0, 0]
    assert (matrix == matrix[0, 0]).all()


def test_checkpoint_is_on_disk_before_it_has_its_name(tmp_path, monkeypatch):
    acts = []
    fsync, replace = os.fsync, Path.replace

    def noted_fsync(descriptor):
        acts.append("directory" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")
        fsync(descriptor)

    def noted_replace(source, target):
        acts.append("rename")
        return replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    saved(tmp_path, kept=1, count=1)
    assert acts == ["file", "rename", "directory"]


def test_kill_while_writing_leaves_the_one_before(tmp_path):
    def torn():
        yield np.zeros(5)
        raise KeyboardInterrupt

    checkpoints = Checkpoints(tmp_path, 1)
    checkpoints.save(state(0))
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(Checkpoint({"model": torn()}, {"number": 1}))
    assert number_of(tmp_path) == 0


def test_checkpoint_of_another_format_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("recsys.core.checkpoint.FORMAT", 3)
    saved(tmp_path, kept=1, count=1)
    monkeypatch.undo()
    with pytest.raises(TrainingError, match="another format"):
        number_of(tmp_path)
