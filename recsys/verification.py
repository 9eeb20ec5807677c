"""What must hold before any file of a bundle is parsed: manifest, id, signature, every byte.

Only the manifest itself is read before it is trusted: as JSON, of bounded size, into plain values
whose types are checked. All else is hashed, and no parser sees a file whose hash is not the one
in a manifest that has passed.
"""

import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from recsys.artefacts import MANIFEST, STEP_FILE, canonical_json, hash_file, hash_json
from recsys.artefacts import read_manifest as read_any_manifest
from recsys.errors import ArtefactError, BundleError
from recsys.signing import check_signature, new_signature

KIND = "bundle"
FORMAT = 2
UNSIGNED = ("bundle_id", "signature")
"""Keys of a manifest that its id and signature do not cover: themselves."""
HASH_LENGTH = 64
LATEST_MOMENT = 253_402_300_799_999_999
"""The end of the year 9999 in microseconds: later moments have no date."""


def verify_bundle(
    directory: Path, *, trusted_keys: Sequence[Ed25519PublicKey] = ()
) -> dict[str, Any]:
    """Check a bundle's manifest, id, signature and every file; return the manifest.

    Args:
        directory: The bundle.
        trusted_keys: Demand a signature by one of them; without any, none is looked at.

    Raises:
        BundleError: With the name of the first thing that is wrong.
    """
    manifest = read_manifest(directory)
    _check_id(directory, manifest)
    if trusted_keys:
        try:
            content = canonical_json(_signed_part(manifest))
            check_signature(manifest.get("signature"), content, trusted_keys)
        except ArtefactError as error:
            raise BundleError(f"{directory}: {error}") from None
    _check_files(directory, manifest["files"])
    return manifest


def read_manifest(directory: Path) -> dict[str, Any]:
    """Read the manifest of a bundle; whether it speaks the truth is not looked at.

    Raises:
        BundleError: It is missing, not a bundle's, or of an unknown format.
    """
    try:
        manifest = read_any_manifest(directory, KIND, FORMAT)
    except ArtefactError as error:
        raise BundleError(str(error)) from None
    _check_types(directory / MANIFEST, manifest)
    return manifest


def bundle_id_of(manifest: Mapping[str, Any]) -> str:
    """Return the hash of a manifest without its id and signature."""
    return hash_json(_signed_part(manifest))


def sign_bundle(directory: Path, private_key: Ed25519PrivateKey) -> dict[str, Any]:
    """Verify a bundle, then put a signature into its manifest; return the manifest.

    Its id stays. An earlier signature is replaced, in one step: who reads meanwhile finds either.

    Raises:
        BundleError: The bundle is not whole; nothing was signed.
    """
    manifest = verify_bundle(directory)
    content = canonical_json(_signed_part(manifest))
    manifest["signature"] = new_signature(content, private_key)
    try:
        _replace_manifest(directory / MANIFEST, manifest)
    except OSError as error:
        raise BundleError(f"{directory}: the signature cannot be written: {error}") from None
    return manifest


def _signed_part(manifest: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in manifest.items() if key not in UNSIGNED}


def _replace_manifest(path: Path, manifest: Mapping[str, Any]) -> None:
    text = json.dumps(manifest, sort_keys=True, indent=1, allow_nan=False) + "\n"
    with tempfile.TemporaryDirectory(prefix=".sign.", dir=path.parent.parent) as temporary:
        fresh = Path(temporary) / path.name
        with fresh.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        fresh.chmod(path.stat().st_mode & 0o777)
        fresh.replace(path)


def _check_id(directory: Path, manifest: Mapping[str, Any]) -> None:
    try:
        is_unaltered = bundle_id_of(manifest) == manifest["bundle_id"]
    except (ValueError, RecursionError):  # NaN, or nested without end: none of ours
        is_unaltered = False
    if not is_unaltered:
        raise BundleError(
            f"{directory / MANIFEST}: does not match its own bundle_id, so it was altered; copy "
            f"the bundle anew"
        )


def _check_types(path: Path, manifest: Mapping[str, Any]) -> None:
    files, data_until = manifest.get("files"), manifest.get("data_until")
    if not isinstance(manifest.get("bundle_id"), str):
        raise BundleError(f"{path}: expected a bundle_id, found none; copy the bundle anew")
    if not isinstance(files, dict) or not all(map(_is_hash, files.values())):
        raise BundleError(f"{path}: expected files with a sha256 each; make the bundle anew")
    for name in files:
        if not _is_inside(name):
            raise BundleError(
                f"{path}: file {name!r} is no plain path within the bundle; fetch the bundle "
                f"anew, from a source that you trust"
            )
    if type(data_until) is not int or not 0 <= data_until <= LATEST_MOMENT:
        raise BundleError(
            f"{path}: expected data_until in microseconds since 1970, got {data_until!r:.40}; "
            f"make the bundle anew"
        )


def _is_hash(value: Any) -> bool:
    return isinstance(value, str) and len(value) == HASH_LENGTH


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    plain = str(path) == name and "\0" not in name and "\\" not in name
    return plain and not path.is_absolute() and ".." not in path.parts and name != "."


def _check_files(directory: Path, hashes: Mapping[str, str]) -> None:
    present = _list_plain_files(directory)
    for name in sorted(present ^ set(hashes)):
        fault = "is missing" if name in hashes else "is not in the manifest"
        raise BundleError(f"{directory}: file {name!r} {fault}; copy the bundle anew")
    hash_once = _hashing_once()
    for name, expected in sorted(hashes.items()):
        try:
            found = hash_once(directory / name)
        except OSError as error:
            raise BundleError(f"{directory}: file {name!r} cannot be read: {error}") from None
        if found != expected:
            raise BundleError(f"{directory}: file {name!r} was altered; copy the bundle anew")


def _hashing_once() -> Callable[[Path], str]:
    """Return what hashes files, those that are one on the disk once."""
    known: dict[tuple[int, int], str] = {}

    def hash_once(path: Path) -> str:
        status = path.stat()
        key = (status.st_dev, status.st_ino)
        if key not in known:
            known[key] = hash_file(path)
        return known[key]

    return hash_once


def _list_plain_files(directory: Path) -> set[str]:
    """Return the names of all files but the manifest; refuse what is no plain file or folder.

    A link would let files be parsed that were never hashed, a pipe would be waited for.
    """
    names = set()
    for path in directory.rglob("*"):
        name = str(path.relative_to(directory))
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise BundleError(
                f"{directory}: {name!r} is a link or a device, not a plain file; copy the bundle "
                f"anew, with its files in place of links"
            )
        if path.is_file():
            names.add(name)
    return names - {MANIFEST, STEP_FILE}
