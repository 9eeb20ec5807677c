"""The operator's calls: swap, go back, list, block, delete."""

import json

import grpc
import pytest

from recsys.bundle import FORMAT, KIND
from serving.client import watch
from serving.v1 import admin_pb2 as ab
from serving.v1 import recommender_pb2 as pb


@pytest.fixture
def shelf(tmp_path):
    """Bundle directories beside the active one: a, b, one that will not load, and a stranger."""
    for name, kind in (("a", KIND), ("b", KIND), ("broken", KIND), ("other", "state")):
        manifest = {"kind": kind, "format": FORMAT, "files": {}, "data_until": 5}
        directory = tmp_path / "bundles" / name
        directory.mkdir(parents=True)
        text = json.dumps(manifest | {"bundle_id": f"bundle-{name}"})
        (directory / "manifest.json").write_text(text)


def active(stub):
    return stub.GetBundle(pb.GetBundleRequest()).bundle_id


def record(stub, item_id, watch_ms, event_id):
    event = watch(item_id, watch_ms, event_id=event_id)
    stub.RecordEvents(pb.RecordEventsRequest(user_id="u", events=[event]))


def test_activate_swaps_and_rollback_goes_back(shelf, admin, stub, server):
    reply = admin.ActivateBundle(ab.ActivateBundleRequest(bundle_id="bundle-b"))
    assert (reply.bundle_id, reply.active) == ("bundle-b", True)
    assert active(stub) == "bundle-b"
    assert stub.RecommendItems(pb.RecommendItemsRequest()).bundle_id == "bundle-b"
    value = server.metrics.registry.get_sample_value
    assert value("recsys_bundle_info", {"bundle": "bundle-a"}) is None
    assert admin.RollbackBundle(ab.RollbackBundleRequest()).bundle_id == "bundle-a"
    assert active(stub) == "bundle-a"
    assert admin.RollbackBundle(ab.RollbackBundleRequest()).bundle_id == "bundle-b"


def test_new_bundle_is_warm_and_counts_recorded_events_once(shelf, admin, stub, recommenders):
    fresh = recommenders["b"]
    record(stub, "i0", 700, "1")
    admin.ActivateBundle(ab.ActivateBundleRequest(bundle_id="bundle-b"))
    assert len(fresh.requests) == 1
    assert fresh.counts == {"i0": 700}
    record(stub, "i0", 900, "1")
    record(stub, "i1", 50, "2")
    assert fresh.counts == recommenders["a"].counts == {"i0": 900, "i1": 50}


def test_new_bundle_that_saw_the_events_does_not_count_them(shelf, admin, stub, recommenders):
    record(stub, "i0", 700, "1")
    recommenders["b"].data_until += 2_000_000
    admin.ActivateBundle(ab.ActivateBundleRequest(bundle_id="bundle-b"))
    assert recommenders["b"].counts == {}


def test_refused_bundle_leaves_the_old_one_answering(shelf, admin, stub, refusal):
    message = ab.ActivateBundleRequest(bundle_id="bundle-broken")
    code, details = refusal(admin.ActivateBundle, message)
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert details["ErrorInfo"].reason == "BUNDLE_REFUSED"
    assert active(stub) == "bundle-a"


def test_bundle_that_cannot_answer_is_not_swapped_in(shelf, admin, stub, refusal, recommenders):
    recommenders["b"].failure = RuntimeError("no")
    message = ab.ActivateBundleRequest(bundle_id="bundle-b")
    code, details = refusal(admin.ActivateBundle, message)
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert "warm-up" in details["message"]
    assert active(stub) == "bundle-a"


def test_unknown_bundle_is_not_found(shelf, admin, refusal):
    message = ab.ActivateBundleRequest(bundle_id="../../etc")
    assert refusal(admin.ActivateBundle, message)[0] is grpc.StatusCode.NOT_FOUND


def test_rollback_without_a_previous_bundle_is_refused(admin, refusal):
    code, details = refusal(admin.RollbackBundle, ab.RollbackBundleRequest())
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert details["ErrorInfo"].reason == "PRECONDITION_FAILED"


def test_list_gives_the_bundles_in_pages(shelf, admin):
    first = admin.ListBundles(ab.ListBundlesRequest(page_size=2))
    assert [(each.bundle_id, each.active) for each in first.bundles] == [
        ("bundle-a", True),
        ("bundle-b", False),
    ]
    rest = admin.ListBundles(ab.ListBundlesRequest(page_token=first.next_page_token))
    assert [each.bundle_id for each in rest.bundles] == ["bundle-broken"]
    assert rest.next_page_token == ""


def test_blocked_items_leave_every_answer_until_unblocked(shelf, admin, stub):
    def first():
        return stub.RecommendItems(pb.RecommendItemsRequest()).items[0].item_id

    message = ab.BlockItemsRequest(item_ids=["i0", "i9"])
    assert admin.BlockItems(message).blocked_item_count == 2
    assert first() == "i1"
    admin.ActivateBundle(ab.ActivateBundleRequest(bundle_id="bundle-b"))
    assert first() == "i1"
    message = ab.UnblockItemsRequest(item_ids=["i0"])
    assert admin.UnblockItems(message).blocked_item_count == 1
    assert first() == "i0"


def test_blocked_items_leave_kept_rankings_too(admin, stub):
    page = stub.RecommendItems(pb.RecommendItemsRequest(page_size=1))
    admin.BlockItems(ab.BlockItemsRequest(item_ids=["i1"]))
    rest = stub.RecommendItems(pb.RecommendItemsRequest(page_token=page.next_page_token))
    assert "i1" not in [item.item_id for item in rest.items]


def test_deleted_user_is_forgotten_and_uncounted(admin, stub, recommender, refusal):
    record(stub, "i0", 700, "1")
    admin.DeleteUser(ab.DeleteUserRequest(user_id="u"))
    assert recommender.counts["i0"] == 0
    stub.RecommendItems(pb.RecommendItemsRequest(user_id="u"))
    assert len(recommender.requests[-1].user.events) == 0
    code, _ = refusal(admin.DeleteUser, ab.DeleteUserRequest(user_id="u"))
    assert code is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("item_ids", [[], ["a", ""], ["x"] * 1001])
def test_bad_block_lists_are_invalid(admin, refusal, item_ids):
    code, details = refusal(admin.BlockItems, ab.BlockItemsRequest(item_ids=item_ids))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert details["BadRequest"].field_violations[0].field.startswith("item_ids")
