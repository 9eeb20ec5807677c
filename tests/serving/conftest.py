"""A server on a free port, with a recommender of a few lines and a clock that stands still."""

import socket
from collections import Counter
from types import SimpleNamespace

import grpc
import numpy as np
import pytest
import structlog

from recsys.errors import BundleError, RequestError
from recsys.requests import Explanation, RankedItem, Recommendation, SourceCounts
from recsys.settings import OrderSettings, ServingSettings
from serving.server import RecsysServer, ServerOptions
from serving.store import MemoryStore
from serving.v1 import admin_pb2_grpc, recommender_pb2_grpc

NOW = 1_800_000_000_000_000
NUM_ITEMS = 40
SOURCES = ("candidate_net", "new_items")


class FakeRecommender:
    """Ranks i0, i1, ... less what was watched or excluded; counts what it is told to count."""

    def __init__(self, bundle_id):
        serving = ServingSettings(
            max_page_size=10,
            default_page_size=4,
            rewatch_surfaces=("kids",),
            exploration=OrderSettings(policy="plackett_luce", temperature=5.0),
        )
        self.bundle = SimpleNamespace(settings=SimpleNamespace(serving=serving), warmup_users=[])
        self.bundle_id = bundle_id
        self.data_until = NOW - 1_000_000
        self.requests = []
        self.counts = Counter()
        self.failure = None
        self.wait = lambda: None
        self.items_left_out, self.expected_seconds = 0, 12.5

    def recommend(self, requests, *, time_remaining=None):
        self.requests += requests
        self.time_remaining = time_remaining
        self.wait()
        if self.failure:
            raise self.failure
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        if "nope" in request.item_filter.topics:
            raise RequestError("filter.topics", "expected values that some item has, got 'nope'")
        events = request.user.events
        gone = set(request.excluded_item_ids) | set(request.user.seen)
        if request.seen_removed:
            gone |= {item.decode() for item in events.item_id[self.is_watch(events)].tolist()}
        candidates = [f"i{n}" for n in range(self.items_left_out, NUM_ITEMS) if f"i{n}" not in gone]
        ids = candidates[: request.num_items]
        why = None
        if request.explained:
            why = Explanation(
                0.5,
                3,
                {"age": 7.0, "topic": "cats"},
                {"temperature": 5.0},
                {"candidate_net": 0.5},
                {"factor": 2.0},
            )
        # Drawn on one surface, greedy on the others.
        propensity = 0.25 if request.context.get("surface") == "drawn" else None
        items = tuple(
            RankedItem(item_id, self.expected_seconds, SOURCES[0], why, propensity, SOURCES)
            for item_id in ids
        )
        return Recommendation(
            items,
            dropped={"watched": len(gone)},
            stage_seconds={"rank": 0.001},
            source_counts={SOURCES[0]: SourceCounts(7, 5), SOURCES[1]: SourceCounts(2, 1)},
            num_candidates=len(candidates),
        )

    def similar_items(self, item_id, num_items):
        if item_id != "i0":
            raise RequestError("item_id", f"expected an item of the catalogue, got {item_id!r}")
        return [(f"i{n}", 1 / n) for n in range(1, num_items + 1)]

    def count_events(self, events, *, sign=1):
        fresh = events.take(events.moment >= self.data_until)
        for item_id, watch_ms in zip(fresh.item_id.tolist(), fresh.watch_ms.tolist(), strict=True):
            self.counts[item_id.decode()] += sign * max(watch_ms, 0)

    def recount_events(self, batches):
        self.counts.clear()
        for events in batches:
            self.count_events(events)

    def is_watch(self, events):
        return np.asarray(events.watch_ms > 0)


class Clock:
    """Stands still until moved."""

    def __init__(self):
        self.now = NOW

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def recommenders():
    return {"a": FakeRecommender("bundle-a"), "b": FakeRecommender("bundle-b")}


@pytest.fixture
def recommender(recommenders):
    return recommenders["a"]


@pytest.fixture
def log_events():
    return structlog.testing.CapturingLogger()


@pytest.fixture
def start_server(clock, recommenders, log_events, tmp_path):
    """Build and start a server; further keywords are its options."""

    def load(directory):
        if directory.name not in recommenders:
            raise BundleError(f"{directory}: file 'x' was altered; copy the bundle anew")
        return recommenders[directory.name]

    started = []

    def start(store=None, *, ready=True, tracing=None, **options):
        server = RecsysServer(
            store or MemoryStore(),
            ServerOptions(port=0, **({"threads": 8} | options)),
            clock=clock,
            load=load,
            logger=log_events,
            log_key=b"key",
            tracing=tracing,
        )
        server.start()
        started.append(server)
        if ready:
            server.make_ready(tmp_path / "bundles" / "a")
        return server

    yield start
    for server in started:
        server.stop()


@pytest.fixture
def server(start_server):
    return start_server(admin=True)


@pytest.fixture
def open_channel():
    """Open a channel to a server, closed after the test."""
    opened = []

    def open_to(server):
        opened.append(grpc.insecure_channel(f"127.0.0.1:{server.port}"))
        return opened[-1]

    yield open_to
    for channel in opened:
        channel.close()


@pytest.fixture
def open_stub(open_channel):
    return lambda server: recommender_pb2_grpc.RecommenderServiceStub(open_channel(server))


@pytest.fixture
def channel(server, open_channel):
    return open_channel(server)


@pytest.fixture
def stub(channel):
    return recommender_pb2_grpc.RecommenderServiceStub(channel)


@pytest.fixture
def admin(channel):
    return admin_pb2_grpc.AdminServiceStub(channel)


@pytest.fixture
def refusal():
    """Call a method that must fail; return its status code and its details by type."""

    def call(method, message, **options):
        with pytest.raises(grpc.RpcError) as caught:
            method(message, timeout=options.pop("timeout", 10), **options)
        return caught.value.code(), _details(caught.value)

    return call


def _details(error):
    from google.rpc import error_details_pb2
    from grpc_status import rpc_status

    status = rpc_status.from_call(error)
    if status is None:
        return {"message": error.details()}
    found = {"message": status.message}
    for packed in status.details:
        name = packed.type_url.rpartition(".")[2]
        detail = getattr(error_details_pb2, name)()
        packed.Unpack(detail)
        found[name] = detail
    return found


@pytest.fixture
def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
