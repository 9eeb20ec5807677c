"""A canary answers its share of users, a shadow answers nobody; neither can hurt an answer."""

import json
import threading
import time

import grpc
import pytest

from recsys.bundle import FORMAT, KIND
from recsys.experiment.assignment import Split
from recsys.requests import RankedItem, Recommendation
from serving.bundle_metrics import mean_expected_seconds, overlap
from serving.client import watch
from serving.settings import ServerSettings, TrialSettings
from serving.v1 import admin_pb2 as ab
from serving.v1 import admin_pb2_grpc
from serving.v1 import recommender_pb2 as pb

USERS = [f"user-{number}" for number in range(100)]


@pytest.fixture(autouse=True)
def shelf(tmp_path):
    """Bundle directories beside the active one: a, b, and one that will not load."""
    for name in ("a", "b", "broken"):
        directory = tmp_path / "bundles" / name
        directory.mkdir(parents=True)
        manifest = {"kind": KIND, "format": FORMAT, "files": {}, "data_until": 5}
        text = json.dumps(manifest | {"bundle_id": f"bundle-{name}"})
        (directory / "manifest.json").write_text(text)


def start_canary(admin, bundle_id="bundle-b", share=0.3, salt="trial"):
    message = ab.StartCanaryRequest(bundle_id=bundle_id, user_share=share, salt=salt)
    return admin.StartCanary(message)


def start_shadow(admin, share=0.999):
    return admin.StartShadow(ab.StartShadowRequest(bundle_id="bundle-b", request_share=share))


def bundle_of(stub, user_id, **fields):
    message = pb.RecommendItemsRequest(user_id=user_id, **fields)
    return stub.RecommendItems(message, timeout=10).bundle_id


def in_canary(stub):
    return {user_id for user_id in USERS if bundle_of(stub, user_id) == "bundle-b"}


def wait_until(holds):
    ends = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < ends, "it did not come to pass"
        time.sleep(0.01)


def test_canary_answers_the_users_that_the_analysis_finds(admin, stub):
    reply = start_canary(admin, share=0.3)
    assert (reply.bundle_id, reply.role, reply.share) == ("bundle-b", "canary", 0.3)
    split = Split("trial", {"control": 0.7, "treatment": 0.3})
    assert in_canary(stub) == {user for user in USERS if split.arm_of(user) == "treatment"}
    assert bundle_of(stub, "") == "bundle-a"
    assert stub.GetBundle(pb.GetBundleRequest()).bundle_id == "bundle-a"


def test_larger_share_adds_users_and_loads_nothing(admin, stub, recommenders):
    start_canary(admin, share=0.1)
    few, num_warm = in_canary(stub), len(recommenders["b"].requests)
    start_canary(admin, share=0.5)
    assert len(recommenders["b"].requests) == num_warm
    more = in_canary(stub)
    assert few < more
    assert 0.35 < len(more) / len(USERS) < 0.65


def test_another_salt_is_another_split(admin, stub):
    start_canary(admin)
    first = in_canary(stub)
    start_canary(admin, salt="another")
    assert in_canary(stub) != first


def test_stopped_canary_answers_nobody(admin, stub, refusal):
    start_canary(admin)
    assert admin.StopCanary(ab.StopCanaryRequest()).bundle_id == "bundle-a"
    assert in_canary(stub) == set()
    for method in (admin.StopCanary, admin.PromoteCanary):
        message = (
            ab.StopCanaryRequest() if method is admin.StopCanary else ab.PromoteCanaryRequest()
        )
        code, details = refusal(method, message)
        assert code is grpc.StatusCode.FAILED_PRECONDITION
        assert "no canary runs" in details["message"]


def test_promoted_canary_is_active_and_can_be_taken_back(admin, stub, refusal):
    start_canary(admin)
    reply = admin.PromoteCanary(ab.PromoteCanaryRequest())
    assert (reply.bundle_id, reply.active, reply.share) == ("bundle-b", True, 1.0)
    assert in_canary(stub) == set(USERS)
    assert refusal(admin.StopCanary, ab.StopCanaryRequest())[0]
    assert admin.RollbackBundle(ab.RollbackBundleRequest()).bundle_id == "bundle-a"
    assert in_canary(stub) == set()


