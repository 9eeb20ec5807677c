"""Caps and candidate sources of a trained bundle, over gRPC and through all pages."""

import grpc
import pytest

from recsys.bundle import Bundle
from serving.server import RecsysServer, ServerOptions
from serving.store import MemoryStore
from serving.v1 import recommender_pb2 as pb
from serving.v1 import recommender_pb2_grpc

QUOTAS = {"recent_popularity": 9, "new_items": 4}


@pytest.fixture(scope="module")
def directory(tiny_bundle):
    switches = [f"serving.sources.{name}={quota}" for name, quota in QUOTAS.items()]
    switches.append("serving.sources.new_item_days=36500")  # the server's clock is the real one
    return tiny_bundle("serving.arrangement.max_per_channel=1", *switches)


@pytest.fixture(scope="module")
def channel_of(directory):
    items = Bundle.load(directory).catalogue.table.to_pylist()
    return {item["item_id"]: item["channel_id"] for item in items}


@pytest.fixture(scope="module")
def served(directory):
    """A stub of a server of the bundle."""
    server = RecsysServer(MemoryStore(), ServerOptions(port=0), log_key=b"key")
    server.start()
    server.make_ready(directory)
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield recommender_pb2_grpc.RecommenderServiceStub(channel)
    server.stop()


def pages_of(served, **fields):
    pages = [served.RecommendItems(pb.RecommendItemsRequest(**fields), timeout=30)]
    while token := pages[-1].next_page_token:
        again = pb.RecommendItemsRequest(page_token=token, **fields)
        pages.append(served.RecommendItems(again, timeout=30))
    return pages


def test_cap_holds_on_every_page(served, channel_of):
    pages = pages_of(served, user_id="u", page_size=6)
    assert [len(page.items) for page in pages] == [6] * 5
    for page in pages:
        assert len({channel_of[item.item_id] for item in page.items}) == 6
    items = [item.item_id for page in pages for item in page.items]
    assert len(set(items)) == 30


def test_request_lifts_the_cap(served, channel_of):
    arrangement = pb.Arrangement(max_per_channel=0)
    page = pages_of(served, user_id="u", page_size=6, arrangement=arrangement)[0]
    capped = pages_of(served, user_id="u", page_size=6)[0]
    assert [item.item_id for item in page.items] != [item.item_id for item in capped.items]
    assert len({channel_of[item.item_id] for item in page.items}) < 6


def test_every_page_names_the_sources_of_the_whole_ranking(served):
    pages = pages_of(served, user_id="u", page_size=6)
    counts = {each.source: each for each in pages[0].source_counts}
    assert {name: counts[name].candidate_count for name in QUOTAS} == QUOTAS
    for page in pages:
        assert page.source_counts == pages[0].source_counts
    items = [item for page in pages for item in page.items]
    for name in ("candidate_net", *QUOTAS):
        assert counts[name].item_count == sum(name in item.sources for item in items)
    assert sum(each.item_count for each in counts.values()) > len(items)


def test_allowed_items_alone_come_back(served):
    allowed = ["i3", "i5", "i7", "i9", "nobody knows it"]
    page = pages_of(served, user_id="u", page_size=9, allowed_item_ids=allowed)[0]
    assert {item.item_id for item in page.items} < set(allowed)
    assert {item.source for item in page.items} == {"allowed"}
