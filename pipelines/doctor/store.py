"""A store of users' state: there, readable, writable, with room to grow."""

import os
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from pipelines.doctor.findings import Finding as AnyFinding
from pipelines.doctor.settings import private_file
from recsys.errors import StateError
from serving.lmdb_store import MAP_BYTES, LmdbStore
from serving.server import LOG_KEY_FILE

LEAST_FREE_BYTES = 1 << 30
FULL_SHARE = 0.8
Finding = partial(AnyFinding, "store")


def check_store(directory: Path) -> Iterator[AnyFinding]:
    """Yield what is found of a store; nothing is made or changed, a server may run on it."""
    data = directory / "data.mdb"
    if not data.is_file():
        remedy = "`recsys state import` makes one, and so does `recsys serve`"
        yield Finding("files", "problem", f"no store at {directory}", remedy)
        return
    if not os.access(data, os.W_OK):
        remedy = "give the server's user the right to write it"
        yield Finding("files", "problem", f"{data} cannot be written", remedy)
        return
    try:
        store = LmdbStore(directory)
        counts = store.counts()
        store.close()
    except StateError as error:
        yield Finding("files", "problem", str(error))
        return
    shown = ", ".join(f"{number:,} {name}" for name, number in counts.items())
    yield Finding("content", "good", shown)
    yield _check_room(directory, data.stat().st_blocks * 512)
    yield from private_file("store", "rights", data)
    yield from private_file("store", "log key", directory / LOG_KEY_FILE)


def _check_room(directory: Path, size: int) -> AnyFinding:
    free = shutil.disk_usage(directory).free
    found = f"{size / 2**20:.1f} MiB on disk, {free / 2**30:.1f} GiB free"
    if free < LEAST_FREE_BYTES:
        remedy = "make room: events are refused when the disk is full"
        return Finding("room", "warning", found, remedy)
    if size > FULL_SHARE * MAP_BYTES:
        remedy = f"it holds {MAP_BYTES >> 30} GiB at most: delete users, or import into a new one"
        return Finding("room", "warning", found, remedy)
    return Finding("room", "good", found)
