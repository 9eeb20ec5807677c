"""How a server of Redis or Valkey is asked: in time or not at all, never twice, and not while it
is known to be down.

Two pools of connections: answers wait for neither longer than `timeout_ms`, records for
`write_timeout_ms`. After a failure to connect or to answer it is left alone for a moment, so that
answers do not each wait for it; then the next call tries again, and goes on where it succeeds.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from recsys.errors import ConfigError, StateError
from serving.settings import StoreSettings
from serving.store import UnsureStateError

try:
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry
except ModuleNotFoundError as error:  # pragma: no cover  # an extra
    raise ConfigError(
        "a store at redis:// needs the package redis; `pip install recsys[redis]`"
    ) from error

PAUSE_SECONDS = 0.5
"""How long a server that failed is left alone."""


class RedisConnection:
    """Connections to one server, made when they are needed.

    Args:
        settings: Where it is, and how long to wait for it.
        clock: Returns seconds that never go back.

    Raises:
        ConfigError: A file that the settings name cannot be read.
    """

    def __init__(
        self, settings: StoreSettings, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._url, self._clock = settings.url, clock
        password = read_password(settings)
        self._reader = _client(settings, password, settings.timeout_ms)
        self._writer = _client(settings, password, settings.write_timeout_ms)
        self._left_alone_until = float("-inf")

    @contextmanager
    def reader(self) -> Iterator[Any]:
        """Give the client for what an answer waits for."""
        with self._errors():
            yield self._reader

    @contextmanager
    def writer(self) -> Iterator[Any]:
        """Give the client for what may take longer."""
        with self._errors():
            yield self._writer

    def close(self) -> None:
        """Close all connections."""
        self._reader.close()
        self._writer.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn errors into those of a store.

        Raises:
            UnsureStateError: The server does not answer.
            StateError: It refuses, or is left alone.
        """
        if self._clock() < self._left_alone_until:
            raise StateError(f"{self._url}: the state store did not answer a moment ago")
        try:
            yield
        except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
            self._left_alone_until = self._clock() + PAUSE_SECONDS
            raise UnsureStateError(
                f"{self._url}: the state store does not answer: {error}; see docs/operations.md, "
                f"State store"
            ) from error
        except redis.RedisError as error:
            raise StateError(f"{self._url}: the state store refused: {error}") from error


def read_password(settings: StoreSettings) -> str | None:
    """Return the password for the server, None where none is needed.

    Raises:
        ConfigError: Its file cannot be read.
    """
    path = settings.password_file
    try:
        return path.read_text(encoding="utf-8").strip() if path else None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: expected a file that holds a password, but {error}") from None


def _client(settings: StoreSettings, password: str | None, timeout_ms: int) -> Any:
    options: dict[str, Any] = {}
    if settings.is_encrypted:
        options = {"ssl_cert_reqs": "required", "ssl_check_hostname": True}
        if settings.authority_file is not None:
            options["ssl_ca_certs"] = str(settings.authority_file)
    return redis.Redis.from_url(
        settings.url,
        password=password,
        socket_timeout=timeout_ms / 1000,
        socket_connect_timeout=timeout_ms / 1000,
        # What failed is told at once: a repeat would hold an answer twice as long.
        retry=Retry(NoBackoff(), 0),
        protocol=2,
        **options,
    )
