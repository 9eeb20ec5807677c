"""Spans: under the caller's, with the stages below, and nothing at all when off."""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from pydantic import ValidationError

from recsys.errors import ConfigError
from serving.settings import ServerSettings, TracingSettings
from serving.tracing import Tracing, new_tracing, trace_id_of
from serving.v1 import recommender_pb2 as pb

ROOT = Path(__file__).parents[2]
TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{CALLER}-01"


@pytest.fixture
def spans():
    return InMemorySpanExporter()


@pytest.fixture
def traced(start_server, spans, open_stub, log_events):
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(spans))
    return open_stub(start_server(tracing=Tracing(provider, log_events)))


def finished(spans):
    return {span.name: span for span in spans.get_finished_spans()}


def test_call_is_a_span_under_its_callers_with_the_stages_below(traced, spans):
    message = pb.RecommendItemsRequest(user_id="u", request_id="r1")
    traced.RecommendItems(message, metadata=[("traceparent", TRACEPARENT)])
    found = finished(spans)
    call = found.pop("recsys.v1.RecommenderService/RecommendItems")
    assert f"{call.context.trace_id:032x}" == TRACE
    assert f"{call.parent.span_id:016x}" == CALLER
    assert call.kind is SpanKind.SERVER
    assert call.attributes == {
        "rpc.system.name": "grpc",
        "rpc.method": "recsys.v1.RecommenderService/RecommendItems",
        "rpc.response.status_code": "OK",
        "recsys.bundle": "bundle-a",
        "recsys.request_id": "r1",
        "recsys.degraded": (),
    }
    assert list(found) == ["stage state", "stage rank"]
    for stage in found.values():
        assert stage.parent.span_id == call.context.span_id
        assert call.start_time <= stage.start_time <= stage.end_time
    assert found["stage rank"].start_time == found["stage state"].end_time
    assert found["stage rank"].end_time - found["stage rank"].start_time == 1_000_000


def test_log_line_names_the_trace(traced, spans, log_events):
    traced.GetBundle(pb.GetBundleRequest(), metadata=[("traceparent", TRACEPARENT)])
    traced.GetBundle(pb.GetBundleRequest())
    logged = [call.kwargs["trace_id"] for call in log_events.calls]
    made = [f"{span.context.trace_id:032x}" for span in spans.get_finished_spans()]
    assert logged == made
    assert logged[0] == TRACE != logged[1]


def test_our_faults_are_errors_and_the_callers_are_not(traced, spans, recommender, refusal):
    refusal(traced.RecommendItems, pb.RecommendItemsRequest(page_size=-1))
    recommender.failure = ZeroDivisionError()
    refusal(traced.RecommendItems, pb.RecommendItemsRequest())
    refused, failed = spans.get_finished_spans()
    assert refused.status.status_code is StatusCode.UNSET
    assert refused.attributes["rpc.response.status_code"] == "INVALID_ARGUMENT"
    assert failed.status.status_code is StatusCode.ERROR
    assert failed.attributes["error.type"] == "INTERNAL"


def test_without_tracing_the_log_line_names_the_callers_trace(stub, log_events):
    stub.GetBundle(pb.GetBundleRequest(), metadata=[("traceparent", TRACEPARENT)])
    stub.GetBundle(pb.GetBundleRequest())
    assert [call.kwargs.get("trace_id") for call in log_events.calls] == [TRACE, None]


@pytest.mark.parametrize(
    "header",
    ["", "x", f"00-{TRACE}-{CALLER}", f"00-{'0' * 32}-{CALLER}-01", f"00-{TRACE}-{'0' * 16}-01"]
    + [TRACEPARENT.upper().replace("00-", "zz-"), TRACEPARENT + "\n", f"00-{'g' * 32}-{CALLER}-01"],
)
def test_malformed_headers_name_no_trace(header):
    assert trace_id_of({"traceparent": header}) == ""


def test_malformed_headers_hurt_no_call(traced, spans):
    for header in ("", "00-zz", TRACEPARENT * 50):
        traced.GetBundle(pb.GetBundleRequest(), metadata=[("traceparent", header)])
    assert all(span.parent is None for span in spans.get_finished_spans())


def test_spans_reach_a_collector(start_server, open_stub):
    """A collector of a few lines: one unary method that takes any bytes."""
    received = []

    class Collector(grpc.GenericRpcHandler):
        def service(self, details):
            def export(packed, context):
                received.append((details.method, packed))
                return b""

            return grpc.unary_unary_rpc_method_handler(export)

    collector = grpc.server(ThreadPoolExecutor(1), handlers=[Collector()])
    port = collector.add_insecure_port("127.0.0.1:0")
    collector.start()
    settings = ServerSettings(tracing=TracingSettings(endpoint=f"http://127.0.0.1:{port}"))
    server = start_server(settings=settings)
    open_stub(server).GetBundle(
        pb.GetBundleRequest(), metadata=[("traceparent", TRACEPARENT)], timeout=10
    )
    server.stop()
    collector.stop(None).wait()
    [(method, packed)] = received
    assert method == "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
    assert bytes.fromhex(TRACE) in packed


def test_missing_collector_is_told_in_the_log_and_delays_no_stop_for_long(log_events, capfd):
    tracing = new_tracing(TracingSettings(endpoint="http://127.0.0.1:1"), log_events)
    tracing.start("m", {}).end("OK", {})
    started = time.monotonic()
    tracing.close()
    assert time.monotonic() - started < 8
    told = [call.kwargs["error"] for call in log_events.calls if call.method_name == "warning"]
    assert "127.0.0.1:1" in told[0]
    assert "127.0.0.1:1" not in capfd.readouterr().err


def test_share_of_calls_is_sampled_unless_the_caller_decided(log_events):
    settings = TracingSettings(endpoint="http://127.0.0.1:1", sample_share=0.0)
    tracing = new_tracing(settings, log_events)
    own = tracing.start("m", {})
    callers = tracing.start("m", {"traceparent": TRACEPARENT})
    assert not own._span.is_recording()
    assert callers._span.is_recording()
    tracing.close()


@pytest.mark.parametrize("endpoint", ["", "127.0.0.1:4317", "ftp://x", "http://", "http://a/b"])
def test_endpoint_that_is_no_address_is_refused(endpoint):
    with pytest.raises(ValidationError):
        TracingSettings(endpoint=endpoint)


def test_missing_extra_says_what_to_install(monkeypatch, log_events):
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.grpc.trace_exporter", None)
    with pytest.raises(ConfigError, match=r"recsys\[tracing\]"):
        new_tracing(TracingSettings(endpoint="http://127.0.0.1:1"), log_events)


def test_server_without_tracing_imports_nothing_of_it():
    script = (
        "import sys; from serving.server import RecsysServer, ServerOptions;"
        "from serving.store import MemoryStore;"
        "RecsysServer(MemoryStore(), ServerOptions(port=0));"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
