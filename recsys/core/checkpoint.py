"""The newest states of a training as files: arrays and JSON, written atomically, no pickle.

A file is an uncompressed NumPy `.npz`, so each of its arrays has a checksum. Arrays are grouped
(`model`, `optimizer`, `best`) and numbered within the group; `notes.json` holds whatever the
training says of itself. Tables may fill most of the memory: arrays pass one at a time.
"""

import itertools
import json
import os
import struct
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from recsys.artefacts import sync_directory
from recsys.core.backends import to_numpy
from recsys.errors import TrainingError

FORMAT = 2
NOTES = "notes.json"
UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    RuntimeError,
    struct.error,
    zipfile.BadZipFile,
)
"""What reading a torn or altered file ends in; a flipped bit may make it look encrypted."""


@dataclass(frozen=True)
class Checkpoint:
    """What a resumed training needs.

    Args:
        groups: name -> arrays in the order of the variables; gone through once.
        notes: JSON-able.
    """

    groups: Mapping[str, Iterable[np.ndarray]]
    notes: Mapping[str, Any]


class Checkpoints:
    """The checkpoints of one training: `checkpoint-000001.npz` and so on, the newest few.

    Args:
        directory: Made when the first is saved.
        num_kept: Of more than one, an older one is left when a disk fault tears the newest.
    """

    def __init__(self, directory: Path, num_kept: int) -> None:
        self._directory, self._num_kept = directory, num_kept
        self._newest = 0

    def save(self, checkpoint: Checkpoint) -> None:
        """Write the next checkpoint, then delete those that are no longer kept."""
        self._directory.mkdir(parents=True, exist_ok=True)
        self._newest += 1
        _write(self._directory / f"checkpoint-{self._newest:06d}.npz", checkpoint)
        for number, path in self._files().items():
            # A higher number is that of a torn file which `load` passed over.
            if not self._newest - self._num_kept < number <= self._newest:
                path.unlink()

    def load(self) -> Checkpoint | None:
        """Open the newest checkpoint that can be read; None where there is no file at all.

        Raises:
            TrainingError: None of the files can be read, or the newest is of another format.
        """
        broken = []
        for number, path in sorted(self._files().items(), reverse=True):
            try:
                checkpoint = _open(path)
            except UNREADABLE as error:
                broken.append(f"{path}: not a readable checkpoint ({error})")
                continue
            self._newest = number
            for problem in broken:
                warnings.warn(f"{problem}; going on from {path.name}", RuntimeWarning, stacklevel=2)
            return checkpoint
        if broken:
            raise TrainingError(f"{'; '.join(broken)}; delete it to train from the start")
        return None

    def _files(self) -> dict[int, Path]:
        """Return number -> file."""
        paths = self._directory.glob("checkpoint-*.npz")
        return {int(path.stem.removeprefix("checkpoint-")): path for path in paths}


def read_variables(variables: Sequence[keras.Variable]) -> Iterator[np.ndarray]:
    """Copy the values of variables, each when it is asked for."""
    return (to_numpy(variable.value) for variable in variables)


def write_variables(variables: Sequence[keras.Variable], values: Iterable[np.ndarray]) -> None:
    """Assign values to variables.

    Raises:
        TrainingError: Number or shapes differ: the values belong to another net.
    """
    for variable, value in itertools.zip_longest(variables, values):
        expected = None if variable is None else tuple(variable.shape)
        found = None if value is None else value.shape
        if expected != found:
            name = "no variable" if variable is None else variable.path
            raise TrainingError(
                f"the checkpoint does not fit the net: expected an array of shape {expected} for "
                f"{name}, found {found}; delete the checkpoint, or train with the settings that "
                f"it was made by"
            )
        variable.assign(value)


def _write(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint beside its place, force it to disk, rename it into place."""
    temporary = path.with_name(".checkpoint.writing")
    with temporary.open("wb") as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            counts = {
                group: _write_group(archive, group, arrays)
                for group, arrays in checkpoint.groups.items()
            }
            notes = {"format": FORMAT, "counts": counts, **checkpoint.notes}
            archive.writestr(NOTES, json.dumps(notes))
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_directory(path.parent)


def _write_group(archive: zipfile.ZipFile, group: str, arrays: Iterable[np.ndarray]) -> int:
    count = 0
    for array in arrays:
        with archive.open(_member(group, count), "w", force_zip64=True) as member:
            np.lib.format.write_array(member, array, allow_pickle=False)
        count += 1
    return count


def _open(path: Path) -> Checkpoint:
    """Verify a whole file before any of it is used; its arrays are read later."""
    with zipfile.ZipFile(path) as archive:
        # A flipped bit may call a member compressed, and each decompressor has errors of its own.
        is_stored = all(member.compress_type == zipfile.ZIP_STORED for member in archive.infolist())
        if not is_stored or archive.testzip() is not None:
            raise zipfile.BadZipFile("its arrays are not what was written")
        notes = json.loads(archive.read(NOTES))
        if notes.pop("format", None) != FORMAT:
            raise TrainingError(
                f"{path}: checkpoint of another format than {FORMAT}, which this version reads; "
                f"delete it to train from the start"
            )
        counts = notes.pop("counts")
        for group, count in counts.items():
            for number in range(count):
                archive.getinfo(_member(group, number))
    return Checkpoint({group: _read_group(path, group, n) for group, n in counts.items()}, notes)


def _read_group(path: Path, group: str, count: int) -> Iterator[np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        for number in range(count):
            with archive.open(_member(group, number)) as member:
                yield np.lib.format.read_array(member, allow_pickle=False)


def _member(group: str, number: int) -> str:
    return f"{group}/{number:05d}.npy"
