"""Credentials of both ends from PEM files, checked before gRPC gets them.

gRPC takes any bytes and fails at the first handshake, at the caller's end and without a reason.
"""

from datetime import UTC, datetime
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from recsys.errors import ConfigError
from serving.settings import TlsSettings


def server_credentials(settings: TlsSettings, now: datetime) -> grpc.ServerCredentials:
    """Return what a server needs to listen with TLS.

    Args:
        settings: Its files.
        now: With a time zone; certificates are to be valid then.

    Raises:
        ConfigError: A file is missing, not what it should be, past its time, or of another pair.
    """
    pair = _read_pair(settings.private_key_file, settings.certificate_file, now)
    authority = settings.client_authority_file
    return grpc.ssl_server_credentials(
        [pair],
        root_certificates=_read_certificates(authority, now) if authority else None,
        require_client_auth=authority is not None,
    )


def channel_credentials(
    authority_file: Path | None = None,
    *,
    certificate_file: Path | None = None,
    private_key_file: Path | None = None,
    now: datetime | None = None,
) -> grpc.ChannelCredentials:
    """Return what a client needs to call with TLS.

    Args:
        authority_file: Who vouches for the server; None takes the authorities that gRPC brings.
        certificate_file: The client's own, for a server that demands one.
        private_key_file: Of that certificate.
        now: With a time zone; None takes this machine's.

    Raises:
        ConfigError: As `server_credentials`, or one of the client's two files is not given.
    """
    if (certificate_file is None) != (private_key_file is None):
        raise ConfigError("a client's certificate and its private key come together; give both")
    now = now or datetime.now(UTC)
    key = chain = None
    if certificate_file and private_key_file:
        key, chain = _read_pair(private_key_file, certificate_file, now)
    roots = _read_certificates(authority_file, now) if authority_file else None
    return grpc.ssl_channel_credentials(roots, key, chain)


def days_left(certificate_file: Path, now: datetime) -> float:
    """Return for how many days a certificate will be valid yet.

    Raises:
        ConfigError: The file holds no certificate.
    """
    expires = _parse_certificates(certificate_file)[0].not_valid_after_utc
    return (expires - now).total_seconds() / 86_400


def _read_pair(key_file: Path, certificate_file: Path, now: datetime) -> tuple[bytes, bytes]:
    chain = _read_certificates(certificate_file, now)
    packed = _read(key_file)
    try:
        key = load_pem_private_key(packed, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(
            f"{key_file}: expected an unencrypted PEM private key, got a file that cannot be "
            f"read ({error})"
        ) from None
    if key.public_key() != x509.load_pem_x509_certificates(chain)[0].public_key():
        raise ConfigError(
            f"{key_file}: is not the key of the first certificate in {certificate_file}; give "
            f"the pair that was made together"
        )
    return packed, chain


def _read_certificates(path: Path, now: datetime) -> bytes:
    for certificate in _parse_certificates(path):
        start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        if not start <= now <= end:
            raise ConfigError(
                f"{path}: the certificate of {certificate.subject.rfc4514_string()!r} is valid "
                f"from {start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC, and it is "
                f"{now:%Y-%m-%d %H:%M}; renew it, or set the clock"
            )
    return _read(path)


def _parse_certificates(path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(_read(path))
    except ValueError as error:
        raise ConfigError(f"{path}: expected PEM certificates, got none ({error})") from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from None
