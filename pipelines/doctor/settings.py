"""A server's settings: its certificate, tokens and keys, as they will be in a few days too."""

import stat
from collections.abc import Iterator
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

from pipelines.doctor.findings import Finding as AnyFinding
from recsys.errors import ConfigError
from recsys.signing import fingerprint, read_public_key
from serving.settings import ServerSettings, TlsSettings
from serving.tls import days_left, server_credentials
from serving.tokens import read_tokens

WARNING_DAYS = 14
Finding = partial(AnyFinding, "settings")


def check_settings(settings: ServerSettings, now: datetime) -> Iterator[AnyFinding]:
    """Yield what is found of a server's settings; `now` has a time zone."""
    if settings.tls is None:
        yield Finding("TLS", "absent", "calls are not encrypted: for this machine alone")
    else:
        yield from _check_tls(settings.tls, now)
    yield from _check_tokens(settings.tokens_file, now)
    yield from _check_keys(settings.trusted_keys)


def private_file(section: str, name: str, path: Path) -> Iterator[AnyFinding]:
    """Yield a warning if others than its owner may read a file."""
    if path.is_file() and stat.S_IMODE(path.stat().st_mode) & 0o077:
        remedy = f"`chmod 600 {path}`"
        yield AnyFinding(section, name, "warning", f"{path} can be read by others", remedy)


def _check_tls(tls: TlsSettings, now: datetime) -> Iterator[AnyFinding]:
    try:
        server_credentials(tls, now)
        days = days_left(tls.certificate_file, now)
    except ConfigError as error:
        yield Finding("TLS", "problem", str(error))
        return
    callers = "callers need one too" if tls.client_authority_file else "callers need none"
    found = f"certificate valid for {days:.0f} days, {callers}"
    if days < WARNING_DAYS:
        yield Finding("TLS", "warning", found, "renew it, and restart the server: it reads it once")
    else:
        yield Finding("TLS", "good", found)
    yield from private_file("settings", "TLS", tls.private_key_file)


def _check_tokens(path: Path | None, now: datetime) -> Iterator[AnyFinding]:
    if path is None:
        yield Finding("tokens", "absent", "no caller is asked for one")
        return
    try:
        tokens = read_tokens(path)
    except ConfigError as error:
        yield Finding("tokens", "problem", str(error))
        return
    yield Finding("tokens", "good", f"{len(tokens)}: {', '.join(token.name for token in tokens)}")
    for token in tokens:
        if token.expires and token.expires - now < timedelta(days=WARNING_DAYS):
            found = f"{token.name} ends on {token.expires:%Y-%m-%d}"
            remedy = "make its holder a new one with `recsys token create`"
            yield Finding("tokens", "warning", found, remedy)


def _check_keys(paths: tuple[Path, ...]) -> Iterator[AnyFinding]:
    if not paths:
        yield Finding("trusted keys", "absent", "bundles are served whoever made them")
        return
    try:
        names = [fingerprint(read_public_key(path)) for path in paths]
    except ConfigError as error:
        yield Finding("trusted keys", "problem", str(error))
        return
    yield Finding("trusted keys", "good", ", ".join(names))
