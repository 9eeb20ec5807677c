import dataclasses

import numpy as np
import pytest

from recsys.data.timelines import Timelines
from recsys.ranking.recent import (
    NUM_AGE_CODES,
    NUM_OUTCOME_CODES,
    Recent,
    age_codes,
    decayed_means,
    outcome_codes,
    recent_events,
    session_columns,
)
from tests.ranking.small_world import NOON, NUM_USERS, SECOND, make_queries, make_world

NAN = float("nan")
NUM_QUERIES = 40


@pytest.fixture(scope="module")
def timelines():
    return make_world().timelines


@pytest.fixture(scope="module")
def queries():
    return make_queries(np.random.default_rng(1), NUM_QUERIES, 1)[0]


def make_timelines(*events, num_users=1):
    """Return the events (second, outcome second, watched ms, is a watch) of user 0."""
    count = len(events)
    table = np.array(events, np.int64).reshape(count, 4)
    return Timelines(
        offsets=np.array([0, *[count] * num_users]),
        item=np.arange(count, dtype=np.int32) + 10,
        moment=table[:, 0] * SECOND,
        outcome_moment=table[:, 1] * SECOND,
        has_time=np.ones(count, bool),
        watch_ms=table[:, 2],
        clicked=np.full(count, -1, np.int8),
        is_impression=np.ones(count, bool),
        is_watch=table[:, 3].astype(bool),
    )


def make_recent(**columns):
    """Return the recent events of one user; what is not given is unknown."""
    length = len(next(iter(columns.values())))
    defaults = {
        "is_event": np.ones(length, bool),
        "item": np.zeros(length, np.int64),
        "seconds_since": np.full(length, NAN),
        "is_known": np.ones(length, bool),
        "watch_seconds": np.full(length, NAN),
        "is_watch": np.zeros(length, bool),
    }
    return Recent(**{name: np.array([value]) for name, value in (defaults | columns).items()})


def seen_at(timelines, second, length=4, *, user=0):
    moment = np.array([second * SECOND])
    return recent_events(timelines, np.array([user]), moment, np.ones(1, bool), length)


def slow_events(timelines, user, moment, has_time, length):
    """List what each of the newest events shows, walking back through the user's own."""
    found = []
    for event in range(timelines.offsets[user + 1] - 1, timelines.offsets[user] - 1, -1):
        if timelines.moment[event] >= moment or len(found) == length:
            continue
        known, watch_ms = timelines.outcome_moment[event] < moment, timelines.watch_ms[event]
        is_timed = timelines.has_time[event] and has_time
        found.append(
            (
                True,
                timelines.item[event],
                (moment - timelines.moment[event]) / SECOND if is_timed else NAN,
                known,
                watch_ms / 1000 if known and watch_ms >= 0 else NAN,
                known and timelines.is_watch[event],
            )
        )
    return found + [(False, -1, NAN, False, NAN, False)] * (length - len(found))


@pytest.mark.parametrize("length", [1, 4, 60])
def test_events_equal_a_walk_back_through_the_log(timelines, queries, length):
    found = recent_events(timelines, queries.user, queries.moment, queries.has_time, length)
    moments = zip(queries.user, queries.moment, queries.has_time, strict=True)
    expected = [slow_events(timelines, *moment, length) for moment in moments]
    for place, values in enumerate(vars(found).values()):
        assert values.shape == (NUM_QUERIES, length)
        slow = [[event[place] for event in events] for events in expected]
        np.testing.assert_array_equal(values, np.array(slow))


def test_newest_event_is_first_and_padding_last():
    timelines = make_timelines((1, 2, 500, 0), (3, 4, 1500, 1))
    found = seen_at(timelines, 10)
    assert found.item.tolist() == [[11, 10, -1, -1]]
    assert found.is_event.tolist() == [[True, True, False, False]]
    np.testing.assert_array_equal(found.seconds_since, [[7, 9, NAN, NAN]])
    np.testing.assert_array_equal(found.watch_seconds, [[1.5, 0.5, NAN, NAN]])
    assert found.is_watch.tolist() == [[True, False, False, False]]


def test_events_at_the_moment_itself_are_unseen():
    timelines = make_timelines((3, 4, 500, 0), (5, 6, 500, 0), (5, 7, 500, 0))
    assert seen_at(timelines, 5).item.tolist() == [[10, -1, -1, -1]]
    assert seen_at(timelines, 6).item.tolist() == [[12, 11, 10, -1]]
    assert seen_at(timelines, 3).item.tolist() == [[-1, -1, -1, -1]]


