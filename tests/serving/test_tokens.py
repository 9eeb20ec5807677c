"""Tokens: who may call what."""

import re
import stat
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from recsys.errors import ConfigError
from serving import tokens as tokens_module
from serving.client import RecommenderClient
from serving.settings import ServerSettings
from serving.tokens import METHODS, SERVICES, add_token, hash_token, read_tokens
from serving.v1 import admin_pb2 as ab
from serving.v1 import recommender_pb2 as pb

UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED


@pytest.fixture
def path(tmp_path):
    return tmp_path / "tokens.toml"


@pytest.fixture
def guarded(start_server, path):
    """A server that asks for tokens, and a token for two of its methods."""
    token = add_token(path, "site", ["RecommendItems", "GetBundle"], None)
    return start_server(admin=True, settings=ServerSettings(tokens_file=path)), token


def bearer(token):
    return {"metadata": [("authorization", f"Bearer {token}")]}


def test_token_is_found_again_and_the_file_holds_its_hash_only(path):
    token = add_token(path, "site", ["RecommendItems"], None)
    found = read_tokens(path).find(token)
    assert (found.name, found.methods, found.expires) == ("site", {"RecommendItems"}, None)
    text = path.read_text()
    assert token not in text
    assert hash_token(token).hex() in text
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_tokens_are_long_and_unlike(path):
    made = [add_token(path, f"site-{number}", ["GetBundle"], None) for number in range(5)]
    assert len(set(made)) == 5
    assert all(re.fullmatch(r"recsys_[\w-]{43}", token) for token in made)
    tokens = read_tokens(path)
    assert [tokens.find(token).name for token in made] == [f"site-{number}" for number in range(5)]


@pytest.mark.parametrize("change", [str.upper, lambda t: t[:-1], lambda t: t + "\n", lambda t: ""])
def test_anything_else_is_no_token(path, change):
    token = add_token(path, "site", ["RecommendItems"], None)
    assert read_tokens(path).find(change(token)) is None
    assert read_tokens(path).find(hash_token(token).hex()) is None


def test_every_hash_is_compared_in_constant_time(path, monkeypatch):
    tokens = [add_token(path, name, ["GetBundle"], None) for name in ("first", "second", "third")]
    compared = []
    original = tokens_module.hmac.compare_digest
    monkeypatch.setattr(
        tokens_module.hmac,
        "compare_digest",
        lambda one, other: compared.append(one) or original(one, other),
    )
    assert read_tokens(path).find(tokens[0]).name == "first"
    assert compared == [hash_token(token) for token in tokens]


def test_services_stand_for_their_methods(path):
    token = add_token(path, "operator", ["AdminService", "GetBundle"], None)
    found = read_tokens(path).find(token).methods
    assert found == {*ab.DESCRIPTOR.services_by_name["AdminService"].methods_by_name, "GetBundle"}
    assert "RecommendItems" not in found


def test_plain_method_names_are_unlike():
    assert sum(map(len, SERVICES.values())) == len(METHODS)


@pytest.mark.parametrize(
    ("name", "methods", "expected"),
    [
        ("site", ["GetBundle"], "'site' already"),
        ('a"\nb', ["GetBundle"], "name"),
        ("", ["GetBundle"], "name"),
        ("other", ["RecomendItems"], "did you mean 'RecommendItems'"),
        ("other", ["zzz"], "known: ActivateBundle"),
        ("other", [], "methods"),
    ],
)
def test_wrong_new_token_is_refused_and_the_file_stays(path, name, methods, expected):
    add_token(path, "site", ["RecommendItems"], None)
    before = path.read_text()
    with pytest.raises(ConfigError, match=expected):
        add_token(path, name, methods, None)
    assert path.read_text() == before


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "tokens"),
        ("[[tokens]", "expected TOML"),
        ("[[tokens]]\nname = 'a'", "sha256"),
        ("[[tokens]]\nname='a'\nsha256='00'\nmethods=['GetBundle']", "sha256"),
        (f"[[tokens]]\nname='a'\nsha256='{'0' * 64}'\nmethods=['Nope']", "no method 'Nope'"),
        (f"[[tokens]]\nname='a'\nsha256='{'0' * 64}'\nmethods=['GetBundle']\nx=1", "x"),
        (f"[[tokens]]\nname='a'\nsha256='{'0' * 64}'\nmethods=['GetBundle']\n" * 2, "two tokens"),
    ],
)
def test_wrong_file_is_refused_by_name(path, text, expected):
    path.write_text(text)
    with pytest.raises(ConfigError, match=rf"(?s)tokens\.toml.*{expected}"):
        read_tokens(path)


def test_missing_file_says_how_to_make_one(path):
    with pytest.raises(ConfigError, match="recsys token create"):
        read_tokens(path)


