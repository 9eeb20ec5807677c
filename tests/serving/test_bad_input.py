"""Each kind of bad input gets one status, with the details that `docs/api.md` promises."""

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from serving.client import impression, watch
from serving.v1 import recommender_pb2 as pb

INVALID = grpc.StatusCode.INVALID_ARGUMENT
LONG_ID = "x" * 129


def recommend(**fields):
    return pb.RecommendItemsRequest(**fields)


def record(event, user_id="u"):
    return pb.RecordEventsRequest(user_id=user_id, events=[event])


def watch_of(seconds=0, nanos=0):
    outcome = pb.Outcome(watch_duration=Duration(seconds=seconds, nanos=nanos))
    return pb.Event(event_id="e", watch=pb.Watch(item_id="i", outcome=outcome))


def at(seconds):
    return pb.Event(
        event_id="e", event_time=Timestamp(seconds=seconds), watch=pb.Watch(item_id="i")
    )


RECOMMEND_FAULTS = [
    (recommend(page_size=-1), "page_size"),
    (recommend(user_id=LONG_ID), "user_id"),
    (recommend(user_id="a\0b"), "user_id"),
    (recommend(request_id="x" * 37), "request_id"),
    (recommend(request_id="é"), "request_id"),
    (recommend(page_token="!"), "page_token"),
    (recommend(page_token="AAAA" * 20), "page_token"),
    (recommend(excluded_item_ids=["a", ""]), "excluded_item_ids[1]"),
    (recommend(excluded_item_ids=["a"] * 10_001), "excluded_item_ids"),
    (recommend(filter=pb.Filter(topics=["nope"])), "filter.topics"),
    (recommend(filter=pb.Filter(languages=["a"] * 101)), "filter.languages"),
    (recommend(filter=pb.Filter(max_duration=Duration(seconds=-1))), "filter.max_duration"),
    (recommend(filter=pb.Filter(max_age=Duration(seconds=-1))), "filter.max_age"),
    (recommend(filter=pb.Filter(max_age=Duration(seconds=36_501 * 86400))), "filter.max_age"),
    (recommend(filter=pb.Filter(excluded_topics=["a"] * 1001)), "filter.excluded_topics"),
    (
        recommend(filter=pb.Filter(excluded_channel_ids=["a"] * 1001)),
        "filter.excluded_channel_ids",
    ),
    (recommend(allowed_item_ids=["a", "", "b"]), "allowed_item_ids[1]"),
    (recommend(allowed_item_ids=["a"] * 10_001), "allowed_item_ids"),
    (recommend(arrangement=pb.Arrangement(diversity=1.0)), "arrangement.diversity"),
    (recommend(arrangement=pb.Arrangement(diversity=-0.1)), "arrangement.diversity"),
    (recommend(arrangement=pb.Arrangement(diversity=float("nan"))), "arrangement.diversity"),
    (recommend(arrangement=pb.Arrangement(max_per_channel=-1)), "arrangement.max_per_channel"),
    (recommend(arrangement=pb.Arrangement(max_per_channel=1001)), "arrangement.max_per_channel"),
    (recommend(context=pb.Context(age=151)), "context.age"),
    (recommend(context=pb.Context(age=-1)), "context.age"),
    (recommend(context=pb.Context(device=LONG_ID)), "context.device"),
    (recommend(history=[impression("i")] * 1001), "history"),
    (recommend(history=[impression("i"), pb.Event()]), "history[1]"),
    (recommend(history=[impression("")]), "history[0].impression.item_id"),
]
RECORD_FAULTS = [
    (record(watch("i", event_id="e"), user_id=""), "user_id"),
    (pb.RecordEventsRequest(user_id="u"), "events"),
    (record(watch("i")), "events[0].event_id"),
    (record(watch(LONG_ID, event_id="e")), "events[0].watch.item_id"),
    (record(watch_of(seconds=-1)), "events[0].watch.outcome.watch_duration"),
    (record(watch_of(nanos=-1)), "events[0].watch.outcome.watch_duration"),
    (record(watch_of(seconds=31 * 86400)), "events[0].watch.outcome.watch_duration"),
    (record(at(-1)), "events[0].event_time"),
    (record(at(1_800_000_000 + 86_401)), "events[0].event_time"),
    (
        record(pb.Event(event_id="e", search=pb.Search(query="q" * 1025))),
        "events[0].search.query",
    ),
]


def names(cases):
    return [f"{number}-{field}" for number, (_, field) in enumerate(cases)]


@pytest.mark.parametrize(("message", "field"), RECOMMEND_FAULTS, ids=names(RECOMMEND_FAULTS))
def test_bad_recommend_request_names_its_field(stub, refusal, message, field):
    code, details = refusal(stub.RecommendItems, message)
    assert code is INVALID
    assert details["BadRequest"].field_violations[0].field == field
    assert details["ErrorInfo"].metadata["field"] == field
    assert details["ErrorInfo"].domain == "recsys"
    assert details["RequestInfo"].request_id


@pytest.mark.parametrize(("message", "field"), RECORD_FAULTS, ids=names(RECORD_FAULTS))
def test_bad_events_name_their_field_and_nothing_is_stored(
    stub, refusal, recommender, message, field
):
    code, details = refusal(stub.RecordEvents, message)
    assert code is INVALID
    assert details["BadRequest"].field_violations[0].field == field
    stub.RecommendItems(recommend(user_id="u"))
    assert len(recommender.requests[-1].user.events) == 0


