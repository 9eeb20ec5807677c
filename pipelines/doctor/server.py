"""A running server: reached, serving, answering, and how fast."""

import statistics
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from pipelines.doctor.findings import Finding as AnyFinding
from serving.client import RecommenderClient, open_channel

CONNECT_SECONDS = 5.0
CALL_SECONDS = 5.0
NUM_CALLS = 20
SLOW_MS = 100.0
SERVING = health_pb2.HealthCheckResponse.SERVING
REMEDIES = {
    "UNAUTHENTICATED": "give --token-file with a token of this server",
    "PERMISSION_DENIED": "make a token with --method RecommenderService",
    "UNAVAILABLE": "it starts, stops, or refused its bundle: look at its log",
    "RESOURCE_EXHAUSTED": "it is busy, or limits this caller: wait, or raise [limits]",
    "INTERNAL": "a fault of the server: its log has the traceback under the request id",
}
Finding = partial(AnyFinding, "server")


def check_server(
    target: str,
    *,
    tls: grpc.ChannelCredentials | None,
    token: str,
    expected_bundle_id: str = "",
) -> Iterator[AnyFinding]:
    """Yield what is found of a server, until it does not answer. Nothing is recorded there.

    Args:
        target: `host:port`.
        tls: For a server with TLS.
        token: For a server that asks for one.
        expected_bundle_id: Which bundle should answer; empty for any.
    """
    with open_channel(target, tls) as channel:
        reached = _check_health(channel, target)
    yield reached
    if reached.verdict == "problem":
        return
    with RecommenderClient(target, timeout_seconds=CALL_SECONDS, tls=tls, token=token) as client:
        try:
            yield _check_bundle(client, expected_bundle_id)
            yield from _check_answers(client)
        except grpc.RpcError as error:
            yield _refused(error)


def _check_health(channel: grpc.Channel, target: str) -> AnyFinding:
    try:
        grpc.channel_ready_future(channel).result(timeout=CONNECT_SECONDS)
        request = health_pb2.HealthCheckRequest()
        stub: Any = health_pb2_grpc.HealthStub(channel)
        status = stub.Check(request, timeout=CALL_SECONDS).status
    except grpc.FutureTimeoutError:
        remedy = "start it, or mend address, --authority and --certificate (TLS on both ends)"
        return Finding("health", "problem", f"{target} cannot be reached", remedy)
    except grpc.RpcError as error:
        return _refused(error)
    if status != SERVING:
        name = health_pb2.HealthCheckResponse.ServingStatus.Name(status)
        return Finding("health", "problem", name, REMEDIES["UNAVAILABLE"])
    return Finding("health", "good", f"{target} is SERVING")


def _check_bundle(client: RecommenderClient, expected_bundle_id: str) -> AnyFinding:
    bundle = client.get_bundle()
    until = bundle.data_until_time.ToDatetime()
    found = f"{bundle.bundle_id[:12]}, data until {until:%Y-%m-%d %H:%M} UTC"
    if expected_bundle_id and bundle.bundle_id != expected_bundle_id:
        found += f", not {expected_bundle_id[:12]} of --bundle"
        return Finding("GetBundle", "warning", found, "activate that one, or restart the server")
    return Finding("GetBundle", "good", found)


def _check_answers(client: RecommenderClient) -> Iterator[AnyFinding]:
    milliseconds = []
    answer: Any = None
    for _ in range(NUM_CALLS):
        started = time.perf_counter()
        answer = client.recommend_items()
        milliseconds.append(1000 * (time.perf_counter() - started))
    found = f"{len(answer.items)} items for a visitor"
    if answer.degraded_stages:
        found += f", without {', '.join(answer.degraded_stages)}"
        remedy = "its log says why, under failures"
        yield Finding("RecommendItems", "problem", found, remedy)
    elif not answer.items:
        remedy = "look for blocked items, and for available_until in the items"
        yield Finding("RecommendItems", "problem", found, remedy)
    else:
        yield Finding("RecommendItems", "good", found)
    yield _judge_latency(milliseconds)


def _judge_latency(milliseconds: list[float]) -> AnyFinding:
    median = statistics.median(milliseconds)
    found = f"median {median:.1f} ms, longest {max(milliseconds):.1f} ms of {NUM_CALLS} calls"
    if median > SLOW_MS:
        remedy = "see recsys_stage_duration_seconds; smaller serving.num_candidates, more cores"
        return Finding("latency", "warning", found, remedy)
    return Finding("latency", "good", found)


def _refused(error: grpc.RpcError) -> AnyFinding:
    code = error.code().name
    remedy = REMEDIES.get(code, "see docs/api.md, Statuses")
    return Finding("calls", "problem", f"{code}: {error.details()}", remedy)
