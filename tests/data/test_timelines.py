import dataclasses

import numpy as np
import pyarrow as pa
import pytest

from recsys.data.columns import integers
from recsys.data.timelines import Timelines, WatchHistories, watch_histories
from recsys.data.user_states import timelines_of_states, user_states
from recsys.settings import WatchRule
from recsys.state import UserState
from tests.data.tiny_log import SECOND, TIME, event_table, prepare_tiny, tiny_log, tiny_settings

EXTRA = {
    "liked": pa.array([True, None, False, None, True, None, None, None]),
    "clicked": pa.array([True, None, False, None, None, None, True, None]),
    "event_id": pa.array([f"event-{number}" for number in range(7)] + [None]),
    # Half of this is 500 ms, half of the item's own duration 10 s.
    "duration_ms": pa.array([None, 1_000, None, None, None, None, None, None], pa.int64()),
}


@pytest.fixture(scope="module", params=[None, "liked"])
def prepared(request, tmp_path_factory):
    rule = {"min_ms": 9_000, "min_fraction": 0.5, "column": request.param}
    settings = tiny_settings(data={"watch": rule})
    folder = tmp_path_factory.mktemp("timelines") / "prepared"
    return prepare_tiny(folder, tiny_log(event_table(**EXTRA)), settings)


def rule_of(prepared):
    return WatchRule.model_validate(prepared.manifest["settings"]["data"]["watch"])


def served(prepared, states):
    durations = integers(prepared.catalogue.table, "duration_ms")
    return timelines_of_states(states, prepared.catalogue, durations, rule_of(prepared))


def assert_same(first, second):
    for name, array in first.arrays().items():
        assert array.dtype == getattr(second, name).dtype, name
        np.testing.assert_array_equal(array, getattr(second, name), err_msg=name)


