"""From a server's settings to what protects it: exposure, encryption, callers, bundles, log."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

import grpc

from recsys.errors import ConfigError
from recsys.signing import read_public_key
from serving.access import Access
from serving.addresses import is_loopback
from serving.rate_limit import RateLimiter
from serving.reload import Load, load_recommender
from serving.settings import ServerSettings
from serving.tls import server_credentials
from serving.tokens import TokensOnFile


def check_exposure(host: str, settings: ServerSettings) -> None:
    """Refuse to listen where others reach it, unless calls are encrypted and callers known.

    Raises:
        ConfigError: Says what is missing.
    """
    missing = []
    if settings.tls is None:
        missing.append("encryption ([tls] in the file of --config)")
    if not settings.knows_its_callers:
        missing.append("callers who say who they are (tokens_file, or tls.client_authority_file)")
    if missing and not is_loopback(host) and not settings.open_to_network:
        raise ConfigError(
            f"{host} can be reached by others: expected {' and '.join(missing)}; where a proxy "
            f"before it does both, say so with --open-to-network"
        )


def read_credentials(settings: ServerSettings, now: int) -> grpc.ServerCredentials | None:
    """Return what to listen with, None without TLS; `now` in microseconds since the epoch.

    Raises:
        ConfigError: As `serving.tls.server_credentials`.
    """
    if settings.tls is None:
        return None
    return server_credentials(settings.tls, datetime.fromtimestamp(now / 1e6, UTC))


def new_access(settings: ServerSettings, clock: Callable[[], int], logger: Any) -> Access:
    """Return who may call, and how often.

    Args:
        settings: Of the server.
        clock: Returns microseconds since the epoch.
        logger: Told if the tokens file becomes wrong later.

    Raises:
        ConfigError: As `serving.tokens.read_tokens`.
    """

    def report(error: ConfigError) -> None:
        logger.error("tokens", error=str(error), kept="the tokens read before")

    limits, limiter = settings.limits, None
    if limits.calls_per_second is not None:
        limiter = RateLimiter(limits.calls_per_second, limits.burst, clock=time.monotonic)
    path = settings.tokens_file
    return Access(
        TokensOnFile(path, report).find if path else None,
        limiter,
        clock,
        has_certificates=bool(settings.tls and settings.tls.client_authority_file),
    )


def new_load(settings: ServerSettings) -> Load:
    """Return what loads bundles, signed by a trusted key if there are any.

    Raises:
        ConfigError: A key cannot be read.
    """
    trusted_keys = [read_public_key(path) for path in settings.trusted_keys]
    return partial(load_recommender, trusted_keys=trusted_keys)


def log_key_of(settings: ServerSettings, key: bytes) -> bytes | None:
    """Return the secret under which the log hashes user ids, None if it leaves them out."""
    return None if settings.log.user_ids == "omitted" else key
