"""Drawn orders from a trained bundle over gRPC: propensities, pages, repeats."""

import grpc
import pytest

from serving.server import RecsysServer, ServerOptions
from serving.store import MemoryStore
from serving.v1 import recommender_pb2 as pb
from serving.v1 import recommender_pb2_grpc

POLICIES = {
    "plackett_luce": (
        "serving.exploration.policy=plackett_luce",
        "serving.exploration.temperature=5.0",
    ),
    "thompson": ("serving.exploration.policy=thompson",),
}


@pytest.fixture(scope="module", params=POLICIES)
def served(request, tiny_bundle):
    """A stub of a server of a bundle whose orders are drawn."""
    server = RecsysServer(MemoryStore(), ServerOptions(port=0), log_key=b"key")
    server.start()
    server.make_ready(tiny_bundle(*POLICIES[request.param]))
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield recommender_pb2_grpc.RecommenderServiceStub(channel)
    server.stop()


def ask(served, **fields):
    return served.RecommendItems(pb.RecommendItemsRequest(**fields), timeout=30)


def drawn(page):
    return [(item.item_id, item.propensity) for item in page.items]


def test_every_item_carries_a_propensity(served):
    page = ask(served, user_id="u", page_size=8, explained=True)
    assert list(page.degraded_stages) == []
    assert all(item.HasField("propensity") and 0 < item.propensity <= 1 for item in page.items)
    assert all(item.explanation.exploration for item in page.items)
    assert len(page.items) == 8


def test_pages_go_on_in_the_drawn_order(served):
    first = ask(served, user_id="u", request_id="paged", page_size=5)
    token = first.next_page_token
    second = ask(served, user_id="u", request_id="paged", page_size=5, page_token=token)
    whole = ask(served, user_id="u", request_id="paged", page_size=10)
    assert drawn(first) + drawn(second) == drawn(whole)
    assert len({item_id for item_id, _ in drawn(whole)}) == 10


def test_same_request_id_gets_the_same_draw_and_another_another(served):
    first = drawn(ask(served, user_id="u", request_id="one"))
    assert drawn(ask(served, user_id="u", request_id="one")) == first
    assert drawn(ask(served, user_id="u", request_id="two")) != first
    assert drawn(ask(served, user_id="u")) != drawn(ask(served, user_id="u"))
