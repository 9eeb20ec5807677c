"""Counters of servers that share a store: each counts what all recorded, once."""

import copy
import subprocess
import sys
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recsys.errors import StateError
from recsys.state import EVENT_DTYPES, UserEvents
from serving.counting import Counting
from serving.lmdb_store import LmdbStore
from serving.settings import StoreSettings
from serving.store import MemoryStore, UnsureStateError

UNTIL = 5


class CountingBundle:
    """Sums watched milliseconds by item from UNTIL on, as a recommender would."""

    data_until = UNTIL

    def __init__(self):
        self.counts = Counter()
        self.recounts = 0
        self.between_batches = lambda: None

    def count_events(self, events, *, sign=1):
        self._add(self.counts, events, sign)

    def recount_events(self, batches):
        fresh = Counter()
        for events in batches:
            self.between_batches()
            self._add(fresh, events, 1)
        self.counts, self.recounts = fresh, self.recounts + 1

    def is_watch(self, events):
        return events.watch_ms > 0

    def shown(self):
        return {item: count for item, count in self.counts.items() if count}

    @staticmethod
    def _add(counts, events, sign):
        for position in np.flatnonzero(events.moment >= UNTIL).tolist():
            name = events.item_id[position].decode()
            counts[name] += sign * (1000 + int(events.watch_ms[position]))


class Server:
    """A bundle over a store, as a process would have them."""

    def __init__(self, store):
        self.store, self.bundle = store, CountingBundle()
        self.counting = Counting(store)
        self.counting.add(self.bundle)

    def record(self, user_id, item_id, event_id, moment, watch_ms=0):
        values = (item_id, event_id, moment, moment, True, watch_ms, -1, -1, True)
        columns = zip(EVENT_DTYPES.items(), values, strict=True)
        event = UserEvents(**{name: np.array([value], dtype) for (name, dtype), value in columns})
        return self.counting.record(user_id, event, (), judge=self.bundle)


@pytest.fixture(params=["lmdb", "redis"])
def open_servers(request, tmp_path):
    """Open two servers over one empty store. Two objects of one LMDB environment, which a process
    may open once, stand for two processes."""
    opened = []

    def open_both():
        if request.param == "redis":
            from serving.redis_store import RedisStore

            server = request.getfixturevalue("redis_server")
            server.flush()
            store_settings = StoreSettings(url=server.url, timeout_ms=1000)
            stores = [RedisStore(store_settings), RedisStore(store_settings)]
            opened.extend(stores)
        else:
            one = LmdbStore(tmp_path / f"store{len(opened)}")
            other = copy.copy(one)
            other._writer = b"other"
            stores = [one, other]
            opened.append(one)
        return [Server(store) for store in stores]

    yield open_both
    for store in opened:
        store.close()


def test_what_another_server_recorded_is_counted_once_followed(open_servers):
    one, other = open_servers()
    one.record("u", "a", "1", 10, 500)
    other.record("u", "b", "2", 20, 7)
    assert (one.bundle.shown(), other.bundle.shown()) == ({"a": 1500}, {"b": 1007})
    for _ in range(2):
        one.counting.follow()
        other.counting.follow()
        assert one.bundle.shown() == other.bundle.shown() == {"a": 1500, "b": 1007}
    assert one.bundle.recounts == 1


def test_event_that_another_server_changed_is_counted_as_it_is_now(open_servers):
    one, other = open_servers()
    one.record("u", "a", "1", 10, 500)
    other.record("u", "a", "1", 9, 900)
    one.counting.follow()
    other.counting.follow()
    assert one.bundle.shown() == other.bundle.shown() == {"a": 1900}


def test_user_whom_another_server_deleted_is_not_counted(open_servers):
    one, other = open_servers()
    one.record("u", "a", "1", 10, 500)
    one.record("v", "b", "1", 10, 500)
    assert other.counting.delete("u")
    one.counting.follow()
    other.counting.follow()
    assert one.bundle.shown() == other.bundle.shown() == {"b": 1500}


def test_who_is_too_far_behind_counts_anew(open_servers, monkeypatch):
    monkeypatch.setattr("serving.lmdb_store.MAX_CHANGES", 2)
    monkeypatch.setattr("serving.redis_layout.MAX_CHANGES", 2)
    one, other = open_servers()
    for number in range(250):  # Redis drops changes a hundred at a time
        other.record("u", "a", str(number), 10)
    one.counting.follow()
    assert one.bundle.shown() == {"a": 250_000}
    assert one.bundle.recounts == 2
    other.record("u", "a", "x", 10)
    one.counting.follow()
    assert (one.bundle.shown(), one.bundle.recounts) == ({"a": 251_000}, 2)


