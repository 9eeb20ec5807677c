"""Encrypted calls, callers who prove who they are, and what is said of files that are wrong."""

import os
import socket
from datetime import UTC, datetime

import grpc
import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from recsys.errors import ConfigError
from serving import server as server_module
from serving.client import RecommenderClient
from serving.settings import ServerSettings, TlsSettings
from serving.tls import channel_credentials, days_left, server_credentials
from tests.serving.certificates import Authority

NOW = datetime(2027, 1, 15, tzinfo=UTC)


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path)


@pytest.fixture
def tls(authority):
    certificate, key = authority.issue("server")
    return TlsSettings(certificate_file=certificate, private_key_file=key)


@pytest.fixture
def start_secure(start_server, authority, tls):
    def start(**changes):
        settings = ServerSettings(tls=tls.model_copy(update=changes))
        return start_server(settings=settings)

    return start


def bundle_of(server, **files):
    credentials = channel_credentials(**files, now=NOW)
    address = f"127.0.0.1:{server.port}"
    with RecommenderClient(address, timeout_seconds=2, tls=credentials) as client:
        return client.get_bundle().bundle_id


def refused(server, **files):
    with pytest.raises(grpc.RpcError) as caught:
        bundle_of(server, **files)
    return caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_encrypted_call_is_answered_to_who_trusts_the_authority(start_secure, authority, tmp_path):
    server = start_secure()
    assert bundle_of(server, authority_file=authority.certificate_file) == "bundle-a"
    stranger = Authority(tmp_path, "stranger")
    assert refused(server, authority_file=stranger.certificate_file)


def test_plain_call_to_an_encrypted_port_is_refused(start_secure):
    server = start_secure()
    with (
        RecommenderClient(f"127.0.0.1:{server.port}", timeout_seconds=1) as client,
        pytest.raises(grpc.RpcError),
    ):
        client.get_bundle()


def test_client_certificate_is_demanded_where_an_authority_is_named(
    start_secure, authority, tmp_path, log_events
):
    server = start_secure(client_authority_file=authority.certificate_file)
    trusted = {"authority_file": authority.certificate_file}
    assert refused(server, **trusted)
    certificate, key = Authority(tmp_path, "stranger").issue("intruder")
    assert refused(server, **trusted, certificate_file=certificate, private_key_file=key)
    certificate, key = authority.issue("site-backend", addresses=())
    found = bundle_of(server, **trusted, certificate_file=certificate, private_key_file=key)
    assert found == "bundle-a"
    assert [call.kwargs["client"] for call in log_events.calls] == ["site-backend"]


def test_connection_that_says_nothing_is_closed(start_secure, monkeypatch):
    monkeypatch.setattr(server_module, "HANDSHAKE_TIMEOUT_MS", 300)
    server = start_secure()
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as silent:
        assert silent.recv(1) == b""


def test_missing_and_malformed_files_are_refused_by_name(tls, tmp_path):
    wrong = tmp_path / "wrong.pem"
    for field, expected in (
        ("certificate_file", "expected PEM certificates"),
        ("private_key_file", "expected an unencrypted PEM private key"),
        ("client_authority_file", "expected PEM certificates"),
    ):
        settings = tls.model_copy(update={field: wrong})
        wrong.unlink(missing_ok=True)
        with pytest.raises(ConfigError, match=r"wrong\.pem: cannot be read: No such file"):
            server_credentials(settings, NOW)
        for content in (b"", b"no PEM", os.urandom(100)):
            wrong.write_bytes(content)
            with pytest.raises(ConfigError, match=rf"wrong\.pem: {expected}"):
                server_credentials(settings, NOW)


def test_key_of_another_certificate_is_refused(tls, authority):
    _, other = authority.issue("other")
    settings = tls.model_copy(update={"private_key_file": other})
    with pytest.raises(ConfigError, match=r"other\.key: is not the key of the first certificate"):
        server_credentials(settings, NOW)


def test_encrypted_key_is_refused(tls):
    key = load_pem_private_key(tls.private_key_file.read_bytes(), None)
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))
    tls.private_key_file.write_bytes(locked)
    with pytest.raises(ConfigError, match="unencrypted"):
        server_credentials(tls, NOW)


def test_certificate_outside_its_time_is_refused(tls, authority):
    certificate, key = authority.issue("old", days=30)
    old = TlsSettings(certificate_file=certificate, private_key_file=key)
    with pytest.raises(ConfigError, match=r"old\.crt.*until|old\.crt.*to 2020-01-31"):
        server_credentials(old, NOW)
    with pytest.raises(ConfigError, match="set the clock"):
        server_credentials(tls, datetime(2019, 12, 31, tzinfo=UTC))
    assert server_credentials(old, datetime(2020, 1, 30, tzinfo=UTC))
    assert days_left(certificate, datetime(2020, 1, 30, tzinfo=UTC)) == 1


def test_client_gives_both_of_its_files(tls):
    with pytest.raises(ConfigError, match="give both"):
        channel_credentials(certificate_file=tls.certificate_file, now=NOW)


def test_server_does_not_start_with_a_wrong_file(start_server, tls, tmp_path):
    settings = ServerSettings(tls=tls.model_copy(update={"private_key_file": tmp_path / "none"}))
    with pytest.raises(ConfigError, match="none: cannot be read"):
        start_server(settings=settings)


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "example.org"])
def test_address_that_others_reach_needs_encryption_and_known_callers(start_server, host, tls):
    for settings, expected in (
        (ServerSettings(), r"encryption.*and callers"),
        (ServerSettings(tls=tls), r"expected callers who say"),
        (ServerSettings(tokens_file="tokens.toml"), r"expected encryption \("),
    ):
        with pytest.raises(ConfigError, match=expected):
            start_server(host=host, settings=settings)


def test_address_that_others_reach_is_taken_when_it_is_safe_or_said_to_be(start_server, tls):
    everybody = ServerSettings(open_to_network=True)
    assert start_server(host="0.0.0.0", settings=everybody).port
    mutual = tls.model_copy(update={"client_authority_file": tls.certificate_file})
    assert start_server(host="0.0.0.0", settings=ServerSettings(tls=mutual)).port


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.0.0.2"])
def test_loopback_needs_nothing(start_server, host):
    assert start_server(host=host).port