def test_events_lie_user_after_user_by_moment(tmp_path):
    timelines = prepare_tiny(tmp_path / "p").shards[0].timelines
    assert timelines.offsets.tolist() == [0, 3, 6, 8]
    assert timelines.item.tolist() == [0, 1, 1, 0, 2, 0, 1, 3]
    moments = [100, 104, 110, 108, 109, 130, 125, 140]
    assert (timelines.moment // SECOND).tolist() == moments
    outcomes = [108, 105, 125, 108, 118, 130, 145, 145]
    assert (timelines.outcome_moment // SECOND).tolist() == outcomes
    assert timelines.watch_ms.tolist() == [8000, 1000, 15000, 0, 9000, -1, 20000, 5000]
    assert timelines.is_impression.tolist() == [1, 1, 1, 1, 0, 1, 1, 1]
    assert timelines.is_watch.tolist() == [1, 0, 1, 0, 1, 0, 1, 0]


def test_order_of_the_rows_changes_nothing(tmp_path):
    backwards = event_table().take(list(range(7, -1, -1)))
    first = prepare_tiny(tmp_path / "a").shards[0].timelines
    assert_same(first, prepare_tiny(tmp_path / "b", tiny_log(backwards)).shards[0].timelines)


def test_order_only_events_lie_before_timed_ones(tmp_path):
    table = event_table(sequence=pa.array([None, 2, 1, *[None] * 5], pa.int64()))
    seconds = [100, None, None, 130, 131, 132, 133, 134]
    time = pa.array([second and second * SECOND for second in seconds], TIME)
    table = table.set_column(2, "event_time", time)
    timelines = prepare_tiny(tmp_path / "p", tiny_log(table)).shards[0].timelines
    assert timelines.moment[:3].tolist() == [1, 2, 100 * SECOND]
    assert timelines.outcome_moment[:2].tolist() == [1, 2]
    assert timelines.has_time[:3].tolist() == [False, False, True]


def test_sequence_breaks_ties_of_time(tmp_path):
    rows = [("ann", item, 100, 9_000, True) for item in ("y", "x", "z")]
    table = event_table(rows, sequence=pa.array([3, 1, 2]))
    shard = prepare_tiny(tmp_path / "p", tiny_log(table)).shards[0]
    assert shard.events()["item_id"].to_pylist() == ["x", "z", "y"]


def test_states_give_the_timelines_of_the_shard(prepared):
    shard = prepared.shards[0]
    assert_same(served(prepared, list(user_states(prepared, shard))), shard.timelines)


def test_one_state_gives_its_users_part(prepared):
    shard = prepared.shards[0]
    bob = list(user_states(prepared, shard))[1]
    alone = served(prepared, [bob])
    for name, array in alone.arrays().items():
        if name != "offsets":
            np.testing.assert_array_equal(array, getattr(shard.timelines, name)[3:6])


@pytest.mark.parametrize("second", [100, 104, 105, 106, 108, 109, 110, 118, 125, 126, 200])
def test_state_as_of_a_moment_knows_the_same_watches(prepared, second):
    shard, now = prepared.shards[0], second * SECOND
    states = [state.as_of(now) for state in user_states(prepared, shard)]
    num_trained = prepared.catalogue.num_trained
    histories = watch_histories(served(prepared, states), num_trained)
    users, moments = np.arange(3), np.full(3, now)
    known = histories.known_before(users, moments)
    expected = shard.histories.known_before(users, moments)
    np.testing.assert_array_equal(known, expected)
    np.testing.assert_array_equal(
        histories.newest(users, known, 5), shard.histories.newest(users, expected, 5)
    )


def test_states_carry_ids_searches_and_attributes(prepared):
    ann, bob, cat = user_states(prepared, prepared.shards[0])
    assert [state.user_id for state in (ann, bob, cat)] == ["ann", "bob", "cat"]
    assert ann.searches == (("Sea War", 103 * SECOND), ("war", 110 * SECOND))
    assert ann.attributes == {"country": "NL", "birth_year": 1950.0}
    assert (bob.attributes, cat.attributes) == ({}, {"country": "FR"})
    assert ann.events.event_id.tolist() == [b"event-0", b"event-1", b"event-2"]
    assert cat.events.event_id.tolist() == [b"event-6", b""]
    assert ann.events.item_id.tolist() == [b"x", b"y", b"y"]


def test_log_without_ids_and_users_gives_bare_states(tmp_path):
    log = tiny_log(users=None, searches=None)
    settings = tiny_settings(
        candidates={"context": ()}, ranking={"user_categorical": (), "user_numeric": ()}
    )
    bare = prepare_tiny(tmp_path / "p", log, settings)
    states = list(user_states(bare, bare.shards[0]))
    assert states[0].events.event_id.tolist() == [b"", b"", b""]
    assert (states[0].attributes, states[0].searches) == ({}, ())
    assert_same(served(bare, states), bare.shards[0].timelines)


def test_no_states_and_no_events_give_empty_timelines(prepared):
    assert served(prepared, []).num_users == 0
    nobody = served(prepared, [UserState("")])
    assert (nobody.num_users, len(nobody.item)) == (1, 0)


def test_unknown_item_has_no_row(prepared):
    (ann, *_) = user_states(prepared, prepared.shards[0])
    events = dataclasses.replace(ann.events, item_id=np.array([b"x", b"unheard of", b"y"]))
    x, y = prepared.catalogue.rows(["x", "y"])
    assert served(prepared, [UserState("", events)]).item.tolist() == [x, -1, y]


def timelines_of(items, outcomes, is_watch):
    size = len(items)
    zeros = np.zeros(size, np.int64)
    return Timelines(
        offsets=np.array([0, size]),
        item=np.array(items, np.int32),
        moment=zeros,
        outcome_moment=np.array(outcomes),
        has_time=np.ones(size, bool),
        watch_ms=zeros,
        clicked=zeros.astype(np.int8),
        is_impression=np.ones(size, bool),
        is_watch=np.array(is_watch, bool),
    )


def test_histories_hold_trained_watches_by_outcome():
    timelines = timelines_of([0, 1, 2, -1, 1], [50, 40, 30, 20, 10], [1, 1, 1, 1, 0])
    histories = watch_histories(timelines, num_trained=2)
    assert histories.code.tolist() == [2, 1]
    assert histories.moment.tolist() == [40, 50]


def test_newest_pads_on_the_right():
    histories = WatchHistories(np.array([0, 3, 3]), np.array([4, 5, 6], np.int32), np.arange(3))
    newest = histories.newest(np.array([0, 0, 1]), np.array([3, 1, 0]), 2)
    assert newest.tolist() == [[5, 6], [4, 0], [0, 0]]


def test_seconds_are_counted_back_from_the_newest_known_watch():
    second = 1_000_000
    histories = WatchHistories(
        np.array([0, 3, 4]),
        np.array([1, 2, 3, 4], np.int32),
        np.array([100, 160, 161, 50]) * second,
    )
    users, known = np.array([0, 0, 1, 1]), np.array([3, 2, 1, 0])
    found = histories.newest_seconds(users, known, 3)
    expected = [[-61, -1, 0], [-60, 0, 0], [0, 0, 0], [0, 0, 0]]
    np.testing.assert_array_equal(found, np.array(expected, np.float32))


def test_item_that_the_catalogue_does_not_know_has_no_duration(prepared):
    event = dataclasses.replace(
        UserState("u").events,
        **{
            name: np.array([value], array.dtype)
            for (name, array), value in zip(
                vars(UserState("u").events).items(),
                (b"unknown", b"e", 1, 2, True, 600, -1, -1, True),
                strict=True,
            )
        },
    )
    shortest = np.full(len(prepared.catalogue), 1_000)  # of which 600 ms are more than half
    found = timelines_of_states(
        [UserState("u", event)], prepared.catalogue, shortest, rule_of(prepared)
    )
    assert (found.item.tolist(), found.is_watch.tolist()) == ([-1], [False])
