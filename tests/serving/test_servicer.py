"""The service over a real channel, with a fake recommender behind it."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from recsys.errors import StateError
from recsys.state import UserState
from serving.client import impression, search, watch
from serving.store import MemoryStore
from serving.v1 import recommender_pb2 as pb


def ask(stub, **fields):
    return stub.RecommendItems(pb.RecommendItemsRequest(**fields), timeout=10)


def ids(page):
    return [item.item_id for item in page.items]


def test_answer_carries_bundle_items_and_positions(stub):
    page = ask(stub, user_id="u")
    assert page.bundle_id == "bundle-a"
    assert ids(page) == ["i0", "i1", "i2", "i3"]
    assert [item.position for item in page.items] == [0, 1, 2, 3]
    assert page.items[0].source == "candidate_net"
    assert page.items[0].expected_watch_duration == Duration(seconds=12, nanos=500_000_000)
    assert not page.items[0].HasField("explanation")


def test_explained_items_tell_why(stub):
    why = ask(stub, explained=True).items[0].explanation
    assert (why.candidate_score, why.candidate_rank) == (0.5, 3)
    assert why.features["age"].number == 7
    assert why.features["topic"].text == "cats"
    assert dict(why.exploration) == {"temperature": 5.0}
    assert dict(why.source_scores) == {"candidate_net": 0.5}
    assert dict(why.boost) == {"factor": 2.0}


def test_items_of_a_drawn_order_carry_their_propensity_and_others_none(stub):
    drawn = ask(stub, context=pb.Context(surface="drawn"))
    assert [item.propensity for item in drawn.items] == [0.25] * 4
    assert not any(item.HasField("propensity") for item in ask(stub).items)


def test_draws_follow_the_request_id(stub, recommender):
    page = ask(stub, user_id="u", request_id="mine")
    assert recommender.requests[-1].request_id == "mine"
    assert page.next_page_token
    ask(stub, user_id="u")
    ask(stub, user_id="u")
    made = [request.request_id for request in recommender.requests[-2:]]
    assert all(made) and made[0] != made[1]


def test_context_and_filter_reach_the_recommender(stub, recommender, clock):
    context = pb.Context(surface="home", country="NL", logged_in=False, age=0, current_item_id="i9")
    item_filter = pb.Filter(
        topics=["t"], channel_ids=["c"], languages=["nl"], max_duration=Duration(seconds=90)
    )
    ask(stub, user_id="u", context=context, filter=item_filter, excluded_item_ids=["i1"])
    request = recommender.requests[-1]
    assert request.context == {
        "surface": "home",
        "country": "NL",
        "logged_in": "false",
        "age": 0.0,
        "current_item_id": "i9",
    }
    assert request.item_filter.topics == {"t"}
    assert request.item_filter.channel_ids == {"c"}
    assert request.item_filter.languages == {"nl"}
    assert request.item_filter.max_duration_ms == 90_000
    assert request.excluded_item_ids == {"i1"}
    assert request.now == clock.now


def test_lists_and_arrangement_reach_the_recommender(stub, recommender):
    item_filter = pb.Filter(
        max_age=Duration(seconds=3), excluded_topics=["t"], excluded_channel_ids=["c"]
    )
    arrangement = pb.Arrangement(diversity=0.25, max_per_channel=0)
    ask(stub, page_size=3, filter=item_filter, arrangement=arrangement, allowed_item_ids=["i1"])
    request = recommender.requests[-1]
    assert request.item_filter.max_age_ms == 3000
    assert request.item_filter.excluded_topics == {"t"}
    assert request.item_filter.excluded_channel_ids == {"c"}
    assert (request.arrangement.diversity, request.arrangement.max_per_channel) == (0.25, 0)
    assert request.allowed_item_ids == {"i1"}
    assert (request.page_size, request.num_items) == (3, 15)
    ask(stub)
    plain = recommender.requests[-1]
    assert (plain.arrangement.diversity, plain.arrangement.max_per_channel) == (None, None)
    assert plain.item_filter.max_age_ms is None


def test_every_page_tells_what_each_source_brought(stub):
    first = ask(stub, user_id="u")
    second = ask(stub, user_id="u", page_token=first.next_page_token)
    for page in (first, second):
        counts = {
            each.source: (each.candidate_count, each.item_count) for each in page.source_counts
        }
        assert counts == {"candidate_net": (7, 5), "new_items": (2, 1)}
        assert page.items[0].sources == ["candidate_net", "new_items"]


def test_surface_that_allows_a_rewatch_keeps_watched_items(stub, recommender):
    ask(stub, context=pb.Context(surface="kids"))
    assert not recommender.requests[-1].seen_removed
    ask(stub, context=pb.Context(surface="home"))
    assert recommender.requests[-1].seen_removed


def test_history_replaces_the_stored_one(stub, recommender, clock):
    stub.RecordEvents(pb.RecordEventsRequest(user_id="u", events=[watch("i0", 9, event_id="1")]))
    history = [watch("i2", 1500), impression("i3"), search("cats"), watch("i1", moment=77)]
    assert ids(ask(stub, user_id="u", history=history)) == ["i0", "i1", "i3", "i4"]
    user = recommender.requests[-1].user
    assert user.events.item_id.tolist() == [b"i2", b"i3", b"i1"]
    assert user.events.has_time.tolist() == [False, False, True]
    assert user.events.watch_ms.tolist() == [1500, -1, -1]
    assert user.events.is_impression.tolist() == [False, True, False]
    assert user.searches == (("cats", 2),)
    assert ids(ask(stub, user_id="u")) == ["i1", "i2", "i3", "i4"]


def test_history_replaces_the_stored_seen_set_too(start_server, open_stub, recommender):
    store = MemoryStore()
    store.import_states([UserState("u", seen=frozenset({"i0"}), attributes={"age": 5.0})], 0)
    stub = open_stub(start_server(store))
    assert ids(ask(stub, user_id="u"))[0] == "i1"
    assert ids(ask(stub, user_id="u", history=[impression("i9")]))[0] == "i0"
    assert recommender.requests[-1].user.attributes == {"age": 5.0}


def test_recorded_events_change_the_next_answer_and_the_counters(stub, recommender):
    assert ids(ask(stub, user_id="u"))[0] == "i0"
    events = [watch("i0", 9000, event_id="1"), search("dogs", event_id="2")]
    recorded = stub.RecordEvents(pb.RecordEventsRequest(user_id="u", events=events))
    assert recorded.new_event_count == 1
    assert ids(ask(stub, user_id="u"))[0] == "i1"
    assert ids(ask(stub, user_id="v"))[0] == "i0"
    assert recommender.requests[-2].user.searches[0][0] == "dogs"
    assert recommender.counts["i0"] == 9000


def test_event_sent_again_counts_once_and_the_longer_watch_wins(stub, recommender, clock):
    for watch_ms in (3000, 9000, 9000, 4000):
        clock.now += 1_000_000
        request = pb.RecordEventsRequest(
            user_id="u",
            events=[watch("i0", watch_ms, event_id="1"), impression("i1", event_id="2")],
        )
        recorded = stub.RecordEvents(request)
    assert (recorded.new_event_count, recorded.changed_event_count) == (0, 0)
    assert recommender.counts["i0"] == 9000
    ask(stub, user_id="u")
    events = recommender.requests[-1].user.events
    assert events.watch_ms.tolist() == [9000, -1]
    assert events.moment.tolist()[0] == clock.now - 3_000_000


def test_event_times_become_moments(stub, recommender, clock):
    event = watch("i0", 2000, event_id="1", moment=clock.now - 50_000_000)
    stub.RecordEvents(pb.RecordEventsRequest(user_id="u", events=[event]))
    told = watch("i1", 2000, event_id="2", moment=clock.now - 50_000_000)
    told.watch.outcome.outcome_time.CopyFrom(Timestamp(seconds=clock.now // 10**6 - 10))
    stub.RecordEvents(pb.RecordEventsRequest(user_id="u", events=[told]))
    ask(stub, user_id="u")
    events = recommender.requests[-1].user.events
    assert events.moment.tolist() == [clock.now - 50_000_000] * 2
    assert events.outcome_moment.tolist() == [clock.now - 48_000_000, clock.now - 10_000_000]


def test_pages_continue_a_frozen_ranking(stub, recommender):
    first = ask(stub, user_id="u", page_size=3)
    stub.RecordEvents(pb.RecordEventsRequest(user_id="u", events=[watch("i4", 9, event_id="1")]))
    second = ask(stub, user_id="u", page_size=5, page_token=first.next_page_token)
    assert ids(first) + ids(second) == [f"i{n}" for n in range(8)]
    assert [item.position for item in second.items] == [3, 4, 5, 6, 7]


def test_last_page_has_no_token(stub):
    page = ask(stub, user_id="u", page_size=10)
    seen = ids(page)
    while page.next_page_token:
        page = ask(stub, user_id="u", page_size=10, page_token=page.next_page_token)
        seen += ids(page)
    assert seen == [f"i{n}" for n in range(40)]


def test_same_request_id_gets_the_same_answer(stub, recommender, clock):
    first = ask(stub, user_id="u", request_id="r1")
    stub.RecordEvents(pb.RecordEventsRequest(user_id="u", events=[watch("i0", 9, event_id="1")]))
    again = ask(stub, user_id="u", request_id="r1")
    assert again.items == first.items
    assert ids(ask(stub, user_id="v", request_id="r1")) == ids(first)
    assert len(recommender.requests) == 3  # the warm-up, u and v
    clock.now += 901 * 10**6
    assert ids(ask(stub, user_id="u", request_id="r1"))[0] == "i1"


def test_large_page_size_is_the_maximum(stub):
    assert len(ask(stub, page_size=2**31 - 1).items) == 10


def test_similar_items_come_nearest_first(stub):
    found = stub.FindSimilarItems(pb.FindSimilarItemsRequest(item_id="i0", item_count=3))
    assert [(item.item_id, item.score) for item in found.items] == [
        ("i1", 1.0),
        ("i2", 0.5),
        ("i3", 1 / 3),
    ]
    assert len(stub.FindSimilarItems(pb.FindSimilarItemsRequest(item_id="i0")).items) == 4


def test_get_bundle_names_the_active_one(stub, recommender):
    bundle = stub.GetBundle(pb.GetBundleRequest())
    assert (bundle.bundle_id, bundle.active) == ("bundle-a", True)
    assert bundle.data_until_time.ToMicroseconds() == recommender.data_until


def test_deadline_reaches_the_recommender(stub, recommender):
    stub.RecommendItems(pb.RecommendItemsRequest(), timeout=0.9)
    assert recommender.time_remaining() < 0.9
    # Whoever would wait for ever is not kept waiting by a part that hangs.
    stub.RecommendItems(pb.RecommendItemsRequest())
    assert 0.9 < recommender.time_remaining() <= 2


def test_store_that_hangs_costs_the_history_not_the_answer(start_server, recommender, open_stub):
    release = threading.Event()

    class HangingStore(MemoryStore):
        def get(self, user_id):
            release.wait()
            return super().get(user_id)

    stub = open_stub(start_server(HangingStore()))
    try:
        started = time.perf_counter()
        page = stub.RecommendItems(pb.RecommendItemsRequest(user_id="u"), timeout=1)
        assert time.perf_counter() - started < 1
        assert page.degraded_stages == ["state"]
        assert page.items
        visitor = stub.RecommendItems(pb.RecommendItemsRequest(), timeout=1)
        assert visitor.degraded_stages == []
    finally:
        release.set()


@pytest.mark.parametrize("error", [StateError("disk gone"), RuntimeError("of the client library")])
def test_broken_store_costs_the_history_not_the_answer(
    start_server, recommender, open_stub, log_events, error
):
    class BrokenStore(MemoryStore):
        def get(self, user_id):
            raise error

    server = start_server(BrokenStore())
    page = ask(open_stub(server), user_id="u")
    assert ids(page)[0] == "i0"
    assert page.degraded_stages == ["state"]
    server.stop()
    assert log_events.calls[-1].kwargs["failures"] == {"state": repr(error)}


def test_concurrent_calls_are_answered_each_from_its_own_user(stub):
    def call(number):
        event = watch(f"i{number}", 9, event_id="1")
        stub.RecordEvents(pb.RecordEventsRequest(user_id=f"u{number}", events=[event]))
        return ids(ask(stub, user_id=f"u{number}", page_size=10))

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(call, range(8)))
    for number, answer in enumerate(answers):
        assert answer == [f"i{n}" for n in range(11) if n != number]


@pytest.mark.parametrize("num_calls", [6])
def test_concurrent_repeats_of_a_request_agree(stub, recommender, num_calls):
    barrier = threading.Barrier(num_calls)
    recommender.wait = lambda: barrier.wait(5)
    with ThreadPoolExecutor(num_calls) as pool:
        pages = list(pool.map(lambda _: ask(stub, user_id="u", request_id="r"), range(num_calls)))
    assert all(page.items == pages[0].items for page in pages)
