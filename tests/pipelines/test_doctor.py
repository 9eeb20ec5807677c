"""Each fault is found by name, with its remedy; nothing is found where nothing is wrong."""

import io
import json
import os
import shutil
import socket
from datetime import UTC, datetime, timedelta
from importlib.metadata import PackageNotFoundError

import pytest
from packaging.requirements import Requirement
from rich.console import Console
from typer.testing import CliRunner

from benchmarks.fuzzing.bundles import copy_bundle, reseal
from pipelines.cli import app
from pipelines.doctor import installation
from pipelines.doctor.bundle import check_bundle
from pipelines.doctor.findings import Finding, show, to_json
from pipelines.doctor.server import check_server
from pipelines.doctor.settings import check_settings
from pipelines.doctor.store import check_shared_store, check_store
from recsys.signing import read_private_key, read_public_key, write_key_pair
from recsys.verification import sign_bundle
from serving.lmdb_store import LmdbStore
from serving.open_store import read_log_key
from serving.server import RecsysServer, ServerOptions, new_logger
from serving.settings import LimitSettings, ServerSettings, StoreSettings, TlsSettings
from serving.store import MemoryStore
from serving.tls import channel_credentials
from serving.tokens import add_token
from tests.serving.certificates import DAYS, START, Authority

DAY = 86_400 * 10**6


@pytest.fixture
def copy(tiny_run, tmp_path):
    return copy_bundle(tiny_run / "bundle", tmp_path / "bundle")


@pytest.fixture
def start(tiny_run):
    """Start a server on the tiny bundle; further keywords are its settings."""
    started = []

    def start(*, ready=True, **settings):
        options = ServerOptions(port=0, settings=ServerSettings(**settings))
        server = RecsysServer(MemoryStore(), options, logger=new_logger(io.StringIO()))
        server.start()
        started.append(server)
        if ready:
            server.make_ready(tiny_run / "bundle")
        return f"127.0.0.1:{server.port}"

    yield start
    for server in started:
        server.stop()


def bad(findings):
    """Return what is wrong: name -> verdict, what was found and the remedy, in one text."""
    return {
        each.name: f"{each.verdict}: {each.found} -> {each.remedy}"
        for each in findings
        if each.verdict in {"problem", "warning"}
    }


def examine(directory, *trusted_keys, days=1.0):
    data_until = json.loads((directory / "manifest.json").read_text())["data_until"]
    return list(
        check_bundle(directory, trusted_keys, now=data_until + int(days * DAY), max_age_days=7)
    )


def test_whole_bundle_is_found_good(copy):
    found = examine(copy)
    assert bad(found) == {}
    assert [each.name for each in found] == [
        "files",
        "signature",
        "format",
        "made with",
        "data",
        "load",
        "warm-up",
    ]
    assert "17 requests" in found[-1].found


def test_altered_bundle_ends_the_look_at_it(copy):
    (copy / "popular.npy").write_bytes(b"x")
    [finding] = examine(copy)
    assert (finding.verdict, finding.name) == ("problem", "files")
    assert "popular.npy" in finding.found


def test_old_data_are_a_warning(copy):
    assert bad(examine(copy, days=7)) == {}
    assert "recsys update" in bad(examine(copy, days=7.1))["data"]


def test_signature_is_asked_for_with_keys_and_noticed_without(copy, tmp_path):
    write_key_pair(tmp_path / "site.key")
    key = read_private_key(tmp_path / "site.key")
    assert "recsys sign" in bad(examine(copy, key.public_key()))["files"]
    sign_bundle(copy, key)
    assert bad(examine(copy, key.public_key())) == {}
    assert "trusted_keys" in bad(examine(copy))["signature"]


def test_bundle_made_with_newer_libraries_is_a_warning(copy):
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["versions"] |= {"numpy": "99.1.0"}
    (copy / "manifest.json").write_text(json.dumps(manifest))
    reseal(copy)
    assert "upgrade numpy" in bad(examine(copy))["made with"]


def test_bundle_that_fails_its_warm_up_is_a_problem(copy):
    features = json.loads((copy / "ranking" / "features.json").read_text())
    features["user_numeric"].pop()
    (copy / "ranking" / "features.json").write_text(json.dumps(features))
    reseal(copy)
    assert "the ranker failed" in bad(examine(copy))["warm-up"]
    (copy / "warmup.json").write_text('[{"user_id": 7}]')
    reseal(copy)
    assert "gets no answer" in bad(examine(copy))["warm-up"]


