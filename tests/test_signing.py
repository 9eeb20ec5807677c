import json
import shutil
import stat
import subprocess

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from recsys.errors import ArtefactError, BundleError, ConfigError
from recsys.signing import (
    check_signature,
    fingerprint,
    new_signature,
    read_private_key,
    read_public_key,
    write_key_pair,
)
from recsys.verification import sign_bundle, verify_bundle


@pytest.fixture
def copy(tiny_run, tmp_path):
    target = tmp_path / "bundle"
    shutil.copytree(tiny_run / "bundle", target)
    return target


@pytest.fixture
def key():
    return Ed25519PrivateKey.generate()


def test_key_pair_is_read_back_and_only_its_owner_may_read_the_private_one(tmp_path):
    public_key = write_key_pair(tmp_path / "site.key")
    assert read_private_key(tmp_path / "site.key").public_key() == public_key
    assert read_public_key(tmp_path / "site.pub") == public_key
    assert stat.S_IMODE((tmp_path / "site.key").stat().st_mode) == 0o600


def test_keys_are_openssls(tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("no openssl on this machine")
    write_key_pair(tmp_path / "site.key")
    command = ["openssl", "pkey", "-in", "site.key", "-pubout"]
    public = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True).stdout
    assert public == (tmp_path / "site.pub").read_bytes()


def test_key_is_never_overwritten(tmp_path):
    write_key_pair(tmp_path / "site.key")
    before = (tmp_path / "site.key").read_bytes()
    with pytest.raises(ConfigError, match="never overwritten"):
        write_key_pair(tmp_path / "site.key")
    assert (tmp_path / "site.key").read_bytes() == before


def test_files_that_hold_no_ed25519_key_are_refused_by_name(tmp_path, key):
    other = generate_private_key(SECP256R1())
    path = tmp_path / "some.pem"
    for read in (read_private_key, read_public_key):
        with pytest.raises(ConfigError, match=r"some\.pem.*No such file"):
            read(path)
    path.write_bytes(b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    for read in (read_private_key, read_public_key):
        with pytest.raises(ConfigError, match=r"some\.pem.*cannot be read"):
            read(path)
    path.write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(ConfigError, match="expected an Ed25519 key"):
        read_private_key(path)
    public = other.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    path.write_bytes(public)
    with pytest.raises(ConfigError, match="expected an Ed25519 key"):
        read_public_key(path)
    locked = BestAvailableEncryption(b"secret")
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked))
    with pytest.raises(ConfigError, match="unencrypted"):
        read_private_key(path)


def test_signature_of_any_trusted_key_is_taken_and_says_whose_it_is(key):
    other = Ed25519PrivateKey.generate()
    signature = new_signature(b"content", key)
    trusted = [other.public_key(), key.public_key()]
    assert check_signature(signature, b"content", trusted) == fingerprint(key.public_key())


@pytest.mark.parametrize(
    "change",
    [
        lambda signature: None,
        lambda signature: "x",
        lambda signature: {},
        lambda signature: {**signature, "value": 7},
        lambda signature: {**signature, "value": "zz"},
        lambda signature: {**signature, "value": ""},
        lambda signature: {**signature, "value": "00" * 64},
        lambda signature: {**signature, "value": signature["value"] + "00"},
    ],
)
def test_what_is_no_signature_is_refused(key, change):
    signature = change(new_signature(b"content", key))
    with pytest.raises(ArtefactError, match="expected a signature by a trusted key"):
        check_signature(signature, b"content", [key.public_key()])


def test_signature_of_other_content_or_another_key_is_refused(key):
    signature = new_signature(b"content", key)
    with pytest.raises(ArtefactError, match="altered afterwards"):
        check_signature(signature, b"Content", [key.public_key()])
    stranger = Ed25519PrivateKey.generate()
    forged = new_signature(b"content", stranger) | {"key": fingerprint(key.public_key())}
    with pytest.raises(ArtefactError, match="no such key made"):
        check_signature(forged, b"content", [key.public_key()])


def test_signing_a_bundle_keeps_its_id_and_its_files(copy, key):
    before = verify_bundle(copy)
    after = sign_bundle(copy, key)
    assert {name: value for name, value in after.items() if name != "signature"} == before
    assert verify_bundle(copy, trusted_keys=[key.public_key()]) == after
    assert json.loads((copy / "manifest.json").read_text()) == after
    assert not list(copy.parent.glob(".sign.*"))


def test_unsigned_or_wrongly_signed_bundle_is_refused_once_a_key_is_trusted(copy, key):
    stranger = Ed25519PrivateKey.generate()
    with pytest.raises(BundleError, match="found none"):
        verify_bundle(copy, trusted_keys=[key.public_key()])
    sign_bundle(copy, stranger)
    with pytest.raises(BundleError, match=fingerprint(stranger.public_key())):
        verify_bundle(copy, trusted_keys=[key.public_key()])
    sign_bundle(copy, key)
    verify_bundle(copy, trusted_keys=[key.public_key()])


def test_broken_bundle_is_not_signed(copy, key):
    manifest = (copy / "manifest.json").read_bytes()
    (copy / "popular.npy").write_bytes(b"x")
    with pytest.raises(BundleError, match=r"popular\.npy"):
        sign_bundle(copy, key)
    assert (copy / "manifest.json").read_bytes() == manifest
