import numpy as np

from pipelines.evaluate_candidates import known_watches
from pipelines.held_out import held_out_watches
from recsys.data.examples import TEST
from recsys.data.prepared import load_prepared


def all_held_out(tiny_run, max_watches=None):
    prepared = load_prepared(tiny_run / "prepared")
    rng = np.random.default_rng(0)
    return held_out_watches(prepared, TEST, max_watches=max_watches, rng=rng)


def test_requests_stand_in_the_order_of_the_arrays(tiny_run):
    held_out = all_held_out(tiny_run)
    requests = list(held_out.requests(seen_removed=True))
    assert len(requests) == len(held_out) > 50
    assert [request.now for request in requests] == held_out.moments.tolist()
    owners = {}
    for request, user in zip(requests, held_out.users.tolist(), strict=True):
        assert owners.setdefault(user, request.user.user_id) == request.user.user_id
    assert len(set(owners.values())) == len(owners)


def test_history_is_what_the_user_watched_before_the_moment(tiny_run):
    held_out = all_held_out(tiny_run)
    catalogue = held_out.prepared.catalogue
    offsets, rows = held_out.histories
    for number, request in enumerate(held_out.requests(seen_removed=True)):
        events = request.user.as_of(request.now).events
        watched = set(events.item_id[events.watch_ms >= 30_000].tolist())
        own = catalogue.vocabulary.ids(rows[offsets[number] : offsets[number + 1]])
        assert watched - set(
            catalogue.vocabulary.id_bytes(np.arange(catalogue.num_trained, len(catalogue))).tolist()
        ) <= {item.encode() for item in own}


def test_target_is_watched_at_the_moment_and_not_known_before(tiny_run):
    held_out = all_held_out(tiny_run, max_watches=60)
    assert len(held_out) == 60
    ids = held_out.prepared.catalogue.item_ids(held_out.targets)
    for request, item in zip(held_out.requests(seen_removed=True), ids, strict=True):
        events = request.user.events
        at = (events.moment == request.now) & (events.item_id == item.encode())
        assert at.any()
        assert (request.user.as_of(request.now).events.moment < request.now).all()


def test_sample_is_a_part_of_the_whole(tiny_run):
    whole, part = all_held_out(tiny_run), all_held_out(tiny_run, max_watches=40)
    for all_labels, some in zip(whole.labels, part.labels, strict=True):
        assert set(some.tolist()) <= set(all_labels.tolist())


def test_baselines_know_nothing_of_the_test(tiny_run):
    held_out = all_held_out(tiny_run)
    known = known_watches(held_out.prepared)
    assert known.moments.max() < held_out.moments.min()
    assert len(known) == sum(len(shard.user_ids) for shard in held_out.prepared.shards)
