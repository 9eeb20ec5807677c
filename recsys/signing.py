"""Ed25519 keys and signatures: who vouches for a bundle.

Keys are PEM files as OpenSSL reads and writes them: PKCS#8 for the private one, which only its
owner may read, SubjectPublicKeyInfo for the public one, which every server gets. A key goes by
its fingerprint, the first 16 hex digits of the sha256 of its 32 public bytes.
"""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from recsys.errors import ArtefactError, ConfigError

FINGERPRINT_LENGTH = 16
PUBLIC_SUFFIX = ".pub"


def write_key_pair(path: Path) -> Ed25519PublicKey:
    """Make a key pair; write the private key to `path`, the public one beside it as `.pub`.

    Raises:
        ConfigError: One of the files is there already, or cannot be written.
    """
    private_key = Ed25519PrivateKey.generate()
    public_key = private_key.public_key()
    secret = private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    known = public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    _write_new(public_path(path), known, 0o644)
    _write_new(path, secret, 0o600)
    return public_key


def public_path(path: Path) -> Path:
    """Return where the public key of a private key's file lies."""
    return path.with_suffix(PUBLIC_SUFFIX)


def read_private_key(path: Path) -> Ed25519PrivateKey:
    """Read a private key.

    Raises:
        ConfigError: The file is missing, encrypted, or no Ed25519 private key.
    """
    content = _read(path, "an Ed25519 private key")
    try:
        key = load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(
            f"{path}: expected an unencrypted PEM private key, got one that cannot be read "
            f"({error}); `recsys key create` makes one"
        ) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{path}: expected an Ed25519 key, got {type(key).__name__}")
    return key


def read_public_key(path: Path) -> Ed25519PublicKey:
    """Read a public key.

    Raises:
        ConfigError: The file is missing, or no Ed25519 public key.
    """
    content = _read(path, "an Ed25519 public key")
    try:
        key = load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(
            f"{path}: expected a PEM public key, got a file that cannot be read ({error}); give "
            f"the {PUBLIC_SUFFIX} file that `recsys key create` wrote"
        ) from None
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError(f"{path}: expected an Ed25519 key, got {type(key).__name__}")
    return key


def fingerprint(public_key: Ed25519PublicKey) -> str:
    """Return the short name of a key."""
    raw = public_key.public_bytes(Encoding.Raw, PublicFormat.Raw)
    return hashlib.sha256(raw).hexdigest()[:FINGERPRINT_LENGTH]


def new_signature(content: bytes, private_key: Ed25519PrivateKey) -> dict[str, str]:
    """Sign bytes; the signature says by which key, as a hint to whoever looks for it."""
    key = fingerprint(private_key.public_key())
    return {"key": key, "value": private_key.sign(content).hex()}


def check_signature(signature: Any, content: bytes, trusted: Sequence[Ed25519PublicKey]) -> str:
    """Return the fingerprint of the trusted key that signed these bytes.

    Args:
        signature: What `new_signature` gave, read from a place that anybody may have written to.
        content: The bytes.
        trusted: Keys of which one must have signed; what the signature says of its key decides
            nothing.

    Raises:
        ArtefactError: No trusted key did; says what came instead.
    """
    names = ", ".join(map(fingerprint, trusted))
    if signature is None:
        raise ArtefactError(
            f"expected a signature by a trusted key ({names}), found none; sign it with "
            f"`recsys sign` where it was made"
        )
    value = _signature_bytes(signature)
    for key in trusted:
        if _is_signed_by(key, value, content):
            return fingerprint(key)
    raise ArtefactError(
        f"expected a signature by a trusted key ({names}), found one that no such key made (it "
        f"names {_named_key(signature)}): it was signed with another key, or altered afterwards; "
        f"fetch it anew, or add that key's {PUBLIC_SUFFIX} file to trusted_keys"
    )


def _signature_bytes(signature: Any) -> bytes:
    value = signature.get("value") if isinstance(signature, dict) else None
    try:
        return bytes.fromhex(value) if isinstance(value, str) else b""
    except ValueError:
        return b""


def _is_signed_by(key: Ed25519PublicKey, signature: bytes, content: bytes) -> bool:
    try:
        key.verify(signature, content)
    except InvalidSignature:
        return False
    return True


def _named_key(signature: Any) -> str:
    named = signature.get("key") if isinstance(signature, dict) else None
    return repr(named[:FINGERPRINT_LENGTH]) if isinstance(named, str) else "none"


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: expected {what}, but {error.strerror or error}") from None


def _write_new(path: Path, content: bytes, mode: int) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError:
        raise ConfigError(
            f"{path}: is there already, and a key is never overwritten; choose another name"
        ) from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror or error}") from None
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