def test_log_is_counted_as_of_its_position_though_it_changes_meanwhile(open_servers, monkeypatch):
    monkeypatch.setattr("serving.lmdb_store.LOG_BATCH", 2)
    monkeypatch.setattr("serving.redis_store.LOG_BATCH", 2)
    one, other = open_servers()
    for number in range(8):
        other.record("u", f"i{number}", str(number), 10 + number, number)
    # Behind and ahead of the reader: changed, moved to an earlier time, new, before data_until.
    steps = iter(
        [
            ("u", "i0", "0", 10, 90),
            ("u", "i7", "7", 11, 90),
            ("u", "i6", "6", 2, 6),
            ("u", "new", "8", 18, 5),
            ("u", "i7", "7", 11, 95),
            ("v", "new", "1", 6, 5),
        ]
    )

    def change():
        for step in (next(steps, None), next(steps, None)):
            if step:
                other.record(*step)

    fresh = CountingBundle()
    fresh.between_batches = change
    one.counting.add(fresh)
    one.counting.follow()
    other.counting.follow()
    expected = {f"i{number}": 1000 + number for number in range(6)} | {"i0": 1090, "i7": 1095}
    assert fresh.shown() == other.bundle.shown() == expected | {"new": 2010}


def test_deletion_while_the_log_is_read_leaves_no_half_counts(open_servers, monkeypatch):
    monkeypatch.setattr("serving.redis_store.LOG_BATCH", 1)
    one, other = open_servers()
    other.record("u", "a", "1", 10)
    other.record("v", "b", "1", 11)
    fresh = CountingBundle()
    fresh.between_batches = lambda: other.counting.delete("u")
    one.counting.add(fresh)
    fresh.between_batches = lambda: None
    one.counting.follow()
    assert fresh.shown() == {"b": 1000}


calls = st.one_of(
    st.tuples(
        st.just("record"),
        st.booleans(),
        st.sampled_from("uv"),
        st.sampled_from(["1", "2", "3"]),
        st.integers(3, 9),
        st.integers(0, 3),
    ),
    st.tuples(st.sampled_from(["follow", "delete", "add"]), st.booleans(), st.sampled_from("uv")),
)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=st.lists(calls, max_size=14))
def test_all_servers_count_the_log_whatever_happened(open_servers, steps):
    servers = open_servers()
    for kind, which, user_id, *event in steps:
        server = servers[which]
        if kind == "record":
            server.record(user_id, f"i{event[0]}", *event)
        elif kind == "delete":
            server.counting.delete(user_id)
        elif kind == "add":
            server.bundle = CountingBundle()
            server.counting.add(server.bundle)
        else:
            server.counting.follow()
    for server in servers:
        server.counting.follow()
    truth = CountingBundle()
    Counting(servers[0].store).add(truth)
    assert servers[0].bundle.shown() == servers[1].bundle.shown() == truth.shown()


def test_another_process_on_one_directory_is_followed(tmp_path):
    server = Server(LmdbStore(tmp_path / "store"))
    server.record("u", "a", "1", 10)
    code = (
        "import sys; from pathlib import Path; from tests.serving.test_counting import *;"
        "Server(LmdbStore(Path(sys.argv[1]))).record('v', 'b', '1', 10)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "store")], check=True)
    server.counting.follow()
    assert server.bundle.shown() == {"a": 1000, "b": 1000}
    server.store.close()


def test_record_that_may_be_stored_or_not_is_counted_if_it_was():
    class BreaksOff(MemoryStore):
        def record(self, *arguments, **named):
            super().record(*arguments, **named)
            raise UnsureStateError("broke off")

    server = Server(BreaksOff())
    with pytest.raises(UnsureStateError):
        server.record("u", "a", "1", 10)
    assert server.bundle.shown() == {}
    server.counting.follow()
    assert server.bundle.shown() == {"a": 1000}


def test_bundle_loaded_beside_a_broken_store_is_counted_once_it_is_mended():
    class Broken(MemoryStore):
        is_broken = False

        @contextmanager
        def read_log(self, moment):
            if self.is_broken:
                raise StateError("down")
            with super().read_log(moment) as log:
                yield replace(log, position=3)

    server = Server(Broken())
    server.record("u", "a", "1", 10)
    server.store.is_broken = True
    fresh = CountingBundle()
    server.counting.add(fresh)
    server.record("u", "b", "2", 10)
    assert fresh.shown() == {}
    with pytest.raises(StateError):
        server.counting.follow()
    server.store.is_broken = False
    server.counting.follow()
    assert fresh.shown() == server.bundle.shown() == {"a": 1000, "b": 1000}


def test_bundle_that_is_no_longer_kept_is_not_counted_for():
    server = Server(MemoryStore())
    server.counting.keep_only([])
    server.record("u", "a", "1", 10)
    server.counting.follow()
    assert server.bundle.shown() == {}