def test_call_with_the_token_is_answered_and_logged_by_name(guarded, log_events):
    server, token = guarded
    address = f"127.0.0.1:{server.port}"
    with RecommenderClient(address, timeout_seconds=10, token=token) as client:
        assert client.recommend_items("u").items
    call = log_events.calls[-1].kwargs
    assert call["client"] == "site"
    assert token not in str(call)


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ([], "TOKEN_MISSING"),
        ([("authorization", "Basic dTpw")], "TOKEN_MISSING"),
        ([("authorization", "Bearer a"), ("authorization", "Bearer b")], "TOKEN_MISSING"),
        ([("authorization", "Bearer recsys_wrong")], "TOKEN_UNKNOWN"),
        ([("authorization", "Bearer")], "TOKEN_UNKNOWN"),
    ],
)
def test_call_without_a_known_token_is_unauthenticated(
    guarded, open_stub, refusal, recommender, log_events, metadata, reason
):
    stub = open_stub(guarded[0])
    before = len(recommender.requests)
    message = pb.RecommendItemsRequest(page_size=-1)
    code, details = refusal(stub.RecommendItems, message, metadata=metadata)
    assert (code, details["ErrorInfo"].reason) == (UNAUTHENTICATED, reason)
    assert details["RequestInfo"].request_id
    assert "BadRequest" not in details
    assert log_events.calls[-1].kwargs["client"] == "127.0.0.1"
    assert len(recommender.requests) == before


def test_who_calls_is_asked_before_a_byte_is_parsed(guarded, open_channel, refusal):
    method = open_channel(guarded[0]).unary_unary("/recsys.v1.RecommenderService/GetBundle")
    assert refusal(method, b"\xff no message")[0] is UNAUTHENTICATED
    code, _ = refusal(method, b"\xff no message", **bearer(guarded[1]))
    assert code is grpc.StatusCode.INVALID_ARGUMENT


def test_token_is_for_its_methods_only(guarded, open_channel, open_stub, refusal):
    server, token = guarded
    stub = open_stub(server)
    assert stub.GetBundle(pb.GetBundleRequest(), **bearer(token)).bundle_id == "bundle-a"
    channel = open_channel(server)
    for path in ("RecommenderService/RecordEvents", "AdminService/DeleteUser"):
        method = channel.unary_unary(f"/recsys.v1.{path}")
        code, details = refusal(method, b"", **bearer(token))
        assert code is grpc.StatusCode.PERMISSION_DENIED
        assert details["ErrorInfo"].reason == "METHOD_NOT_ALLOWED"
        assert path.partition("/")[2] in details["message"]


def test_token_ends_when_it_expires(start_server, path, clock, open_stub, refusal):
    end = datetime.fromtimestamp(clock.now / 1e6, UTC) + timedelta(seconds=10)
    token = add_token(path, "site", ["GetBundle"], end)
    stub = open_stub(start_server(settings=ServerSettings(tokens_file=path)))
    clock.now += 9_999_999
    assert stub.GetBundle(pb.GetBundleRequest(), **bearer(token)).bundle_id
    clock.now += 1
    code, details = refusal(stub.GetBundle, pb.GetBundleRequest(), **bearer(token))
    assert (code, details["ErrorInfo"].reason) == (UNAUTHENTICATED, "TOKEN_EXPIRED")


def test_tokens_come_and_go_while_the_server_runs(guarded, path, open_stub, refusal, log_events):
    server, token = guarded
    stub, message = open_stub(server), pb.GetBundleRequest()
    other = add_token(path, "other", ["GetBundle"], None)
    assert stub.GetBundle(message, **bearer(other)).bundle_id
    entries = path.read_text().partition("\n\n")
    path.write_text(entries[2])
    assert refusal(stub.GetBundle, message, **bearer(token))[0] is UNAUTHENTICATED
    assert stub.GetBundle(message, **bearer(other)).bundle_id


@pytest.mark.parametrize("spoil", [lambda path: path.unlink(), lambda path: path.write_text("[[")])
def test_file_that_becomes_wrong_changes_nothing_and_is_told_once(
    guarded, path, open_stub, refusal, log_events, spoil
):
    server, token = guarded
    stub, message = open_stub(server), pb.GetBundleRequest()
    spoil(path)
    for _ in range(2):
        assert stub.GetBundle(message, **bearer(token)).bundle_id
        assert refusal(stub.GetBundle, message, **bearer("x"))[0] is UNAUTHENTICATED
    [told] = [call.kwargs for call in log_events.calls if call.method_name == "error"]
    assert "tokens.toml" in told["error"]


def test_health_needs_no_token_and_reflection_any(guarded, open_channel):
    server, token = guarded
    channel = open_channel(server)
    health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    assert health.status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.RpcError) as caught:
        ProtoReflectionDescriptorDatabase(channel).get_services()
    assert caught.value.code() is UNAUTHENTICATED
    reflect = channel.stream_stream(
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    )
    listing = b"\x3a\x01*"
    assert b"recsys.v1.RecommenderService" in next(
        reflect(iter([listing]), timeout=10, **bearer(token))
    )


def test_client_sends_no_token_in_the_clear_to_another_machine():
    with pytest.raises(ValueError, match="another machine"):
        RecommenderClient("192.0.2.1:50051", token="recsys_x")
    RecommenderClient("[::1]:50051", token="recsys_x").close()
