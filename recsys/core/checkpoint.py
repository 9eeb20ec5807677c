"""A training's state as one file: arrays and JSON, written atomically, no pickle.

The file is a NumPy `.npz`. Arrays are grouped (`model`, `optimizer`, `best`) and numbered within
the group; `notes` holds whatever the training says of itself, as UTF-8 JSON.
"""

import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from recsys.artefacts import sync_directory
from recsys.core.backends import to_numpy
from recsys.errors import TrainingError

FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """What a resumed training needs.

    Args:
        groups: name -> arrays in the order of the variables.
        notes: JSON-able.
    """

    groups: Mapping[str, Sequence[np.ndarray]]
    notes: Mapping[str, Any]


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint beside its place, force it to disk, rename it into place."""
    notes = json.dumps({"format": FORMAT, **checkpoint.notes}).encode()
    arrays = {"notes": np.frombuffer(notes, np.uint8)}
    for group, values in checkpoint.groups.items():
        arrays |= {f"{group}/{number:05d}": value for number, value in enumerate(values)}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.writing")
    with temporary.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_directory(path.parent)


def load_checkpoint(path: Path) -> Checkpoint | None:
    """Read a checkpoint, or return None where there is none.

    Raises:
        TrainingError: The file is broken or of another format.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        notes = json.loads(arrays.pop("notes").tobytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise TrainingError(
            f"{path}: not a readable checkpoint ({error}); delete it to train from the start"
        ) from None
    if notes.pop("format", None) != FORMAT:
        raise TrainingError(
            f"{path}: checkpoint of another format than {FORMAT}, which this version reads; "
            f"delete it to train from the start"
        )
    groups: dict[str, list[np.ndarray]] = {}
    for name in sorted(arrays):
        groups.setdefault(name.split("/")[0], []).append(arrays[name])
    return Checkpoint(groups, notes)


def read_variables(variables: Sequence[keras.Variable]) -> list[np.ndarray]:
    """Copy the values of variables."""
    return [to_numpy(variable.value) for variable in variables]


def write_variables(variables: Sequence[keras.Variable], values: Sequence[np.ndarray]) -> None:
    """Assign values to variables.

    Raises:
        TrainingError: Number or shapes differ: the values belong to another net.
    """
    expected = [tuple(variable.shape) for variable in variables]
    found = [value.shape for value in values]
    if expected != found:
        raise TrainingError(
            f"the checkpoint does not fit the net: expected arrays of shapes {expected}, "
            f"found {found}; delete the checkpoint, or train with the settings that it was made by"
        )
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