@pytest.mark.parametrize("bundle_id", ["bundle-broken", "bundle-nowhere", "bundle-a"])
def test_refused_canary_changes_nothing(admin, stub, refusal, bundle_id):
    start_canary(admin)
    before = in_canary(stub)
    message = ab.StartCanaryRequest(bundle_id=bundle_id, user_share=0.9, salt="x")
    refusal(admin.StartCanary, message)
    assert in_canary(stub) == before


def test_canary_that_cannot_answer_its_warm_up_is_refused(admin, stub, refusal, recommenders):
    recommenders["b"].failure = RuntimeError("no")
    message = ab.StartCanaryRequest(bundle_id="bundle-b", user_share=0.9, salt="x")
    assert refusal(admin.StartCanary, message)[1]["ErrorInfo"].reason == "BUNDLE_REFUSED"
    assert in_canary(stub) == set()


@pytest.mark.parametrize(("share", "salt"), [(0, "x"), (1, "x"), (1.5, "x"), (0.5, "")])
def test_trial_without_share_or_salt_is_invalid(admin, refusal, share, salt):
    message = ab.StartCanaryRequest(bundle_id="bundle-b", user_share=share, salt=salt)
    assert refusal(admin.StartCanary, message)[0] is grpc.StatusCode.INVALID_ARGUMENT


def test_broken_canary_costs_no_answer(admin, stub, server, recommenders):
    start_canary(admin)
    (user_id, *_) = sorted(in_canary(stub))
    recommenders["b"].failure = RuntimeError("no")
    assert bundle_of(stub, user_id) == "bundle-a"
    assert server.metrics.registry.get_sample_value("recsys_canary_failures_total") == 1


def test_pages_stay_with_the_bundle_that_made_them(admin, stub, recommenders):
    start_canary(admin)
    (user_id, *_) = sorted(in_canary(stub))
    asked = {"user_id": user_id, "request_id": "r1", "page_size": 2}
    first = stub.RecommendItems(pb.RecommendItemsRequest(**asked))
    admin.StopCanary(ab.StopCanaryRequest())
    asked["page_token"] = first.next_page_token
    second = stub.RecommendItems(pb.RecommendItemsRequest(**asked))
    assert (second.bundle_id, second.items[0].position) == ("bundle-b", 2)
    assert bundle_of(stub, user_id) == "bundle-a"


def test_recorded_events_reach_every_loaded_bundle(admin, stub, recommenders):
    start_canary(admin)
    event = watch("i0", 700, event_id="1")
    stub.RecordEvents(pb.RecordEventsRequest(user_id="u", events=[event]))
    assert recommenders["a"].counts == recommenders["b"].counts == {"i0": 700}
    admin.StopCanary(ab.StopCanaryRequest())
    event = watch("i0", 900, event_id="1")
    stub.RecordEvents(pb.RecordEventsRequest(user_id="u", events=[event]))
    assert (recommenders["a"].counts["i0"], recommenders["b"].counts["i0"]) == (900, 700)
    start_shadow(admin)
    assert recommenders["b"].counts == {"i0": 900}


def test_bundles_are_listed_with_what_they_do(admin):
    start_canary(admin, share=0.25)
    listed = admin.ListBundles(ab.ListBundlesRequest()).bundles
    assert [(each.bundle_id, each.role, each.share) for each in listed] == [
        ("bundle-a", "active", 0.75),
        ("bundle-b", "canary", 0.25),
        ("bundle-broken", "", 0.0),
    ]
    admin.PromoteCanary(ab.PromoteCanaryRequest())
    roles = [each.role for each in admin.ListBundles(ab.ListBundlesRequest()).bundles]
    assert roles == ["previous", "active", ""]


def test_metrics_tell_the_bundles_apart(admin, stub, server):
    start_canary(admin, share=0.3)
    number = len(in_canary(stub))
    value = server.metrics.registry.get_sample_value
    assert value("recsys_trial_share", {"kind": "canary", "bundle": "bundle-b"}) == 0.3
    for bundle_id, answers in (("bundle-a", len(USERS) - number), ("bundle-b", number)):
        label = {"bundle": bundle_id}
        assert value("recsys_answers_total", label) == answers
        assert value("recsys_answer_duration_seconds_count", label) == answers
        assert value("recsys_answers_degraded_total", label) == 0
        assert value("recsys_expected_watch_seconds_sum", label) == 12.5 * answers
    admin.StopCanary(ab.StopCanaryRequest())
    assert value("recsys_trial_share", {"kind": "canary", "bundle": "bundle-b"}) is None


