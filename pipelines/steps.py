"""Run one step into a directory of its own: atomically, once, and never by mistake again.

Beside what a step writes, its directory holds `step.json`: the step's name and its identity, a
hash of the settings that it depends on and of the identities of its inputs. A directory of the
same identity is finished work; one of another identity is refused unless forced. One process at a
time works on a step: it holds a lock on `.NAME.lock` beside the directory.
"""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from recsys.artefacts import STEP_FILE, hash_json, new_directory, resumable_directory
from recsys.errors import ArtefactError


def run_step(
    target: Path,
    inputs: Mapping[str, Any],
    work: Callable[[Path], None],
    *,
    resume_key: str | None = None,
    forced: bool = False,
    announce: Callable[[str], None] = print,
) -> str:
    """Do the work into `target` unless it is there already; return the identity.

    Args:
        target: Directory to write; its name is the step's.
        inputs: Everything the result depends on, JSON-able.
        work: Writes into the directory that it is given.
        resume_key: None for work that starts clean each time. Else what was begun is gone on
            with, if identity and key are those that it was begun with: the work can do so.
        forced: Do it again even if it is done.
        announce: Takes one line for the user.

    Raises:
        ArtefactError: `target` holds the result of other settings, and `forced` is false; or
            another process is at work on it.
    """
    identity = hash_json({"step": target.name, **inputs})
    if target.exists() and not forced:
        _check_same(target, identity)
        announce(f"{target.name}: done before, kept ({target})")
        return identity
    started = time.monotonic()
    new = new_directory(target)
    if resume_key is not None:
        new = resumable_directory(target, hash_json([identity, resume_key]))
    with locked(target), new as directory:
        announce(f"{target.name}: started")
        work(directory)
        step = {"step": target.name, "identity": identity, "inputs": dict(inputs)}
        (directory / STEP_FILE).write_text(json.dumps(step, sort_keys=True, indent=1) + "\n")
    announce(f"{target.name}: done in {time.monotonic() - started:.1f} s ({target})")
    return identity


def read_identity(directory: Path) -> str:
    """Return the identity of a finished step.

    Raises:
        ArtefactError: The directory is not the finished work of a step.
    """
    try:
        return str(json.loads((directory / STEP_FILE).read_text())["identity"])
    except (OSError, ValueError, KeyError):
        raise ArtefactError(
            f"{directory}: expected the finished work of a pipeline step ({STEP_FILE}), found "
            f"none; run `recsys run` or the step alone first"
        ) from None


@contextlib.contextmanager
def locked(target: Path) -> Iterator[None]:
    """Hold the lock of a directory's work; the system gives it back however the process ends.

    Raises:
        ArtefactError: Another process holds it.
    """
    path = target.with_name(f".{target.name}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise ArtefactError(
                f"{target}: process {file.read() or 'unknown'} is at work on it, expected none; "
                f"wait until it ends, stop it, or give another --out"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _check_same(target: Path, identity: str) -> None:
    if read_identity(target) != identity:
        raise ArtefactError(
            f"{target}: was made with other settings or inputs; give --force to make it anew, "
            f"or another --out to keep it"
        )