def test_outcome_is_unknown_until_strictly_after_it():
    timelines = make_timelines((1, 5, 4000, 1))
    for second, known in ((4, False), (5, False), (6, True)):
        found = seen_at(timelines, second, 1)
        assert found.is_event.item()
        assert found.is_known.item() == found.is_watch.item() == known
        np.testing.assert_equal(found.watch_seconds.item(), 4.0 if known else NAN)


def test_event_of_unknown_watch_time_is_known_all_the_same():
    found = seen_at(make_timelines((1, 1, -1, 1)), 5, 1)
    assert found.is_known.item() and found.is_watch.item()
    assert np.isnan(found.watch_seconds.item())


def test_untimed_moments_and_events_have_no_age():
    timelines = make_timelines((1, 1, 0, 0), (2, 2, 0, 0))
    timelines = dataclasses.replace(timelines, has_time=np.array([False, True]))
    np.testing.assert_array_equal(seen_at(timelines, 9, 2).seconds_since, [[7, NAN]])
    asked = (np.zeros(1, int), np.array([9 * SECOND]))
    untimed = recent_events(timelines, *asked, np.zeros(1, bool), 2)
    assert untimed.is_event.all() and np.isnan(untimed.seconds_since).all()


@pytest.mark.parametrize("events", [[], [(1, 2, 500, 1), (3, 4, 500, 1)]])
def test_user_without_events_has_padding_alone(events):
    found = seen_at(make_timelines(*events, num_users=3), 9, 3, user=2)
    assert not (found.is_event | found.is_known | found.is_watch).any()
    assert (found.item == -1).all()
    assert np.isnan(found.seconds_since).all() and np.isnan(found.watch_seconds).all()


def test_log_without_users_answers_nobody():
    timelines = make_timelines(num_users=0)
    none = np.zeros(0, np.int64)
    found = recent_events(timelines, none, none, none.astype(bool), 3)
    assert found.item.shape == (0, 3)


def test_newest_are_the_first_columns(timelines, queries):
    asked = (queries.user, queries.moment, queries.has_time)
    short, long = (recent_events(timelines, *asked, length) for length in (3, 20))
    for name, values in vars(long.newest(3)).items():
        np.testing.assert_array_equal(values, getattr(short, name))


def test_outcomes_are_told_apart_by_watch_time_and_watch():
    seconds = [0.0, 0.99, 1.0, 3.0, 17.9, 18.0, 89.9, 90.0, 1e6, NAN]
    passed = outcome_codes(make_recent(watch_seconds=seconds))[0].tolist()
    watched = outcome_codes(make_recent(watch_seconds=seconds, is_watch=[True] * 10))[0].tolist()
    # Seven lengths of watching, from 4 on, two codes each; an unknown one is 2.
    assert passed == [4, 4, 6, 8, 10, 12, 14, 16, 16, 2]
    assert watched == [code + 1 for code in passed]
    assert max(watched) == NUM_OUTCOME_CODES - 1


def test_outcomes_of_pending_events_and_padding():
    pending = make_recent(is_event=[True, False], is_known=[False, False])
    assert outcome_codes(pending).tolist() == [[1, 0]]
    assert outcome_codes(pending).dtype == np.int32


def test_ages_are_told_apart_at_a_minute_an_hour_a_day():
    minute, day = 60.0, 86_400.0
    seconds = [1e-6, minute - 1, minute, 5 * minute, 30 * minute, day / 6, day - 1, day, 3 * day]
    seconds += [1e9, NAN, NAN]
    recent = make_recent(seconds_since=seconds, is_event=[True] * 11 + [False])
    assert age_codes(recent)[0].tolist() == [2, 2, 3, 4, 5, 6, 6, 7, 8, 8, 1, 0]
    assert age_codes(recent).dtype == np.int32
    assert age_codes(recent).max() == NUM_AGE_CODES - 1


def means_of(recent, duration_ms=None, *, watch_rate=0.5, mean_watch_seconds=0.0):
    shape = recent.is_event.shape
    expected = {"watch_rate": watch_rate, "mean_watch_seconds": mean_watch_seconds}
    return decayed_means(
        recent,
        np.full(shape, -1) if duration_ms is None else np.array([duration_ms]),
        {name: np.full(shape[0], value, np.float32) for name, value in expected.items()},
    )


def test_weight_of_an_event_halves_with_every_half_life():
    recent = make_recent(is_watch=[True] + [False] * 2 + [True] + [False] * 6 + [True])
    found = means_of(recent)
    # Each event weighs r^t, r = 2^(-1/3) or 2^(-1/10), and the expected rate 1/2 weighs 1.
    for half_life in (3, 10):
        ratio = 0.5 ** (1 / half_life)
        total = 1 + ratio**3 + ratio**10 + 0.5
        count = (1 - ratio**11) / (1 - ratio) + 1
        rate = found[f"user_watch_rate_last_{half_life}"]
        assert rate.dtype == np.float32
        np.testing.assert_allclose(rate, total / count, rtol=1e-6)


