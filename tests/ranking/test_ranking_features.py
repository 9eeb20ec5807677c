import dataclasses

import numpy as np
import pytest

from recsys.ranking.features import ranking_features
from recsys.ranking.recent import (
    age_codes,
    decayed_means,
    outcome_codes,
    recent_events,
    session_columns,
)
from recsys.ranking.spec import FeatureSpec, feature_names, model_inputs
from tests.ranking.small_world import (
    NOON,
    NUM_ITEMS,
    SECOND,
    make_queries,
    make_world,
    take,
)

NUM_QUERIES, NUM_CANDIDATES = 40, 8


@pytest.fixture(scope="module")
def world():
    return make_world()


@pytest.fixture(scope="module")
def asked():
    return make_queries(np.random.default_rng(1), NUM_QUERIES, NUM_CANDIDATES)


def compute(world, asked, timelines=None, histories=None):
    queries, candidates, item_counters, channel_counters = asked
    return ranking_features(
        queries,
        candidates,
        timelines or world.timelines,
        histories or world.histories,
        world.items,
        item_counters,
        channel_counters,
        world.spec,
    )


def column(world, features, name):
    kind = "user_numeric" if name in world.spec.user_numeric else "candidate_numeric"
    return features[kind][..., feature_names(world.spec)[kind].index(name)]


def one_per_row(asked):
    """Return every (query, candidate) as a training row: a query with one candidate."""
    queries, candidates, *counters = asked
    rows = np.repeat(np.arange(NUM_QUERIES), NUM_CANDIDATES)
    flat = dataclasses.replace(
        take(queries, rows),
        retrieval_score=queries.retrieval_score.reshape(-1, 1),
        retrieval_rank=queries.retrieval_rank.reshape(-1, 1),
    )
    return flat, candidates.reshape(-1, 1), *(c.reshape(-1, 1, 5) for c in counters)


def assert_same_bits(first, second):
    assert first.dtype == second.dtype
    np.testing.assert_array_equal(first.view(np.int32), second.view(np.int32))


def test_training_rows_equal_a_batch_of_requests_bit_by_bit(world, asked):
    served, trained = compute(world, asked), compute(world, one_per_row(asked))
    for name, values in trained.items():
        expected = served[name]
        if name.startswith("candidate"):
            expected = expected.reshape(-1, 1, *expected.shape[2:])
        else:
            expected = np.repeat(expected, NUM_CANDIDATES, axis=0)
        assert_same_bits(values, np.ascontiguousarray(expected))


def test_request_with_its_own_user_alone_equals_the_batch(world, asked):
    queries, candidates, *counters = asked
    together = compute(world, asked)
    for row in range(NUM_QUERIES):
        own = slice(row, row + 1)
        alone = (take(queries, own, user=np.zeros(1, np.int64)), candidates[own])
        alone += tuple(counter[own] for counter in counters)
        found = compute(world, alone, *world.user(queries.user[row]))
        for name, values in found.items():
            assert_same_bits(values, together[name][own])


def test_nothing_from_the_moment_on_changes_a_feature(world, asked):
    queries = take(asked[0], slice(0, NUM_QUERIES - 1))
    queries = dataclasses.replace(queries, moment=np.full(NUM_QUERIES - 1, NOON + 20 * SECOND))
    asked = (queries, *(array[: NUM_QUERIES - 1] for array in asked[1:]))
    rng = np.random.default_rng(2)
    future = world.timelines.moment >= NOON + 20 * SECOND
    unknown_yet = world.timelines.outcome_moment >= NOON + 20 * SECOND
    changed = dataclasses.replace(
        world.timelines,
        item=np.where(future, rng.integers(0, NUM_ITEMS, len(future)), world.timelines.item),
        watch_ms=np.where(unknown_yet, 99_999, world.timelines.watch_ms),
        is_watch=world.timelines.is_watch ^ unknown_yet,
    )
    before, after = compute(world, asked), compute(world, asked, changed)
    for name in before:
        if name != "history":
            assert_same_bits(before[name], after[name])


def slow_past(timelines, user, moment, is_of):
    """Count one user's past event by event."""
    found = dict(impressions=0, watches=0, watch_ms=0, outcomes=0, last=None)
    for event in range(timelines.offsets[user], timelines.offsets[user + 1]):
        times = is_of(timelines.item[event])
        if timelines.moment[event] < moment and times:
            found["impressions"] += times * bool(timelines.is_impression[event])
            found["last"] = event
        if timelines.outcome_moment[event] < moment:
            found["watches"] += times * bool(timelines.is_watch[event])
            if timelines.watch_ms[event] >= 0:
                found["outcomes"] += times
                found["watch_ms"] += times * int(timelines.watch_ms[event])
    return found


