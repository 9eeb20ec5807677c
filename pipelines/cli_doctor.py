"""The command `recsys doctor`: what to look at in, findings out."""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pipelines.config import load_store_place
from pipelines.doctor import findings as doctor
from pipelines.doctor.bundle import check_bundle
from pipelines.doctor.findings import Finding
from pipelines.doctor.installation import check_installation
from pipelines.doctor.server import check_server
from pipelines.doctor.settings import check_settings
from pipelines.doctor.store import check_shared_store, check_store
from recsys.errors import BundleError, ConfigError
from recsys.signing import read_public_key
from recsys.verification import read_manifest
from serving.tls import channel_credentials


def diagnose(
    bundle: Annotated[Path | None, typer.Option("--bundle", help="Also this bundle.")] = None,
    store: Annotated[
        str | None, typer.Option("--store", help="Also this store: a directory, or redis://...")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="Also these settings of a server.")
    ] = None,
    server: Annotated[
        str | None, typer.Option("--server", help="Also this server, as in 127.0.0.1:50051.")
    ] = None,
    tls: Annotated[bool, typer.Option("--tls", help="The server's calls are encrypted.")] = False,
    authority: Annotated[
        Path | None, typer.Option("--authority", help="Who vouches for it, PEM; implies --tls.")
    ] = None,
    certificate: Annotated[
        Path | None, typer.Option("--certificate", help="Ours, if it demands one.")
    ] = None,
    private_key: Annotated[Path | None, typer.Option("--key", help="Of that certificate.")] = None,
    token_file: Annotated[
        Path | None, typer.Option("--token-file", help="File that holds a token for it.")
    ] = None,
    host: Annotated[str, typer.Option(help="Where a server is to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 50051,
    max_age_days: Annotated[
        float, typer.Option("--max-age-days", min=0, help="Older data are a warning.")
    ] = 7.0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Say what is wrong here and how to mend it; exit status 1 if something is."""
    now = time.time_ns() // 1000
    settings, place = load_store_place(config, [], store)
    credentials = None
    if tls or authority or certificate:
        credentials = channel_credentials(
            authority, certificate_file=certificate, private_key_file=private_key, now=_date(now)
        )
    found = list(check_installation(host, port))
    if config is not None:
        found += check_settings(settings, _date(now))
    if bundle is not None:
        found += _bundle_findings(bundle, settings.trusted_keys, now, max_age_days)
    if isinstance(place, Path):
        found += check_store(place)
    elif place is not None:
        found += check_shared_store(place)
    if server is not None:
        token, bundle_id = _read_token(token_file), _bundle_id(bundle)
        found += check_server(server, tls=credentials, token=token, expected_bundle_id=bundle_id)
    if as_json:
        print(json.dumps(doctor.to_json(found)))
    else:
        doctor.show(found, Console(highlight=False))
    if doctor.count(found, "problem"):
        raise SystemExit(1)


def _bundle_findings(
    bundle: Path, key_files: tuple[Path, ...], now: int, max_age_days: float
) -> Iterator[Finding]:
    try:
        trusted_keys = [read_public_key(path) for path in key_files]
    except ConfigError:  # told among the settings
        return
    yield from check_bundle(bundle, trusted_keys, now=now, max_age_days=max_age_days)


def _bundle_id(bundle: Path | None) -> str:
    try:
        return read_manifest(bundle)["bundle_id"] if bundle else ""
    except BundleError:  # told among the findings of the bundle
        return ""


def _read_token(path: Path | None) -> str:
    try:
        return path.read_text(encoding="utf-8").strip() if path else ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: expected a file that holds a token, but {error}") from None


def _date(microseconds: int) -> datetime:
    return datetime.fromtimestamp(microseconds / 1e6, UTC)
