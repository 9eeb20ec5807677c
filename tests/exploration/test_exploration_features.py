from dataclasses import replace

import numpy as np

from recsys.data.timelines import Timelines
from recsys.exploration.features import (
    KnownWatches,
    Watches,
    process_inputs,
    target_numeric,
    watch_numeric,
)
from tests.exploration.small_process import SPEC, WORLD, make_features
from tests.ranking.small_world import NUM_ITEMS, NUM_USERS, make_timelines

RNG = np.random.default_rng(3)


def timelines_of(user, moment, outcome_moment, *, watch_ms=None, item=None):
    """Return timelines of events given user by user."""
    total = len(moment)
    return Timelines(
        offsets=np.searchsorted(user, np.arange(max(user, default=-1) + 2)),
        item=np.arange(total, dtype=np.int32) if item is None else np.array(item, np.int32),
        moment=np.array(moment, np.int64),
        outcome_moment=np.array(outcome_moment, np.int64),
        has_time=np.ones(total, bool),
        watch_ms=np.full(total, 1000) if watch_ms is None else np.array(watch_ms),
        clicked=np.full(total, -1, np.int8),
        is_impression=np.ones(total, bool),
        is_watch=np.zeros(total, bool),
    )


def newest(timelines, users, moments, length):
    known = KnownWatches(timelines)
    return known.newest(np.array(users), np.array(moments), length).tolist()


def test_newest_became_known_strictly_before_and_the_last_comes_first():
    timelines = timelines_of([0, 0, 0, 0, 1], [10, 20, 30, 40, 40], [15, 35, 30, 45, 41])
    assert newest(timelines, [0] * 4, [15, 16, 35, 46], 3) == [
        [-1, -1, -1],
        [0, -1, -1],
        [2, 0, -1],
        [3, 1, 2],
    ]
    assert newest(timelines, [1, 1], [41, 42], 1) == [[-1], [4]]


def test_equal_moments_count_as_the_events_stand():
    timelines = timelines_of([0, 0, 0], [1, 2, 3], [5, 5, 5])
    assert newest(timelines, [0], [6], 2) == [[2, 1]]


def test_unknown_times_and_unknown_items_are_no_context():
    timelines = timelines_of(
        [0, 0, 0, 0], [1, 2, 3, 4], [1, 2, 3, 4], watch_ms=[0, -1, 9, 9], item=[0, 1, -1, 3]
    )
    assert newest(timelines, [0], [9], 4) == [[3, 0, -1, -1]]
    assert KnownWatches(timelines).counts(np.array([0]), np.array([9])).tolist() == [2]


def test_nobody_has_watched_anything():
    timelines = timelines_of([], [], [])
    timelines = replace(timelines, offsets=np.zeros(3, np.int64))
    assert newest(timelines, [0, 1], [5, 5], 2) == [[-1, -1], [-1, -1]]
    found = KnownWatches(timelines).watches.at(np.full((2, 2), -1))
    assert found.item.tolist() == [[-1, -1], [-1, -1]]


def test_newest_agree_with_a_walk_through_the_events():
    timelines = make_timelines(np.random.default_rng(1))
    users, moments = np.arange(NUM_USERS), np.full(NUM_USERS, int(np.median(timelines.moment)))
    found = newest(timelines, users, moments, 4)
    for user, numbers in zip(users, found, strict=True):
        own = range(*timelines.offsets[user : user + 2])
        known = [
            event
            for event in own
            if timelines.watch_ms[event] >= 0
            and timelines.item[event] >= 0
            and timelines.outcome_moment[event] < moments[user]
        ]
        known.sort(key=lambda event: (timelines.outcome_moment[event], event), reverse=True)
        assert [number for number in numbers if number >= 0] == known[:4]


def inputs_of(item, watch_ms=None):
    item = np.array(item, np.int32)
    watch_ms = np.full(item.shape, 2000) if watch_ms is None else np.array(watch_ms)
    features = make_features(RNG, len(item))
    watches = Watches(item, watch_ms, np.ones(item.shape, bool))
    return features, process_inputs(features, watches, WORLD.items, SPEC)


def test_targets_are_what_the_ranking_net_is_told_but_for_the_users_past():
    features, inputs = inputs_of([[0, 1], [2, -1]])
    columns = [SPEC.item_numeric.index(name) for name in target_numeric(SPEC)]
    np.testing.assert_array_equal(
        inputs["target_numeric"], features["candidate_numeric"][..., columns]
    )
    assert not [name for name in target_numeric(SPEC) if name.startswith(("user", "session"))]
    assert {"item_watch_rate", "duration_seconds", "height"} <= set(target_numeric(SPEC))
    np.testing.assert_array_equal(inputs["request"], features["user_categorical"])


def test_watches_are_told_by_what_their_items_always_have():
    _, inputs = inputs_of([[3, 5]])
    assert watch_numeric(SPEC) == ("height", "duration_seconds")
    duration_ms = WORLD.items.duration_ms[[3, 5]]
    seconds = np.where(duration_ms > 0, duration_ms / 1000, np.nan)
    expected = np.stack([WORLD.items.numeric["height"][[3, 5]], seconds], axis=-1)
    np.testing.assert_allclose(inputs["context_numeric"][0], expected, rtol=1e-6)
    np.testing.assert_array_equal(inputs["context_item"][0], WORLD.items.code[[3, 5]])


def test_unknown_durations_are_missing():
    unknown = np.flatnonzero(WORLD.items.duration_ms < 0)
    _, inputs = inputs_of([unknown])
    assert np.isnan(inputs["context_numeric"][..., 1]).all()


def test_padding_tells_nothing():
    _, inputs = inputs_of([[NUM_ITEMS - 1, -1]], [[5000, 0]])
    assert inputs["context_known"].tolist() == [[1, 0]]
    assert np.isnan(inputs["context_numeric"][0, 1]).all()
    for name in ("item", "categorical", "bags", "outcome"):
        assert not inputs[f"context_{name}"][0, 1].any()
