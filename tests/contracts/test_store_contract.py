"""What every store of users' state must do; the memory one is the slow twin of the durable ones."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recsys.errors import StateError
from recsys.state import UserEvents, UserState
from serving import store as store_module
from serving.lmdb_store import LmdbStore
from serving.merging import StoredSearch, concatenate_events, merge_events
from serving.settings import StoreSettings
from serving.store import MemoryStore

DAY = 86_400_000_000


@pytest.fixture
def open_store(request, tmp_path):
    """Open a store of a kind, the same one each time; those opened are closed after the test."""
    opened = []

    def open_kind(kind):
        if kind == "redis":
            from serving.redis_store import RedisStore

            server = request.getfixturevalue("redis_server")
            if not opened:
                server.flush()
            opened.append(RedisStore(StoreSettings(url=server.url, timeout_ms=1000)))
        elif kind == "memory":
            opened.append(MemoryStore())
        elif not opened:  # a process opens a directory once
            opened.append(LmdbStore(tmp_path / "state"))
        return opened[-1]

    yield open_kind
    for store in opened:
        store.close()


@pytest.fixture(params=["memory", "lmdb", "redis"])
def store(request, open_store):
    return open_store(request.param)


def logged(store, moment=0):
    with store.read_log(moment) as log:
        return concatenate_events(batch.events for batch in log.batches)


def event(item_id, event_id, moment, watch_ms=-1, *, outcome=None, clicked=-1, shown=True):
    values = {
        "item_id": item_id.encode(),
        "event_id": event_id.encode(),
        "moment": moment,
        "outcome_moment": moment + max(watch_ms, 0) * 1000 if outcome is None else outcome,
        "has_time": True,
        "watch_ms": watch_ms,
        "clicked": clicked,
        "watch_label": -1,
        "is_impression": shown,
    }
    dtypes = store_module.UserEvents.empty().arrays()
    columns = {
        name: np.array([value], "S" if dtypes[name].dtype.kind == "S" else dtypes[name].dtype)
        for name, value in values.items()
    }
    return UserEvents(**columns)


def events(*parts):
    return concatenate_events(parts)


def watched(found):
    return found.watch_ms > 0


def record(store, user_id, *parts, searches=()):
    return store.record(user_id, events(*parts), searches, is_watch=watched)


def rows(found):
    return [
        tuple(value.item() for value in row) for row in zip(*found.arrays().values(), strict=True)
    ]


def test_unknown_user_has_no_history(store):
    state = store.get("nobody")
    assert (state.user_id, len(state.events), state.searches) == ("nobody", 0, ())
    assert len(store.get("").events) == 0


def test_recorded_events_come_back_by_moment(store):
    result = record(store, "u", event("b", "2", 20, 500), event("a", "1", 10))
    assert (result.num_new, result.num_changed) == (2, 0)
    assert store.get("u").events.item_id.tolist() == [b"a", b"b"]
    assert store.get("u").events.watch_ms.tolist() == [-1, 500]
    assert len(store.get("v").events) == 0


def test_repeated_event_changes_nothing(store):
    record(store, "u", event("a", "1", 10, 500))
    before = rows(store.get("u").events)
    result = record(store, "u", event("a", "1", 10, 500))
    assert (result.num_new, result.num_changed, len(result.added)) == (0, 0, 0)
    assert rows(store.get("u").events) == before


def test_longer_watch_wins_in_either_order(store):
    short, long = event("a", "1", 10, 500), event("a", "1", 12, 900, clicked=1, shown=False)
    record(store, "u", short)
    result = record(store, "u", long)
    record(store, "v", long)
    record(store, "v", short)
    assert (result.num_new, result.num_changed) == (0, 1)
    assert rows(result.replaced) == rows(short)
    assert rows(result.added) == rows(store.get("u").events) == rows(store.get("v").events)
    merged = store.get("u").events
    assert (merged.moment[0], merged.watch_ms[0], merged.clicked[0]) == (10, 900, 1)
    assert merged.outcome_moment[0] == 12 + 900_000
    assert merged.is_impression[0]


def test_same_event_id_of_two_users_is_two_events(store):
    record(store, "u", event("a", "1", 10))
    assert record(store, "v", event("a", "1", 10)).num_new == 1


def test_watched_items_beyond_the_limit_stay_seen(store, monkeypatch):
    monkeypatch.setattr(store_module, "MAX_EVENTS", 3)
    many = [event(f"i{n}", str(n), n, 500 if n % 2 else 0) for n in range(6)]
    record(store, "u", *many)
    state = store.get("u")
    assert state.events.item_id.tolist() == [b"i3", b"i4", b"i5"]
    assert state.seen == {"i1"}


def test_repeat_of_an_event_beyond_the_limit_is_no_new_event(store, monkeypatch):
    monkeypatch.setattr(store_module, "MAX_EVENTS", 1)
    record(store, "u", event("a", "1", 10, 500), event("b", "2", 20, 500))
    result = record(store, "u", event("a", "1", 10, 500))
    assert (result.num_new, result.num_changed) == (0, 0)
    assert store.get("u").events.item_id.tolist() == [b"b"]
    assert store.get("u").seen == {"a"}


def test_searches_are_kept_once_by_event_id(store):
    record(store, "u", searches=[StoredSearch("cats", 10, "s1")])
    record(store, "u", searches=[StoredSearch("cats", 15, "s1"), StoredSearch("dogs", 5, "s2")])
    assert store.get("u").searches == (("dogs", 5), ("cats", 10))


def test_first_request_that_is_told_of_an_event_stays(store):
    shown = event("a", "1", 10)
    store.record("u", shown, (), is_watch=watched)
    told = [
        store.record("u", shown, (), is_watch=watched, request_ids={b"1": request_id})
        for request_id in ("r1", "r2", "")
    ]
    assert [result.num_changed for result in told] == [1, 0, 0]
    record(store, "u", event("a", "1", 10, 700))
    with store.read_log(0) as log:
        (batch,) = log.batches
    assert (batch.user_ids, batch.request_ids) == (["u"], ["r1"])
    assert batch.events.watch_ms.tolist() == [700]


def test_log_gives_events_from_a_moment_on(store):
    record(store, "u", event("a", "1", 10), event("b", "2", 20))
    record(store, "v", event("c", "1", 15))
    record(store, "v", event("c", "1", 15, 700))
    found = logged(store, 15)
    assert found.item_id.tolist() == [b"c", b"b"]
    assert found.watch_ms.tolist() == [700, -1]
    assert len(logged(store, 21)) == 0


def test_forgotten_log_entries_are_gone_and_the_history_stays(store):
    record(store, "u", event("a", "1", 10), event("b", "2", 20))
    assert store.forget_events_before(20) == 1
    assert logged(store).item_id.tolist() == [b"b"]
    assert len(store.get("u").events) == 2


def test_deleted_user_is_unknown_and_gives_back_logged_events(store):
    record(store, "u", event("a", "1", 10), event("b", "2", 20))
    record(store, "v", event("c", "1", 15))
    forgotten = store.delete("u")
    assert sorted(forgotten.item_id.tolist()) == [b"a", b"b"]
    assert store.delete("u") is None
    assert len(store.get("u").events) == 0
    assert logged(store).item_id.tolist() == [b"c"]
    assert record(store, "u", event("a", "1", 10)).num_new == 1


def test_import_keeps_what_was_recorded_since(store):
    until = 100 * DAY
    record(store, "u", event("old", "1", until - 5, 10), event("new", "2", until + 5, 20))
    imported = UserState(
        "u",
        events(event("x", "", 50, 30), event("old", "1", until - 5, 99)),
        (("cats", 3),),
        {"country": "NL", "birth_year": 1990.0},
        frozenset({"ancient"}),
    )
    for _ in range(2):
        assert store.import_states([imported, UserState("w")], until) == 2
        state = store.get("u")
        assert state.events.item_id.tolist() == [b"x", b"old", b"new"]
        assert state.events.watch_ms.tolist() == [30, 99, 20]
        assert state.searches == (("cats", 3),)
        assert state.attributes == imported.attributes
        assert state.seen == {"ancient"}


def test_events_without_an_id_are_never_merged(store):
    nameless = events(event("a", "", 10, 5), event("a", "", 10, 7), event("b", "", 3, 1))
    store.import_states([UserState("u", nameless)], DAY)
    assert store.get("u").events.watch_ms.tolist() == [1, 5, 7]


def test_imported_event_sent_again_is_known_and_keeps_its_moment(store):
    store.import_states([UserState("u", event("a", "1", 10, 500))], DAY)
    assert record(store, "u", event("a", "1", 10, 500)).num_new == 0
    result = record(store, "u", event("a", "1", 2 * DAY, 900))
    assert (result.num_new, result.num_changed, len(result.replaced)) == (0, 1, 0)
    assert result.added.moment.tolist() == [10]
    assert store.get("u").events.watch_ms.tolist() == [900]


def test_imported_events_of_order_only_lie_before_timed_ones(store):
    past = replace(event("x", "", 7), has_time=np.array([False]))
    store.import_states([UserState("u", past)], DAY)
    record(store, "u", event("a", "1", DAY + 1))
    assert store.get("u").events.item_id.tolist() == [b"x", b"a"]
    assert store.get("u").events.has_time.tolist() == [False, True]


def test_blocked_items_can_be_unblocked(store):
    assert store.blocked_items() == frozenset()
    assert store.block_items(["a", "b"]) == 2
    assert store.block_items(["b"]) == 2
    assert store.blocked_items() == {"a", "b"}
    assert store.unblock_items(["a", "zzz"]) == 1
    assert store.blocked_items() == {"b"}


single_events = st.builds(
    event,
    item_id=st.just("item"),
    event_id=st.sampled_from(["1", "2", "3"]),
    moment=st.integers(1, 9),
    watch_ms=st.integers(-1, 3),
    clicked=st.sampled_from([-1, 0, 1]),
    shown=st.booleans(),
)


@settings(max_examples=50, deadline=None)
@given(st.lists(single_events, min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_merging_ignores_order_and_repeats(parts, random):
    shuffled = parts + random.sample(parts, len(parts) // 2)
    random.shuffle(shuffled)
    one_by_one = UserEvents.empty()
    for part in shuffled:
        one_by_one = merge_events(one_by_one, part)
    assert sorted(rows(one_by_one)) == sorted(rows(merge_events(*parts)))


@pytest.mark.parametrize("kind", ["lmdb", "redis"])
@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(calls=st.lists(st.tuples(st.sampled_from("uv"), single_events), max_size=12))
def test_durable_store_answers_as_the_memory_store(open_store, kind, calls):
    durable, plain = open_store(kind), MemoryStore()
    for user_id in "uv":
        durable.delete(user_id)
    for user_id, part in calls:
        results = [record(store, user_id, part) for store in (durable, plain)]
        assert [result.num_new for result in results][0] == results[1].num_new
        assert rows(results[0].replaced) == rows(results[1].replaced)
    for user_id in "uv":
        assert rows(durable.get(user_id).events) == rows(plain.get(user_id).events)
    logs = [rows(logged(each)) for each in (durable, plain)]
    assert sorted(logs[0]) == sorted(logs[1])


def test_lmdb_keeps_all_after_reopening(tmp_path):
    first = LmdbStore(tmp_path)
    record(first, "u", event("a", "1", 10, 5), searches=[StoredSearch("q", 3, "s")])
    first.block_items(["z"])
    expected = first.get("u")
    first.close()
    second = LmdbStore(tmp_path)
    assert rows(second.get("u").events) == rows(expected.events)
    assert second.get("u").searches == (("q", 3),)
    assert second.blocked_items() == {"z"}
    assert record(second, "u", event("a", "1", 10, 5)).num_new == 0
    second.close()


def test_lmdb_syncs_each_commit_to_disk(tmp_path):
    store = LmdbStore(tmp_path)
    flags = store._environment.flags()
    assert (flags["sync"], flags["metasync"], flags["map_async"]) == (True, True, False)
    store.close()


def test_lmdb_refuses_a_directory_it_cannot_read(tmp_path):
    (tmp_path / "data.mdb").write_bytes(b"not a database" * 1000)
    with pytest.raises(StateError, match="cannot be opened"):
        LmdbStore(tmp_path)


def test_lmdb_refuses_another_format(tmp_path, monkeypatch):
    LmdbStore(tmp_path).close()
    monkeypatch.setattr("serving.lmdb_store.FORMAT", b"3")
    with pytest.raises(StateError, match="format 2"):
        LmdbStore(tmp_path)


def test_only_its_owner_may_read_a_store(tmp_path):
    LmdbStore(tmp_path / "store").close()
    for path in (tmp_path / "store", *(tmp_path / "store").iterdir()):
        assert path.stat().st_mode & 0o077 == 0, path


def test_redis_keeps_all_after_the_server_was_killed(open_store, redis_server):
    store = open_store("redis")
    record(store, "u", event("a", "1", 10, 5), searches=[StoredSearch("q", 3, "s")])
    store.block_items(["z"])
    expected, position = store.get("u"), store.changes_after(0).position
    redis_server.stop(kill=True)
    redis_server.start()
    assert rows(store.get("u").events) == rows(expected.events)
    assert store.get("u").searches == (("q", 3),)
    assert store.blocked_items() == {"z"}
    assert record(store, "u", event("a", "1", 10, 5)).num_new == 0
    assert store.changes_after(0).position == position


def test_redis_refuses_another_format(open_store, monkeypatch):
    open_store("redis").get("u")
    monkeypatch.setattr("serving.redis_store.FORMAT", b"2")
    with pytest.raises(StateError, match="format 1"):
        open_store("redis").get("u")


def test_redis_counts_what_it_holds(open_store):
    store = open_store("redis")
    record(store, "u", event("a", "1", 10), event("b", "2", 20))
    store.import_states([UserState("v"), UserState("w")], DAY)
    store.block_items(["z"])
    store.delete("w")
    assert store.counts() == {"users": 2, "events": 2, "blocked items": 1}
    store.delete("u")
    assert store.counts() == {"users": 1, "events": 0, "blocked items": 1}


def test_redis_leaves_nothing_of_a_deleted_user(open_store, redis_server):
    store = open_store("redis")
    record(store, "u", event("a", "1", 10), searches=[StoredSearch("q", 3, "s")])
    store.delete("u")
    assert sorted(redis_server.client().keys("*")) == [b"recsys:about", b"recsys:changes"]


def test_redis_record_worked_out_from_an_older_user_is_worked_out_anew(open_store, monkeypatch):
    one, other = open_store("redis"), open_store("redis")
    read = one._read

    def read_and_be_overtaken(user_id, found):
        answer = read(user_id, found)
        monkeypatch.setattr(one, "_read", read)
        record(other, "u", event("b", "2", 20, 5))
        return answer

    monkeypatch.setattr(one, "_read", read_and_be_overtaken)
    assert record(one, "u", event("a", "1", 10, 5)).num_new == 1
    assert one.get("u").events.item_id.tolist() == [b"a", b"b"]


def test_lmdb_keeps_no_more_changes_than_it_says(tmp_path, monkeypatch):
    monkeypatch.setattr("serving.lmdb_store.MAX_CHANGES", 3)
    store = LmdbStore(tmp_path)
    for number in range(5):
        record(store, "u", event("a", str(number), 10))
    assert store.changes_after(1) is None
    assert store.changes_after(2).position == 5
    store.close()
