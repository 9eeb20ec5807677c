"""A bundle: whole, signed, of a known format, fresh, and able to answer."""

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from packaging.version import InvalidVersion, Version

from pipelines.doctor.findings import Finding as AnyFinding
from recsys.errors import BundleError, ConfigError
from recsys.recommender import Recommender
from recsys.requests import Request
from recsys.state import UserState
from recsys.state_files import state_from_json
from recsys.verification import verify_bundle
from serving.reload import load_recommender

MICROSECONDS_PER_DAY = 86_400 * 1_000_000
MAKE_ANEW = "make the bundle anew with `recsys run`"
Finding = partial(AnyFinding, "bundle")


def check_bundle(
    directory: Path,
    trusted_keys: Sequence[Ed25519PublicKey],
    *,
    now: int,
    max_age_days: float,
) -> Iterator[AnyFinding]:
    """Yield what is found of a bundle, until something keeps it from being served.

    Args:
        directory: The bundle.
        trusted_keys: Of which one must have signed it; none looks at no signature.
        now: Microseconds since the epoch.
        max_age_days: From which on its data are old.
    """
    try:
        manifest = verify_bundle(directory, trusted_keys=trusted_keys)
    except BundleError as error:
        yield Finding("files", "problem", str(error))
        return
    num_files = len(manifest["files"])
    yield Finding("files", "good", f"{num_files}, {_size(directory, manifest)}, hashes right")
    yield _check_signature(manifest, trusted_keys)
    yield Finding("format", "good", f"{manifest['format']}, id {manifest['bundle_id'][:12]}")
    yield from _check_versions(manifest.get("versions"))
    yield _check_age(manifest["data_until"], now, max_age_days)
    yield from _check_answers(directory, trusted_keys, now)


def _size(directory: Path, manifest: Mapping[str, Any]) -> str:
    size = sum((directory / name).stat().st_size for name in manifest["files"])
    return f"{size / 2**20:.1f} MiB"


def _check_signature(
    manifest: Mapping[str, Any], trusted_keys: Sequence[Ed25519PublicKey]
) -> AnyFinding:
    if trusted_keys:
        return Finding("signature", "good", "by a trusted key")
    if manifest.get("signature") is None:
        return Finding("signature", "absent", "unsigned; `recsys sign` signs it")
    remedy = "name the key that you trust: trusted_keys in the file of --config"
    return Finding("signature", "warning", "signed, but nobody said whom to trust", remedy)


def _check_versions(versions: Any) -> Iterator[AnyFinding]:
    made_with = versions if isinstance(versions, dict) else {}
    older = list(_older_libraries(made_with))
    for name, made, found in older:
        remedy = f"upgrade {name}: it may not read what a newer one wrote"
        yield Finding("made with", "warning", f"{name} {made}, and {found} is here", remedy)
    if not older:
        names = ", ".join(f"{name} {made}" for name, made in sorted(made_with.items()))
        yield Finding("made with", "good", names or "unknown libraries")


def _older_libraries(made_with: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield name, version made with, version here, of libraries that are older here."""
    for name, made in sorted(made_with.items()):
        try:
            found = version(name)
            is_older = Version(found).release[:2] < Version(str(made)).release[:2]
        except (PackageNotFoundError, InvalidVersion):
            continue
        if is_older:
            yield name, str(made), found


def _check_age(data_until: int, now: int, max_age_days: float) -> AnyFinding:
    days = (now - data_until) / MICROSECONDS_PER_DAY
    moment = datetime.fromtimestamp(data_until / 1e6, UTC)
    found = f"until {moment:%Y-%m-%d %H:%M} UTC, {days:.1f} days ago"
    if days > max_age_days:
        remedy = f"older than {max_age_days:g} days: `recsys run` or `recsys update` on later days"
        return Finding("data", "warning", found, remedy)
    return Finding("data", "good", found)


def _check_answers(
    directory: Path, trusted_keys: Sequence[Ed25519PublicKey], now: int
) -> Iterator[AnyFinding]:
    started = time.perf_counter()
    try:
        recommender = load_recommender(directory, trusted_keys=trusted_keys)
    except (BundleError, ConfigError) as error:
        yield Finding("load", "problem", str(error))
        return
    seconds = time.perf_counter() - started
    num_items = len(recommender.bundle.catalogue)
    yield Finding("load", "good", f"{num_items} items, {seconds:.2f} s, verified once more")
    try:
        yield _check_warm_up(recommender, now)
    except Exception as error:  # whatever a warm-up user brings about, it is told
        yield Finding("warm-up", "problem", f"a recorded user gets no answer: {error!r}", MAKE_ANEW)


def _check_warm_up(recommender: Recommender, now: int) -> AnyFinding:
    users = [state_from_json(value) for value in recommender.bundle.warmup_users]
    seconds: list[float] = []
    failures: dict[str, str] = {}
    num_empty = 0
    for user in users or [UserState("")]:
        started = time.perf_counter()
        answer = recommender.recommend([Request(user, now=now)])[0]
        seconds.append(time.perf_counter() - started)
        failures |= answer.failures
        num_empty += not answer.items
    found = f"{len(seconds)} requests, {1000 * statistics.median(seconds):.1f} ms each"
    if failures:
        stage, reason = next(iter(failures.items()))
        return Finding("warm-up", "problem", f"{found}; the {stage} failed: {reason}", MAKE_ANEW)
    if num_empty:
        remedy = "look at available_until in the items: all may be over"
        return Finding("warm-up", "problem", f"{found}; {num_empty} without an item", remedy)
    return Finding("warm-up", "good", f"{found}, none degraded")
