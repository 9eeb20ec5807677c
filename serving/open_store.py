"""Where users' state lies: a directory of this machine, a shared server, or memory."""

import os
import secrets
from pathlib import Path
from typing import Any

from recsys.errors import StateError
from serving.lmdb_store import LmdbStore
from serving.settings import StoreSettings
from serving.store import MemoryStore, StateStore

LOG_KEY_FILE = "log.key"
LOG_KEY_BYTES = 32


def open_store(place: Path | StoreSettings | None, logger: Any) -> tuple[StateStore, bytes]:
    """Open a store, and the secret under which its users are hashed in logs.

    Args:
        place: A directory, made if it does not exist; a shared server, which may be down; None
            keeps state in memory only.
        logger: Told (`store`) if a shared server cannot be reached, or may lose events.

    Raises:
        ConfigError: A file that the settings name cannot be read, or a package is missing.
        StateError: A directory cannot be opened.
    """
    if isinstance(place, StoreSettings):
        return _open_shared(place, logger)
    if place is None:
        return MemoryStore(), secrets.token_bytes(LOG_KEY_BYTES)
    return LmdbStore(place), read_log_key(place)


def read_log_key(directory: Path) -> bytes:
    """Return the key under which this store's users are hashed in logs, made on first use."""
    path = directory / LOG_KEY_FILE
    if not path.exists():
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(LOG_KEY_BYTES))
    return path.read_bytes()


def durability_warning(durability: str) -> str:
    """Return what is wrong with how a shared server keeps its data, empty if nothing is."""
    if durability == "none":
        return "appendonly is off: all events since its last snapshot are lost if it dies"
    if durability in {"everysec", "no"}:
        return f"appendfsync is {durability}: events it acknowledged may be lost if it dies"
    return ""


def _open_shared(settings: StoreSettings, logger: Any) -> tuple[StateStore, bytes]:
    # An extra: without it all else is to work.
    from serving.redis_store import RedisStore

    store = RedisStore(settings)
    try:
        durability = store.durability()
        log_key = store.log_key()
    except StateError as error:
        logger.error("store", error=str(error), without="what is stored, until it answers")
        return store, secrets.token_bytes(LOG_KEY_BYTES)
    warning = durability_warning(durability)
    if warning:
        logger.warning("store", warning=warning, remedy="appendonly yes, appendfsync always")
    return store, log_key