def test_trials_of_the_settings_begin_with_the_server(
    start_server, open_stub, tmp_path, log_events
):
    def settings(**names):
        trials = {
            kind: TrialSettings(bundle=tmp_path / "bundles" / name, share=0.5, salt="s")
            for kind, name in names.items()
        }
        return ServerSettings(**trials)

    server = start_server(settings=settings(canary="b", shadow="b"))
    assert in_canary(open_stub(server))
    assert server.bundles.shadow is not None
    server = start_server(settings=settings(canary="broken"))
    assert in_canary(open_stub(server)) == set()
    told = [call.kwargs for call in log_events.calls if call.method_name == "error"]
    assert "altered" in told[0]["error"]


def outcomes(server):
    value = server.metrics.registry.get_sample_value
    names = ("compared", "failed", "dropped")
    return [value("recsys_shadow_answers_total", {"outcome": name}) or 0 for name in names]


def test_shadow_answers_nobody_and_is_compared(admin, stub, server, recommenders):
    start_shadow(admin)
    shadow = recommenders["b"]
    shadow.items_left_out, shadow.expected_seconds = 5, 20.0
    for number in range(4):
        assert bundle_of(stub, "u", request_id=f"r{number}") == "bundle-a"
        wait_until(lambda number=number: outcomes(server)[0] == number + 1)
    value = server.metrics.registry.get_sample_value
    assert value("recsys_shadow_overlap_ratio_sum") == pytest.approx(4 * 0.5)
    for side, seconds in (("given", 12.5), ("shadow", 20.0)):
        assert value("recsys_shadow_expected_watch_seconds_sum", {"side": side}) == 4 * seconds
        assert value("recsys_shadow_expected_watch_seconds_count", {"side": side}) == 4
    assert value("recsys_shadow_duration_seconds_count") == 4
    assert shadow.requests[-1].request_id == "r3"


def test_shadow_takes_its_share_of_requests(admin, stub, server, recommenders):
    start_shadow(admin, share=0.2)
    before = len(recommenders["b"].requests)
    for number in range(100):
        bundle_of(stub, "u", request_id=f"r{number}")
        wait_until(lambda: len(recommenders["b"].requests) - before == sum(outcomes(server)))
    assert 8 < sum(outcomes(server)) < 34


def test_broken_shadow_is_seen_in_a_metric_only(admin, stub, server, recommenders):
    start_shadow(admin)
    recommenders["b"].failure = RuntimeError("no")
    assert bundle_of(stub, "u") == "bundle-a"
    wait_until(lambda: outcomes(server) == [0, 1, 0])


def test_slow_shadow_holds_no_answer_and_drops(admin, stub, server, recommenders):
    start_shadow(admin)
    release = threading.Event()
    recommenders["b"].wait = lambda: release.wait(20)
    started = time.perf_counter()
    for number in range(15):
        bundle_of(stub, "u", request_id=f"r{number}")
    assert time.perf_counter() - started < 10
    assert 15 - 9 - 1 <= outcomes(server)[2] <= 15 - 8
    release.set()
    wait_until(lambda: sum(outcomes(server)) == 15)


def test_canary_answers_are_not_shadowed(start_server, open_channel, open_stub):
    server = start_server(admin=True)
    admin, stub = admin_pb2_grpc.AdminServiceStub(open_channel(server)), open_stub(server)
    start_shadow(admin)
    start_canary(admin, share=0.999)
    bundle_of(stub, "u")
    admin.StopShadow(ab.StopShadowRequest())
    bundle_of(stub, "v")
    assert outcomes(server) == [0, 0, 0]


def ranked(*item_ids, seconds=10.0):
    return [RankedItem(item_id, seconds, "net") for item_id in item_ids]


def test_overlap_is_the_share_of_the_first_ten_that_both_hold():
    assert overlap(ranked("a", "b", "c", "d"), ranked("d", "x", "a")) == 0.5
    assert overlap(ranked(*"abcdefghijk"), ranked("k")) == 0
    assert overlap([], ranked("a")) == 1


def test_mean_expected_seconds_is_of_the_first_ten_that_have_one():
    items = [*ranked("a", seconds=4.0), *ranked("b", seconds=None), *ranked("c", seconds=6.0)]
    assert mean_expected_seconds(items) == 5
    assert mean_expected_seconds(ranked(*"abcdefghij") + ranked("k", seconds=1e9)) == 10
    assert mean_expected_seconds(Recommendation(()).items) is None