def groups_of(world, kind, candidate):
    """Return how many groups an item shares with the candidate, as a function of the item."""
    items = world.items
    if kind == "user_item":
        return lambda item: int(item == candidate)
    if kind == "user_channel":
        own = items.channel[candidate]
        return lambda item: int(item >= 0 and own >= 0 and items.channel[item] == own)
    own = [topic for topic in items.topics[candidate] if topic >= 0]
    return lambda item: (
        sum(int((items.topics[item] == topic).sum()) for topic in own) if item >= 0 else 0
    )


@pytest.mark.parametrize("kind", ["user_item", "user_channel", "user_topic"])
def test_affinities_equal_a_count_event_by_event(world, asked, kind):
    features = compute(world, asked)
    queries, candidates = asked[:2]
    for row, place in np.ndindex(candidates.shape):
        user, moment = queries.user[row], queries.moment[row]
        past = slow_past(
            world.timelines, user, moment, groups_of(world, kind, candidates[row, place])
        )
        for name in ("impressions", "watches"):
            assert column(world, features, f"{kind}_{name}")[row, place] == past[name]
        usual = column(world, features, "user_mean_watch_seconds")[row]
        mean = (past["watch_ms"] / 1000 + 10 * usual) / (past["outcomes"] + 10)
        found = column(world, features, f"{kind}_mean_watch_seconds")[row, place]
        assert found == pytest.approx(mean, rel=1e-6)
        since = column(world, features, f"{kind}_seconds_since")[row, place]
        last = past["last"]
        if last is None or not world.timelines.has_time[last] or not queries.has_time[row]:
            assert np.isnan(since)
        else:
            assert since == (moment - world.timelines.moment[last]) / SECOND


def test_user_columns_equal_a_count_event_by_event(world, asked):
    features, queries = compute(world, asked), asked[0]
    for row, (user, moment) in enumerate(zip(queries.user, queries.moment, strict=True)):
        past = slow_past(world.timelines, user, moment, lambda item: 1)
        assert column(world, features, "user_impressions")[row] == past["impressions"]
        assert column(world, features, "user_watches")[row] == past["watches"]
        rate = (past["watches"] + 10 * 0.3) / (past["impressions"] + 10)
        assert column(world, features, "user_watch_rate")[row] == pytest.approx(rate, rel=1e-6)
        mean = (past["watch_ms"] / 1000 + 10 * 6.0) / (past["outcomes"] + 10)
        found = column(world, features, "user_mean_watch_seconds")[row]
        assert found == pytest.approx(mean, rel=1e-6)


def test_time_since_the_last_watch_is_unknown_unless_that_has_a_time(world, asked):
    found = column(world, compute(world, asked), "user_seconds_since_watch")
    timelines, queries = world.timelines, asked[0]
    for row, (user, moment) in enumerate(zip(queries.user, queries.moment, strict=True)):
        own = np.arange(timelines.offsets[user], timelines.offsets[user + 1])
        known = own[timelines.is_watch[own] & (timelines.outcome_moment[own] < moment)]
        newest = max(known, key=lambda event: timelines.outcome_moment[event], default=None)
        if newest is None or not timelines.has_time[newest] or not queries.has_time[row]:
            assert np.isnan(found[row])
        else:
            assert found[row] == (moment - timelines.outcome_moment[newest]) / SECOND


def test_untimed_watches_give_no_time_since(world, asked):
    queries, *rest = asked
    early = dataclasses.replace(queries, moment=np.where(queries.has_time, NOON, 3))
    found = column(world, compute(world, (early, *rest)), "user_seconds_since_watch")
    assert np.isnan(found).all()


def test_item_counters_become_shrunk_rates(world, asked):
    counters = np.zeros((NUM_QUERIES, NUM_CANDIDATES, 5), np.int64)
    counters[:] = [30, 20, 15, 5, 60_000]
    features = compute(world, (*asked[:2], counters, 2 * counters))
    expected = {
        "item_impressions": 30,
        "item_watch_rate": (15 + 3) / 40,
        "item_click_rate": (5 + 4) / 30,
        "item_mean_watch_seconds": (60 + 60) / 30,
        "channel_impressions": 60,
        "channel_mean_watch_seconds": (120 + 60) / 50,
    }
    for name, value in expected.items():
        assert column(world, features, name)[0, 0] == np.float32(value)


def test_hour_and_weekday_are_utc_and_0_where_unknown(world, asked):
    queries, *rest = asked
    moment = np.where(queries.has_time, NOON, 3)
    features = compute(world, (dataclasses.replace(queries, moment=moment), *rest))
    surface, hour, weekday = features["user_categorical"].T
    np.testing.assert_array_equal(surface, queries.codes["surface"])
    assert set(hour[:-1]) == {13} and set(weekday[:-1]) == {4}
    assert (hour[-1], weekday[-1]) == (0, 0)


