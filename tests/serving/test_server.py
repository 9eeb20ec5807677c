"""The server round the services: health, reflection, metrics, log lines, start and stop."""

import io
import json
import threading
import time
import urllib.request
from types import SimpleNamespace

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from recsys.errors import BundleError, ConfigError
from recsys.requests import Recommendation
from serving.access import Access
from serving.client import RecommenderClient, watch
from serving.interceptors import CallInterceptor
from serving.metrics import Metrics
from serving.open_store import read_log_key
from serving.server import ServerOptions, new_logger
from serving.settings import LogSettings, ServerSettings
from serving.status import STATUSES, status_of
from serving.v1 import recommender_pb2 as pb

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICES = ("", "recsys.v1.RecommenderService", "recsys.v1.AdminService")


def health(channel, service=""):
    stub = health_pb2_grpc.HealthStub(channel)
    return stub.Check(health_pb2.HealthCheckRequest(service=service)).status


def test_server_is_not_serving_until_its_bundle_is_warm(
    start_server, open_channel, open_stub, recommender, refusal, tmp_path
):
    server = start_server(ready=False, admin=True)
    channel = open_channel(server)
    assert [health(channel, name) for name in SERVICES] == [NOT_SERVING] * 3
    code, details = refusal(open_stub(server).GetBundle, pb.GetBundleRequest())
    assert code is grpc.StatusCode.UNAVAILABLE
    assert details["ErrorInfo"].reason == "NOT_READY"
    assert details["RetryInfo"].retry_delay.seconds == 1
    server.make_ready(tmp_path / "a")
    assert [health(channel, name) for name in SERVICES] == [SERVING] * 3
    assert len(recommender.requests) == 1


def test_refused_bundle_leaves_the_server_not_serving(start_server, open_channel, tmp_path):
    server = start_server(ready=False)
    with pytest.raises(BundleError):
        server.make_ready(tmp_path / "broken")
    assert health(open_channel(server)) == NOT_SERVING