def test_whole_installation_is_found_good(free_port):
    found = bad(installation.check_installation("127.0.0.1", free_port))
    assert not any(text.startswith("problem") for text in found.values())


@pytest.fixture
def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_missing_old_and_unknown_packages_are_found(monkeypatch, free_port):
    texts = ["numpy>=999", "no-such-package", "rich>=1", 'optuna>=999; extra == "tune"']
    monkeypatch.setattr(installation, "requires", lambda name: texts)
    found = list(installation.check_installation("127.0.0.1", free_port))
    faults = [each.found for each in found if each.name == "packages"]
    assert faults[0].startswith("numpy is ")
    assert faults[1] == "no-such-package is missing"
    by_name = {each.name: each for each in found}
    assert by_name["tune"].verdict == "absent"
    assert by_name["jax"].verdict == "warning"


def test_package_that_is_not_installed_is_a_problem(monkeypatch):
    def absent(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(installation, "requires", absent)
    found = bad(installation.check_installation("127.0.0.1", 1))
    assert "pip install" in found["packages"]


def test_extras_are_those_of_the_extra_alone():
    texts = ["a>=1", 'b>=1; extra == "x"', 'recsys[x]; extra == "y"', 'c; extra == "y"']
    requirements = [Requirement(text) for text in texts]
    names = {
        extra: [each.name for each in installation._of_extra(requirements, extra)]
        for extra in ("", "x", "y")
    }
    assert names == {"": ["a"], "x": ["b"], "y": ["b", "c"]}


def test_old_python_is_a_problem():
    assert installation._check_python((3, 10)).verdict == "problem"
    assert installation._check_python((3, 11)).verdict == "good"


def test_taken_port_is_a_warning():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        finding = installation._check_port("127.0.0.1", port)
    assert finding.verdict == "warning"
    assert "--port" in finding.remedy


def test_shared_store_is_counted_and_asked_what_survives(redis_server, free_port):
    redis_server.flush()
    settings = StoreSettings(url=redis_server.url, timeout_ms=1000)
    assert bad(check_shared_store(settings)) == {}
    with redis_server.client() as client:
        client.config_set("appendfsync", "no")
        assert "appendfsync always" in bad(check_shared_store(settings))["durability"]
        client.config_set("appendfsync", "always")
    gone = StoreSettings(url=f"redis://127.0.0.1:{free_port}")
    assert "does not answer" in bad(check_shared_store(gone))["server"]


def test_store_is_counted_and_left_alone(tmp_path):
    assert "no store" in bad(check_store(tmp_path / "store"))["files"]
    assert not (tmp_path / "store").exists()
    store = LmdbStore(tmp_path / "store")
    store.block_items(["i1", "i2"])
    store.close()
    read_log_key(tmp_path / "store")
    found = list(check_store(tmp_path / "store"))
    assert bad(found) == {}
    assert found[0].found == "0 users, 0 events, 2 blocked items"
    (tmp_path / "store" / "log.key").chmod(0o644)
    assert "chmod 600" in bad(check_store(tmp_path / "store"))["log key"]
    (tmp_path / "store" / "data.mdb").chmod(0o640)
    assert "chmod 600" in bad(check_store(tmp_path / "store"))["rights"]
    (tmp_path / "store" / "data.mdb").write_bytes(os.urandom(9000))
    assert bad(check_store(tmp_path / "store"))["files"].startswith("problem")


def test_full_disk_is_a_warning(tmp_path, monkeypatch):
    LmdbStore(tmp_path / "store").close()
    usage = shutil.disk_usage(tmp_path)._replace(free=10**9)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert "make room" in bad(check_store(tmp_path / "store"))["room"]


def test_settings_that_end_soon_are_a_warning(tmp_path):
    authority = Authority(tmp_path)
    certificate, key = authority.issue("server")
    key.chmod(0o600)
    end = START + timedelta(days=DAYS)
    for name, days in (("soon", 20), ("later", 21)):
        add_token(tmp_path / "tokens.toml", name, ["GetBundle"], end - timedelta(days=20 - days))
    write_key_pair(tmp_path / "site.key")
    settings = ServerSettings(
        tls=TlsSettings(certificate_file=certificate, private_key_file=key),
        tokens_file=tmp_path / "tokens.toml",
        trusted_keys=(tmp_path / "site.pub",),
    )
    assert bad(check_settings(settings, end - timedelta(days=14))) == {}
    found = bad(check_settings(settings, end - timedelta(days=13.5)))
    assert "renew it" in found["TLS"]
    assert "soon ends" in found["tokens"]
    key.chmod(0o640)
    assert "chmod 600" in bad(check_settings(settings, end - timedelta(days=14)))["TLS"]
    for path in (certificate, tmp_path / "tokens.toml", tmp_path / "site.pub"):
        path.write_text("x")
    assert set(bad(check_settings(settings, START))) == {"TLS", "tokens", "trusted keys"}


def test_running_server_is_found_good(start, tiny_run):
    found = list(check_server(start(), tls=None, token=""))
    assert bad(found) == {}
    assert [each.name for each in found] == ["health", "GetBundle", "RecommendItems", "latency"]


def test_server_that_is_not_there_or_not_ready_is_a_problem(start, free_port, monkeypatch):
    monkeypatch.setattr("pipelines.doctor.server.CONNECT_SECONDS", 0.3)
    found = bad(check_server(f"127.0.0.1:{free_port}", tls=None, token=""))
    assert "cannot be reached" in found["health"]
    found = bad(check_server(start(ready=False), tls=None, token=""))
    assert "NOT_SERVING" in found["health"]


def test_other_bundle_refused_token_and_limits_are_told(start, tmp_path):
    address = start()
    found = bad(check_server(address, tls=None, token="", expected_bundle_id="0" * 64))
    assert "activate" in found["GetBundle"]
    path = tmp_path / "tokens.toml"
    token = add_token(path, "site", ["GetBundle"], None)
    address = start(tokens_file=path)
    assert "--token-file" in bad(check_server(address, tls=None, token=""))["calls"]
    assert "--method" in bad(check_server(address, tls=None, token=token))["calls"]
    address = start(limits=LimitSettings(calls_per_second=0.001, burst_calls=3))
    assert "[limits]" in bad(check_server(address, tls=None, token=""))["calls"]


def test_server_with_tls_is_found_good_with_its_authority(start, tmp_path):
    authority = Authority(tmp_path)
    certificate, key = authority.issue("server")
    address = start(tls=TlsSettings(certificate_file=certificate, private_key_file=key))
    tls = channel_credentials(authority.certificate_file, now=datetime.now(UTC))
    assert bad(check_server(address, tls=tls, token="")) == {}


def test_slow_server_is_a_warning(monkeypatch, start):
    monkeypatch.setattr("pipelines.doctor.server.SLOW_MS", 0.0)
    assert "num_candidates" in bad(check_server(start(), tls=None, token=""))["latency"]


def test_findings_fit_eighty_columns_and_show_each_remedy():
    findings = [
        Finding("bundle", "files", "problem", "x" * 150, "copy the bundle anew " * 5),
        Finding("bundle", "format", "good", "2"),
        Finding("store", "room", "warning", "0.5 GiB free", "make room"),
    ]
    stream = io.StringIO()
    show(findings, Console(file=stream, width=80))
    lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0] == "bundle"
    assert lines[-1] == "1 problem, 1 warning"
    assert "".join(lines).count("x") == 150
    assert any("→ make room" in line for line in lines)
    assert to_json(findings)["problems"] == 1


def test_command_ends_with_1_where_something_is_wrong(copy, tmp_path, free_port):
    arguments = ["doctor", "--bundle", str(copy), "--port", str(free_port), "--json"]
    done = CliRunner().invoke(app, arguments)
    found = json.loads(done.stdout)
    assert (done.exit_code, found["problems"]) == (0, 0), found
    (copy / "popular.npy").write_bytes(b"x")
    done = CliRunner().invoke(app, arguments)
    assert (done.exit_code, json.loads(done.stdout)["problems"]) == (1, 1)
    done = CliRunner().invoke(app, arguments[:-1], env={"COLUMNS": "80"})
    assert "popular.npy" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_command_trusts_the_keys_of_the_settings(copy, tmp_path, free_port):
    write_key_pair(tmp_path / "site.key")
    config = tmp_path / "server.toml"
    config.write_text(f"trusted_keys = ['{tmp_path / 'site.pub'}']\n")
    arguments = ["doctor", "--bundle", copy, "--config", config, "--port", free_port, "--json"]
    arguments = [str(argument) for argument in arguments]
    assert CliRunner().invoke(app, arguments).exit_code == 1
    sign_bundle(copy, read_private_key(tmp_path / "site.key"))
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert read_public_key(tmp_path / "site.pub")