def test_three_events_back_weigh_half():
    recent = make_recent(is_watch=[True, True, True, True], is_known=[False, False, False, True])
    found = means_of(recent, watch_rate=0.25)
    # One known watch of weight 1/2, beside 1/4 of weight 1.
    np.testing.assert_allclose(found["user_watch_rate_last_3"], (0.5 + 0.25) / 1.5, rtol=1e-6)


def test_watch_time_is_averaged_as_a_logarithm_towards_the_users_own():
    recent = make_recent(watch_seconds=[np.expm1(2.0), NAN, NAN, np.expm1(4.0)])
    found = means_of(recent, mean_watch_seconds=np.expm1(5.0))
    np.testing.assert_allclose(found["user_log_seconds_last_3"], (2 + 4 / 2 + 5) / 2.5, rtol=1e-6)


def test_watched_share_is_of_the_duration_and_at_most_2():
    recent = make_recent(watch_seconds=[3.0, 5.0, 7.0, 90.0])
    found = means_of(recent, [4000, -1, 0, 10_000])
    # 3 of 4 s; two unknown durations; nine times over counts as twice, with half the weight.
    np.testing.assert_allclose(found["user_watched_share_last_3"], (0.75 + 2 / 2) / 1.5, rtol=1e-6)


def test_watched_for_less_than_three_seconds_is_skipped():
    recent = make_recent(watch_seconds=[2.99, 3.0, NAN, 0.0])
    weight = 0.5 ** (np.array([0, 1, 3]) / 3)
    found = means_of(recent)["user_skip_rate_last_3"]
    np.testing.assert_allclose(found, (weight[0] + weight[2]) / weight.sum(), rtol=1e-6)


def test_without_known_events_only_what_was_expected_is_left():
    recent = make_recent(is_event=[True, False], is_known=[False, False])
    found = means_of(recent, watch_rate=0.25, mean_watch_seconds=np.expm1(3.0))
    for half_life in (3, 10):
        assert found[f"user_watch_rate_last_{half_life}"] == np.float32(0.25)
        np.testing.assert_allclose(found[f"user_log_seconds_last_{half_life}"], 3, rtol=1e-6)
        assert np.isnan(found[f"user_watched_share_last_{half_life}"])
        assert np.isnan(found[f"user_skip_rate_last_{half_life}"])


HALF_HOUR = 1800.0


@pytest.mark.parametrize(
    ("seconds_since", "events", "since_first"),
    [
        ([10.0, 20.0, 500.0], 3, 500),
        ([HALF_HOUR - 1, 2 * HALF_HOUR - 2], 2, 3598),
        ([HALF_HOUR, HALF_HOUR + 1], 0, 0),
        ([10.0, 10.0 + HALF_HOUR, 11.0 + HALF_HOUR], 1, 10),
        ([10.0, 20.0, 30.0 + HALF_HOUR], 2, 20),
        ([5.0, NAN, 6.0], 1, 5),
        ([NAN, 5.0, 6.0], 0, 0),
        ([NAN, NAN, NAN], 0, 0),
    ],
)
def test_session_lasts_until_a_gap_of_half_an_hour(seconds_since, events, since_first):
    found = session_columns(make_recent(seconds_since=seconds_since))
    assert {name: values.tolist() for name, values in found.items()} == {
        "session_events": [events],
        "session_seconds": [since_first],
    }
    assert {values.dtype for values in found.values()} == {np.dtype(np.float32)}


def every_column(timelines, users, moments, has_time):
    recent = recent_events(timelines, users, moments, has_time, 50)
    expected = {
        "watch_rate": (users % 7 / 7).astype(np.float32),
        "mean_watch_seconds": (users * 1.7).astype(np.float32),
    }
    return {
        "outcome": outcome_codes(recent),
        "age": age_codes(recent),
        **decayed_means(recent, 1000 * (recent.item + 1), expected),
        **session_columns(recent),
    }


def test_row_has_the_same_bits_alone_as_in_a_batch(timelines):
    rng = np.random.default_rng(4)
    users, seconds = rng.integers(0, NUM_USERS, 300), rng.integers(0, 45, 300)
    moments, has_time = NOON + seconds * SECOND, np.ones(300, bool)
    together = every_column(timelines, users, moments, has_time)
    for row in range(0, 300, 7):
        own = slice(row, row + 1)
        alone = every_column(timelines, users[own], moments[own], has_time[own])
        for name, values in alone.items():
            assert values.tobytes() == together[name][own].tobytes()
