"""An authority, and certificates by it, made for a test."""

import ipaddress
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

START, DAYS = datetime(2020, 1, 1, tzinfo=UTC), 20_000


class Authority:
    """Vouches for servers and clients; writes PEM files into a directory.

    Args:
        directory: Of all files.
        name: Of the authority, and of its file `NAME.crt`.
    """

    def __init__(self, directory, name="authority"):
        self._directory = directory
        self._name = _name(name)
        self._key = generate_private_key(SECP256R1())
        self.certificate_file = directory / f"{name}.crt"
        certificate = self._sign(self._name, self._key, DAYS)
        self.certificate_file.write_bytes(certificate.public_bytes(Encoding.PEM))

    def issue(self, name, *, days=DAYS, addresses=("127.0.0.1",)):
        """Write NAME.crt and NAME.key, good for some addresses; return their paths."""
        key = generate_private_key(SECP256R1())
        certificate = self._sign(_name(name), key, days, addresses=addresses)
        paths = self._directory / f"{name}.crt", self._directory / f"{name}.key"
        paths[0].write_bytes(certificate.public_bytes(Encoding.PEM))
        plain = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        paths[1].write_bytes(plain)
        return paths

    def _sign(self, subject, key, days, *, addresses=()):
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(START)
            .not_valid_after(START + timedelta(days=days))
            .add_extension(x509.BasicConstraints(subject == self._name, None), critical=True)
        )
        if addresses:
            names = [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self._key, hashes.SHA256())


def _name(value):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, value)])
