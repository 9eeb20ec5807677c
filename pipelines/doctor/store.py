"""A store of users' state: there, readable, writable, with room to grow, durable."""

import os
import shutil
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from pipelines.doctor.findings import Finding as AnyFinding
from pipelines.doctor.settings import private_file
from recsys.errors import ConfigError, StateError
from serving.lmdb_store import MAP_BYTES, LmdbStore
from serving.open_store import LOG_KEY_FILE, durability_warning
from serving.settings import StoreSettings

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
    yield _content(counts)
    yield _check_room(directory, data.stat().st_blocks * 512)
    yield from private_file("store", "rights", data)
    yield from private_file("store", "log key", directory / LOG_KEY_FILE)


def check_shared_store(settings: StoreSettings) -> Iterator[AnyFinding]:
    """Yield what is found of a store on a server; at most its format and log key are made."""
    try:
        # An extra: without it all else is to work.
        from serving.redis_store import RedisStore

        store = RedisStore(settings)
        try:
            counts, durability = store.counts(), store.durability()
        finally:
            store.close()
    except (ConfigError, StateError) as error:
        yield Finding("server", "problem", str(error))
        return
    yield _content(counts)
    yield _check_durability(durability)
    if settings.password_file is not None:
        yield from private_file("store", "password", settings.password_file)


def _content(counts: Mapping[str, int]) -> AnyFinding:
    shown = ", ".join(f"{number:,} {name}" for name, number in counts.items())
    return Finding("content", "good", shown)


def _check_durability(durability: str) -> AnyFinding:
    warning = durability_warning(durability)
    if warning:
        remedy = "`appendonly yes` and `appendfsync always` in its configuration"
        return Finding("durability", "warning", warning, remedy)
    if durability == "unknown":
        found = "its user may not ask with CONFIG GET what survives a crash"
        return Finding("durability", "absent", found)
    return Finding("durability", "good", "every event is on disk before it is acknowledged")


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