@pytest.mark.parametrize(
    "message",
    [
        recommend(user_id="x" * 128, request_id="x" * 36),
        recommend(history=[impression("i")] * 1000),
        recommend(excluded_item_ids=["a"] * 10_000),
        recommend(allowed_item_ids=["a"] * 10_000),
        recommend(filter=pb.Filter(excluded_channel_ids=["a"] * 1000)),
        recommend(filter=pb.Filter(max_age=Duration(seconds=36_500 * 86400))),
        recommend(arrangement=pb.Arrangement(diversity=0.0, max_per_channel=1000)),
        recommend(excluded_item_ids=["x" * 100] * 10_000),
        recommend(context=pb.Context(age=150)),
        recommend(page_size=2**31 - 1),
    ],
    ids=[
        "ids",
        "history",
        "exclusions",
        "allowed",
        "excluded channels",
        "item age",
        "arrangement",
        "nearly 1 MiB",
        "age",
        "page",
    ],
)
def test_what_is_at_its_limit_is_answered(stub, message):
    assert len(stub.RecommendItems(message).items) in {4, 10}


def test_message_over_the_limit_is_resource_exhausted(stub, refusal):
    message = recommend(excluded_item_ids=["x" * 1000] * 10_000)
    assert message.ByteSize() > 10_000_000
    code, details = refusal(stub.RecommendItems, message)
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in details["message"]


def test_bytes_that_are_no_message_are_invalid(channel, refusal):
    method = channel.unary_unary("/recsys.v1.RecommenderService/RecommendItems")
    code, details = refusal(method, b"\xff\xfe garbage")
    assert code is INVALID
    assert details["ErrorInfo"].reason == "MALFORMED_MESSAGE"


def test_fields_of_a_newer_api_are_refused_not_ignored(channel, refusal):
    unknown_filter = pb.Filter(topics=["t"]).SerializeToString() + b"\xba\x06\x01x"
    message = b"\x42" + bytes([len(unknown_filter)]) + unknown_filter
    assert pb.RecommendItemsRequest.FromString(message).filter.topics == ["t"]
    method = channel.unary_unary("/recsys.v1.RecommenderService/RecommendItems")
    code, details = refusal(method, message)
    assert code is INVALID
    assert details["BadRequest"].field_violations[0].field == "filter"


def test_token_of_another_request_is_refused(stub, refusal):
    token = stub.RecommendItems(recommend(user_id="u")).next_page_token
    for other in (recommend(user_id="v"), recommend(user_id="u", explained=True)):
        other.page_token = token
        code, details = refusal(stub.RecommendItems, other)
        assert (code, details["ErrorInfo"].reason) == (INVALID, "INVALID_PAGE_TOKEN")


def test_expired_token_is_refused(stub, refusal, clock):
    token = stub.RecommendItems(recommend(user_id="u")).next_page_token
    clock.now += 899 * 10**6
    stub.RecommendItems(recommend(user_id="u", page_token=token))
    clock.now += 2 * 10**6
    code, details = refusal(stub.RecommendItems, recommend(user_id="u", page_token=token))
    assert (code, details["ErrorInfo"].reason) == (INVALID, "INVALID_PAGE_TOKEN")
    assert "expired" in details["message"]


def test_token_of_another_server_is_refused(stub, refusal, start_server, open_stub):
    token = open_stub(start_server()).RecommendItems(recommend()).next_page_token
    code, details = refusal(stub.RecommendItems, recommend(page_token=token))
    assert (code, details["ErrorInfo"].reason) == (INVALID, "INVALID_PAGE_TOKEN")
    assert "token of this server" in details["message"]


def test_request_id_of_another_request_is_refused(stub, refusal):
    stub.RecommendItems(recommend(user_id="u", request_id="r"))
    other = recommend(user_id="u", request_id="r", explained=True)
    code, details = refusal(stub.RecommendItems, other)
    assert (code, details["ErrorInfo"].reason) == (INVALID, "REQUEST_ID_REUSED")
    assert details["RequestInfo"].request_id == "r"


def test_past_deadline_is_deadline_exceeded(stub, refusal):
    code, _ = refusal(stub.RecommendItems, recommend(), timeout=-1)
    assert code is grpc.StatusCode.DEADLINE_EXCEEDED


def test_unknown_item_is_invalid(stub, refusal):
    code, details = refusal(stub.FindSimilarItems, pb.FindSimilarItemsRequest(item_id="zzz"))
    assert code is INVALID
    assert details["BadRequest"].field_violations[0].field == "item_id"


def test_unknown_user_gets_an_answer(stub):
    assert len(stub.RecommendItems(recommend(user_id="never seen")).items) == 4


def test_fault_inside_is_internal_and_tells_no_secrets(stub, refusal, recommender, log_events):
    recommender.failure = ZeroDivisionError("secret path /etc")
    code, details = refusal(stub.RecommendItems, recommend(request_id="r7"))
    assert code is grpc.StatusCode.INTERNAL
    assert "secret" not in details["message"]
    assert details["RequestInfo"].request_id == "r7"
    assert details["ErrorInfo"].reason == "INTERNAL"
    logged = next(call.kwargs for call in log_events.calls if call.method_name == "error")
    assert logged["exc_info"] is recommender.failure


def test_method_that_does_not_exist_is_unimplemented(channel, refusal):
    method = channel.unary_unary("/recsys.v1.RecommenderService/Nothing")
    assert refusal(method, b"")[0] is grpc.StatusCode.UNIMPLEMENTED


def test_call_without_a_message_is_told_so(server, open_channel):
    method = open_channel(server).stream_unary("/recsys.v1.RecommenderService/RecommendItems")
    with pytest.raises(grpc.RpcError) as caught:
        method(iter([]), timeout=10)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "expected a message, got none" in caught.value.details()