def test_reflection_describes_every_service(channel):
    database = ProtoReflectionDescriptorDatabase(channel)
    assert set(database.get_services()) == {
        "recsys.v1.RecommenderService",
        "recsys.v1.AdminService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    service = DescriptorPool(database).FindServiceByName("recsys.v1.RecommenderService")
    assert "RecommendItems" in service.methods_by_name


def test_admin_is_absent_unless_asked(start_server, open_channel, refusal):
    channel = open_channel(start_server())
    assert "recsys.v1.AdminService" not in ProtoReflectionDescriptorDatabase(channel).get_services()
    method = channel.unary_unary("/recsys.v1.AdminService/DeleteUser")
    assert refusal(method, b"")[0] is grpc.StatusCode.UNIMPLEMENTED


def test_second_server_on_a_port_is_refused(server, start_server):
    with pytest.raises(ConfigError, match="another process has the port"):
        type(server)(server.bundles._store, ServerOptions(port=server.port))


def test_servers_share_a_port_when_asked(start_server):
    first = start_server(reuse_port=True)
    second = type(first)(first.bundles._store, ServerOptions(port=first.port, reuse_port=True))
    assert second.port == first.port
    second.stop()


def test_stop_lets_calls_in_flight_end_and_refuses_new_ones(
    start_server, open_stub, open_channel, recommender
):
    server = start_server()
    stub = open_stub(server)
    entered, release = threading.Event(), threading.Event()
    recommender.wait = lambda: (entered.set(), release.wait(10))
    in_flight = stub.RecommendItems.future(pb.RecommendItemsRequest(user_id="u"), timeout=10)
    assert entered.wait(10)
    stopping = threading.Thread(target=server.stop)
    stopping.start()
    late = None
    for _ in range(100):
        late = open_stub(server).GetBundle.future(pb.GetBundleRequest(), timeout=5)
        if late.exception() is not None:
            break
        time.sleep(0.02)
    assert late.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
    release.set()
    assert len(in_flight.result().items) == 4
    stopping.join(10)
    assert not stopping.is_alive()


def test_health_watchers_hear_of_the_stop(start_server, open_channel):
    server = start_server()
    watching = health_pb2_grpc.HealthStub(open_channel(server)).Watch(
        health_pb2.HealthCheckRequest(service="recsys.v1.RecommenderService"), timeout=10
    )
    assert next(watching).status == SERVING
    stopping = threading.Thread(target=server.stop)
    stopping.start()
    assert next(watching).status == NOT_SERVING
    watching.cancel()
    stopping.join(10)


def test_stop_cuts_calls_that_outlast_the_grace(start_server, open_stub, recommender):
    server = start_server(grace_seconds=0.1)
    entered, release = threading.Event(), threading.Event()
    recommender.wait = lambda: (entered.set(), release.wait(10))
    in_flight = open_stub(server).RecommendItems.future(pb.RecommendItemsRequest(), timeout=10)
    assert entered.wait(10)
    threading.Timer(0.5, release.set).start()
    assert server.stop() < 5
    assert in_flight.code() in {grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE}


def test_metrics_count_calls_stages_and_drops(server, stub, refusal):
    stub.RecommendItems(pb.RecommendItemsRequest(user_id="u"))
    refusal(stub.RecommendItems, pb.RecommendItemsRequest(page_size=-1))
    stub.RecordEvents(pb.RecordEventsRequest(user_id="u", events=[watch("i0", 1, event_id="1")]))
    stub.RecommendItems(pb.RecommendItemsRequest(user_id="u"))
    value = server.metrics.registry.get_sample_value
    call = {"method": "RecommendItems"}
    assert value("recsys_requests_total", call | {"code": "OK"}) == 2
    assert value("recsys_requests_total", call | {"code": "INVALID_ARGUMENT"}) == 1
    assert value("recsys_request_duration_seconds_count", call) == 3
    assert value("recsys_stage_duration_seconds_count", {"stage": "rank"}) == 2
    assert value("recsys_filtered_total", {"reason": "watched"}) == 1
    assert value("recsys_items_total", {"source": "candidate_net"}) == 40
    assert value("recsys_candidates_total", {"source": "candidate_net"}) == 14
    assert value("recsys_candidates_total", {"source": "new_items"}) == 4
    assert value("recsys_events_total", {"outcome": "new"}) == 1
    assert value("recsys_bundle_info", {"bundle": "bundle-a"}) == 1


def test_metrics_count_errors_by_reason_and_answers_by_bundle(server, stub, refusal):
    stub.RecommendItems(pb.RecommendItemsRequest(user_id="u"))
    refusal(stub.RecommendItems, pb.RecommendItemsRequest(page_token="x"))
    value = server.metrics.registry.get_sample_value
    wrong = {"method": "RecommendItems", "reason": "INVALID_PAGE_TOKEN"}
    assert value("recsys_errors_total", wrong) == 1
    assert value("recsys_answers_total", {"bundle": "bundle-a"}) == 1
    assert value("recsys_bundle_data_until_timestamp_seconds") == 1_799_999_999
    assert value("process_resident_memory_bytes") > 1e6


def test_metrics_know_how_many_calls_are_under_way(server, stub, recommender):
    entered, release = threading.Event(), threading.Event()
    recommender.wait = lambda: (entered.set(), release.wait(10))
    call = stub.RecommendItems.future(pb.RecommendItemsRequest(), timeout=10)
    assert entered.wait(10)
    value = server.metrics.registry.get_sample_value
    in_flight = ("recsys_requests_in_flight", {"method": "RecommendItems"})
    assert value(*in_flight) == 1
    release.set()
    call.result()
    assert value(*in_flight) == 0


def test_no_caller_makes_the_labels_more(server, stub, channel, refusal):
    def num_series():
        return sum(len(metric.samples) for metric in server.metrics.registry.collect())

    def call_all(number):
        stub.RecommendItems(pb.RecommendItemsRequest(user_id=f"u{number}", request_id=f"r{number}"))
        refusal(stub.RecommendItems, pb.RecommendItemsRequest(page_token=f"t{number}"))
        refusal(channel.unary_unary(f"/recsys.v1.RecommenderService/M{number}"), b"")
        refusal(channel.unary_unary(f"/recsys.v1.Service{number}/RecommendItems"), b"")

    call_all(0)
    before = num_series()
    for number in range(1, 20):
        call_all(number)
    assert num_series() == before


def test_counts_of_old_bundles_are_dropped():
    metrics = Metrics()
    for number in range(10):
        metrics.show_bundle(f"b{number}", 0, 0.0)
        metrics.count_answer(Recommendation(()), f"b{number}")
    metrics.count_answer(Recommendation(()), "b0")
    shown = [
        sample.labels["bundle"]
        for metric in metrics.registry.collect()
        if metric.name == "recsys_answers"
        for sample in metric.samples
        if sample.name == "recsys_answers_total"
    ]
    assert shown == ["b6", "b7", "b8", "b9"]


def test_metrics_are_served_over_http_when_asked(start_server, free_port):
    start_server(metrics_port=free_port)
    with urllib.request.urlopen(f"http://127.0.0.1:{free_port}/metrics", timeout=5) as reply:
        assert b'recsys_bundle_info{bundle="bundle-a"} 1.0' in reply.read()


def test_one_log_line_a_call_without_the_user_id(start_server, open_stub, refusal, log_events):
    stub = open_stub(start_server(threads=1))
    stub.RecommendItems(pb.RecommendItemsRequest(user_id="secret-user", request_id="r1"))
    refusal(stub.RecommendItems, pb.RecommendItemsRequest(user_id="secret-user", page_size=-1))
    stub.GetBundle(pb.GetBundleRequest())
    calls = [call.kwargs for call in log_events.calls]
    assert [call["code"] for call in calls] == ["OK", "INVALID_ARGUMENT", "OK"]
    first = calls[0]
    assert (first["method"], first["request_id"]) == ("RecommendItems", "r1")
    assert (first["bundle"], first["items"], first["degraded"]) == ("bundle-a", 20, [])
    assert first["user"] == calls[1]["user"]
    assert len(first["user"]) == 16
    assert set(first["stage_ms"]) == {"state", "rank"}
    assert "page_size" in calls[1]["error"]
    assert calls[2]["user"] == ""
    assert "bundle" not in calls[2]
    assert "secret-user" not in str(calls)


def test_log_line_says_what_was_wrong_and_who_called(stub, refusal, log_events, recommender):
    refusal(stub.RecommendItems, pb.RecommendItemsRequest(page_size=-1))
    recommender.failure = ZeroDivisionError()
    refusal(stub.RecommendItems, pb.RecommendItemsRequest(request_id="r9"))
    refused, failure, failed = [call.kwargs for call in log_events.calls]
    assert (refused["client"], refused["reason"]) == ("127.0.0.1", "INVALID_FIELD")
    assert (failure["request_id"], failed["reason"]) == ("r9", "INTERNAL")


def test_user_ids_are_left_out_when_asked(start_server, open_stub, log_events):
    settings = ServerSettings(log=LogSettings(user_ids="omitted"))
    stub = open_stub(start_server(settings=settings))
    stub.RecommendItems(pb.RecommendItemsRequest(user_id="secret-user"))
    assert "user" not in log_events.calls[0].kwargs
    assert "secret-user" not in str(log_events.calls)


def test_call_whose_deadline_passed_is_not_worked_on(log_events):
    worked, statuses = [], []
    handler = grpc.unary_unary_rpc_method_handler(
        lambda message, context: worked.append(message),
        pb.GetBundleRequest.FromString,
        pb.Bundle.SerializeToString,
    )
    context = SimpleNamespace(
        time_remaining=lambda: 0.0,
        abort_with_status=statuses.append,
        invocation_metadata=lambda: (),
        peer_identities=lambda: None,
        peer=lambda: "ipv4:127.0.0.1:1",
    )
    everybody = Access(None, None, lambda: 0, has_certificates=True)
    interceptor = CallInterceptor(Metrics(), log_events, b"key", everybody)
    details = SimpleNamespace(method="/recsys.v1.RecommenderService/GetBundle")
    interceptor.intercept_service(lambda _: handler, details).stream_unary(iter([b""]), context)
    assert worked == []
    assert statuses[0].code is grpc.StatusCode.DEADLINE_EXCEEDED


def test_gRPC_is_asked_for_certificates_only_where_there_are_any():
    callers = [Access(None, None, lambda: 0, has_certificates=known) for known in (True, False)]
    context = SimpleNamespace(peer_identities=lambda: [b"site"], peer=lambda: "ipv4:10.0.0.1:80")
    found = [(caller.kind, caller.name) for caller in (each.identify(context) for each in callers)]
    assert found == [("certificate", "site"), ("address", "10.0.0.1")]


def test_calls_of_a_method_share_one_handler_and_reflection_and_health_have_their_own(log_events):
    everybody = Access(None, None, lambda: 0, has_certificates=False)
    interceptor = CallInterceptor(Metrics(), log_events, b"key", everybody)
    handler = grpc.unary_unary_rpc_method_handler(lambda message, context: message)

    def wrapped(method, found=handler):
        return interceptor.intercept_service(lambda _: found, SimpleNamespace(method=method))

    recommend, similar = (f"/recsys.v1.RecommenderService/{name}Items" for name in ("R", "S"))
    assert wrapped(recommend, None) is None
    assert wrapped(recommend) is wrapped(recommend) is not wrapped(similar)
    assert wrapped("/grpc.health.v1.Health/Check") is handler


def test_draining_server_answers_first_and_then_sends_callers_elsewhere(
    start_server, open_stub, open_channel, refusal
):
    server = start_server()
    stub = open_stub(server)
    check = health_pb2_grpc.HealthStub(open_channel(server)).Check
    draining = threading.Thread(target=server.drain, args=[2.0])
    draining.start()
    while check(health_pb2.HealthCheckRequest(), timeout=10).status == SERVING:
        time.sleep(0.005)
    assert stub.RecommendItems(pb.RecommendItemsRequest(), timeout=10).items
    draining.join()
    code, details = refusal(stub.RecommendItems, pb.RecommendItemsRequest())
    assert (code, details["ErrorInfo"].reason) == (grpc.StatusCode.UNAVAILABLE, "NOT_READY")


def test_log_lines_are_json_with_the_traceback():
    stream = io.StringIO()
    logger = new_logger(stream)
    logger.info("call", code="OK")
    try:
        raise ValueError("boom")
    except ValueError as error:
        logger.error("failure", exc_info=error)
    first, second = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert (first["event"], first["code"], first["level"]) == ("call", "OK", "info")
    assert list(first) == sorted(first)
    assert "ValueError: boom" in second["exception"]


@pytest.mark.parametrize("value", ["half a pair: \ud800", 2**70])
def test_what_orjson_does_not_take_is_logged_too(value):
    stream = io.StringIO()
    new_logger(stream).info("call", value=value)
    assert json.loads(stream.getvalue())["value"] == value


def test_line_of_a_call_without_an_id_names_that_of_its_answer(start_server, open_stub, log_events):
    server = start_server()
    page = open_stub(server).RecommendItems(pb.RecommendItemsRequest())
    server.stop()
    assert page.request_id
    assert [call.kwargs["request_id"] for call in log_events.calls] == [page.request_id]


def test_log_key_is_made_once_and_private(tmp_path):
    key = read_log_key(tmp_path)
    assert len(key) == 32
    assert read_log_key(tmp_path) == key
    assert (tmp_path / "log.key").stat().st_mode & 0o077 == 0


def test_every_error_has_one_status_and_leaves_come_before_bases():
    kinds = list(STATUSES)
    for number, kind in enumerate(kinds):
        assert not any(issubclass(kind, earlier) for earlier in kinds[:number])
    assert status_of(KeyError("x"), "r").code == grpc.StatusCode.INTERNAL.value[0]


def test_client_calls_every_method(server):
    with RecommenderClient(f"127.0.0.1:{server.port}", timeout_seconds=10) as client:
        client.wait_until_connected(10)
        assert client.get_bundle().bundle_id == "bundle-a"
        assert client.recommend_items("u", page_size=2).items[1].item_id == "i1"
        assert client.record_events("u", [watch("i1", 5, event_id="1")]).new_event_count == 1
        assert client.recommend_items("u", page_size=2).items[1].item_id == "i2"
        assert client.find_similar_items("i0", 2).items[0].item_id == "i1"


def test_client_retries_only_unavailable(start_server, recommender, tmp_path):
    server = start_server(ready=False)
    with RecommenderClient(f"127.0.0.1:{server.port}", timeout_seconds=10) as client:
        threading.Timer(0.1, server.make_ready, [tmp_path / "a"]).start()
        assert len(client.recommend_items("u").items) == 4
        asked = len(recommender.requests)
        recommender.failure = RuntimeError("once")
        with pytest.raises(grpc.RpcError):
            client.recommend_items("u")
        assert len(recommender.requests) == asked + 1