def test_unknown_duration_age_and_scores_are_missing(world, asked):
    queries, *rest = asked
    nothing = np.full_like(queries.retrieval_score, np.nan)
    queries = dataclasses.replace(queries, retrieval_score=nothing, retrieval_rank=nothing)
    features = compute(world, (queries, *rest))
    unknown = world.items.duration_ms[rest[0]] < 0
    assert unknown.any()
    np.testing.assert_array_equal(np.isnan(column(world, features, "duration_seconds")), unknown)
    age = column(world, features, "item_age_seconds")
    np.testing.assert_array_equal(
        np.isnan(age), (world.items.upload_time[rest[0]] < 0) | ~queries.has_time[:, None]
    )
    assert np.isnan(column(world, features, "retrieval_score")).all()


def test_codes_come_from_the_items(world, asked):
    features, candidates = compute(world, asked), asked[1]
    np.testing.assert_array_equal(features["candidate_item"], world.items.code[candidates])
    for column, name in enumerate(("kind", "shape")):
        found = features["candidate_categorical"][..., column]
        np.testing.assert_array_equal(found, world.items.codes[name][candidates])
    topics, tags = np.moveaxis(features["candidate_bags"], 2, 0)
    np.testing.assert_array_equal(topics, world.items.codes["topics"][candidates])
    np.testing.assert_array_equal(tags[..., :2], world.items.codes["tags"][candidates])
    assert not tags[..., 2:].any()


def test_newest_events_have_the_codes_of_their_items(world, asked):
    features, queries = compute(world, asked), asked[0]
    recent = recent_events(world.timelines, queries.user, queries.moment, queries.has_time, 6)
    known = recent.item >= 0
    assert known.any() and not known.all()
    items = world.items
    codes = {
        "recent_item": items.code,
        "recent_categorical": np.stack([items.codes["kind"], items.codes["shape"]], axis=1),
        "recent_bags": np.stack(
            [items.codes["topics"], np.pad(items.codes["tags"], ((0, 0), (0, 1)))], axis=1
        ),
    }
    for name, of_item in codes.items():
        np.testing.assert_array_equal(features[name][known], of_item[recent.item[known]])
        assert not features[name][~known].any()
    np.testing.assert_array_equal(features["recent_outcome"], outcome_codes(recent))
    np.testing.assert_array_equal(features["recent_age"], age_codes(recent))


def test_decayed_means_lean_on_the_users_own_and_reach_beyond_the_attention(world, asked):
    features, queries = compute(world, asked), asked[0]
    recent = recent_events(world.timelines, queries.user, queries.moment, queries.has_time, 50)
    names = ("watch_rate", "mean_watch_seconds")
    expected = {name: column(world, features, f"user_{name}") for name in names}
    duration_ms = np.where(recent.item >= 0, world.items.duration_ms[recent.item], -1)
    found = decayed_means(recent, duration_ms, expected) | session_columns(recent)
    assert set(found) == {n for n in world.spec.user_numeric if "_last_" in n or "session" in n}
    for name, values in found.items():
        np.testing.assert_array_equal(column(world, features, name), values)


def test_bias_columns_that_are_not_given_are_unknown(world, asked):
    queries, *rest = asked
    np.testing.assert_array_equal(
        compute(world, asked)["bias_categorical"][:, 0], queries.codes["place"]
    )
    without = dataclasses.replace(queries, codes={"surface": queries.codes["surface"]})
    features = compute(world, (without, *rest))
    np.testing.assert_array_equal(features["bias_categorical"], np.zeros((NUM_QUERIES, 1)))


def test_shapes_and_types_are_those_of_the_net(world, asked):
    features = compute(world, asked)
    found = {name: (values.shape[1:], values.dtype) for name, values in features.items()}
    num_user = len(world.spec.user_numeric)
    num_item = len(world.spec.item_numeric)
    assert found == {
        "user_categorical": ((3,), np.int32),
        "user_numeric": ((num_user,), np.float32),
        "history": ((4,), np.int32),
        "bias_categorical": ((1,), np.int32),
        "recent_item": ((6,), np.int32),
        "recent_categorical": ((6, 2), np.int32),
        "recent_bags": ((6, 2, 3), np.int32),
        "recent_outcome": ((6,), np.int32),
        "recent_age": ((6,), np.int32),
        "candidate_item": ((8,), np.int32),
        "candidate_categorical": ((8, 2), np.int32),
        "candidate_bags": ((8, 2, 3), np.int32),
        "candidate_numeric": ((8, num_item), np.float32),
    }
    assert model_inputs(features) == list(features)


def test_columns_that_the_settings_leave_out_are_no_inputs(world, asked):
    bare = dataclasses.replace(
        world.spec, item_categorical={}, item_bags={}, bias_categorical={}, recent_length=0
    )
    features = compute(dataclasses.replace(world, spec=bare), asked)
    assert model_inputs(features) == [
        "user_categorical",
        "user_numeric",
        "history",
        "candidate_item",
        "candidate_numeric",
    ]


def test_spec_survives_its_file(world, tmp_path):
    world.spec.save(tmp_path / "features.json")
    assert FeatureSpec.load(tmp_path / "features.json") == world.spec
