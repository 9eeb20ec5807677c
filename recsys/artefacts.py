"""Directories that a pipeline step writes: atomic, hashed, described by a manifest.

A step writes under another name beside its target and renames it into place, so a killed step
leaves nothing that looks finished; a long one may find there what it had done. `manifest.json`
holds a format number, the sha256 of every file, and whatever the step says of itself.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from recsys.errors import ArtefactError

MANIFEST = "manifest.json"
STEP_FILE = "step.json"
"""What a pipeline run notes beside the artefact itself; no part of it, and never parsed with it."""
MAX_MANIFEST_LENGTH = 16 << 20
"""A manifest is read before anything vouches for it: a file takes about 100 characters."""
UNFINISHED = "unfinished"
"""Subdirectory for what only a step under way needs: checkpoints, scratch files."""


@contextlib.contextmanager
def new_directory(target: Path) -> Iterator[Path]:
    """Give a temporary directory that becomes `target` if the block ends without an error.

    A directory already at `target` is replaced by one rename; on an error it stays untouched.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        _replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def resumable_directory(target: Path, key: str) -> Iterator[Path]:
    """Give a directory that outlives errors and kills, and becomes `target` in the end.

    What an earlier block of the same key left in it is still there; what blocks of other keys
    left is deleted. Its `unfinished/` does not come along to `target`. Two blocks at once would
    mix their files: the caller sees to it that there is one.

    Args:
        target: Replaced if it is there already.
        key: A hash of everything that decides what is written.
    """
    partial = target.with_name(f"{target.name}.partial-{key[:16]}")
    for other in target.parent.glob(f"{target.name}.partial-*"):
        if other != partial:
            shutil.rmtree(other)
    partial.mkdir(parents=True, exist_ok=True)
    yield partial
    # Only once it is in place: a kill in between must not cost the checkpoints.
    _replace(partial, target)
    shutil.rmtree(target / UNFINISHED, ignore_errors=True)


def _replace(source: Path, target: Path) -> None:
    if not target.exists():
        source.rename(target)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
    target.rename(old / target.name)
    source.rename(target)
    shutil.rmtree(old)


def canonical_json(value: Any) -> bytes:
    """Encode a value as JSON with one spelling only, so that it can be hashed."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def hash_json(value: Any) -> str:
    """Return the sha256 of a value's canonical JSON, in hex."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def hash_file(path: Path) -> str:
    """Return the sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def list_files(directory: Path) -> list[Path]:
    """Return every file of an artefact but its manifest, sorted, relative to its directory."""
    files = (path for path in directory.rglob("*") if path.is_file())
    relative = (path.relative_to(directory) for path in files)
    return sorted(path for path in relative if str(path) not in (MANIFEST, STEP_FILE))


def write_manifest(directory: Path, kind: str, format_number: int, **content: Any) -> dict:
    """Hash every file of a directory and write its manifest; return the manifest."""
    files = {str(path): hash_file(directory / path) for path in list_files(directory)}
    manifest = {"kind": kind, "format": format_number, "files": files, **content}
    text = json.dumps(manifest, sort_keys=True, indent=1, allow_nan=False)
    (directory / MANIFEST).write_text(text + "\n", encoding="utf-8")
    return manifest


def read_manifest(directory: Path, kind: str, format_number: int) -> dict:
    """Read the manifest of an artefact and check what it is.

    Raises:
        ArtefactError: There is none, or its kind or format is another.
    """
    path = directory / MANIFEST
    try:
        manifest = json.loads(_read_manifest_text(path))
    except FileNotFoundError:
        raise ArtefactError(
            f"{directory}: expected a {kind} directory with a {MANIFEST}, found none; "
            f"run the step that writes it first"
        ) from None
    except OSError as error:
        raise ArtefactError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise ArtefactError(f"{path}: not readable as JSON ({error}); write it anew") from None
    if not isinstance(manifest, dict) or manifest.get("kind") != kind:
        found = manifest.get("kind") if isinstance(manifest, dict) else type(manifest).__name__
        raise ArtefactError(f"{directory}: expected a {kind} directory, found {found!r:.80}")
    if manifest.get("format") != format_number:
        raise ArtefactError(
            f"{directory}: {kind} format {manifest.get('format')!r:.80} is not the format "
            f"{format_number} that this version reads; write it anew with this version"
        )
    return manifest


def _read_manifest_text(path: Path) -> str:
    with path.open(encoding="utf-8") as file:
        text = file.read(MAX_MANIFEST_LENGTH + 1)
    if len(text) > MAX_MANIFEST_LENGTH:
        raise ArtefactError(
            f"{path}: expected a manifest of at most {MAX_MANIFEST_LENGTH} characters, got more; "
            f"write it anew"
        )
    return text


def save_arrays(directory: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write each array as `NAME.npy`; names may hold slashes, object dtypes are refused."""
    for name, array in arrays.items():
        path = directory / f"{name}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, array, allow_pickle=False)


def load_arrays(directory: Path, *, mapped: bool = True) -> dict[str, np.ndarray]:
    """Read every array below a directory, memory-mapped unless told otherwise.

    Raises:
        ArtefactError: A file is no array, or holds objects.
    """
    arrays = {}
    for path in sorted(directory.rglob("*.npy")):
        name = str(path.relative_to(directory).with_suffix(""))
        try:
            arrays[name] = _load_array(path, mapped)
        except (ValueError, OSError, EOFError) as error:
            raise ArtefactError(f"{path}: not a plain NumPy array file ({error})") from None
    return arrays


def _load_array(path: Path, mapped: bool) -> np.ndarray:
    # A plain view of what is mapped: each slice of a memory map costs ten times as much, and a
    # mapped scalar cannot be indexed like an array.
    return np.asarray(np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False))


def sync_directory(directory: Path) -> None:
    """Force the names in a directory to disk."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
