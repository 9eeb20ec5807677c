"""A site lived through by arms whose worth is known: against the truth's formulas, by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest

from recsys.data.sources.world import DAY_US, PAGE_SIZE, make_world
from recsys.requests import RankedItem, Recommendation
from recsys.simulation.arrivals import Span, draw_arrivals
from recsys.simulation.ledger import Ledger
from recsys.simulation.site import Site
from recsys.state import UserState

NUM_USERS, NUM_DAYS = 40, 3


@pytest.fixture(scope="module")
def world():
    return make_world(num_users=50, num_items=60, num_days=12, num_countries=6, seed=5)


@pytest.fixture(scope="module")
def arrivals(world):
    span = Span(world.start_us + 8 * DAY_US, NUM_DAYS)
    return draw_arrivals(world, np.arange(NUM_USERS), span, sessions_per_day=0.8, seed=2)


class Listed:
    """Shows everybody items in an order that may depend on the request, and takes notes."""

    def __init__(self, order):
        self.order, self.requests, self.counted = order, [], []

    def recommend(self, requests):
        self.requests += requests
        return [
            Recommendation(
                tuple(RankedItem(f"i{i}", None, "test") for i in self.order(r)[: r.num_items])
            )
            for r in requests
        ]

    def count_events(self, events):
        self.counted.append(events)


def value(world, user, item, position, time_us):
    """Return the truth's expected seconds, from the equations in the docstring of the world."""
    share = (time_us - world.start_us) / (world.end_us - world.start_us)
    liked = (1 - share) * world.first_interests[user] + share * world.last_interests[user]
    affinity = float(liked @ world.item_vectors[item] / np.linalg.norm(liked))
    logit = -1.2 + 4 * affinity + 0.5 * world.item_quality[item] - 0.15 * position
    minutes = world.item_duration_ms[item] / 60_000
    return 20 * minutes**0.6 * math.exp(affinity) / (1 + math.exp(-logit))


def best_first(world):
    """Return the order of an arm that knows the truth."""

    def order(request):
        user = int(request.user.user_id[1:])
        there = np.flatnonzero(world.item_upload_us <= request.now)
        return sorted(there.tolist(), key=lambda item: -value(world, user, item, 0, request.now))

    return order


def popular_first(world):
    early = np.flatnonzero(world.item_upload_us <= world.start_us)
    return lambda request: early[np.argsort(-world.item_quality[early])].tolist()


def states():
    return {user: UserState(f"u{user}") for user in range(NUM_USERS)}


def lived(world, arrivals, order, *, num_days=NUM_DAYS, seed=3, **options):
    site, arm = Site(world, arrivals, states(), seed=seed, **options), Listed(order)
    ledger = Ledger(arrivals, NUM_USERS, world.num_items)
    days = []
    for number in range(num_days):
        days.append(site.live(number, arm))
        ledger.note(number, days[-1])
    return site, arm, ledger, days


def slowly_expected(world, arrivals, order):
    """Return expected seconds by user and day, a page at a time: the slow twin of the site."""
    seconds = np.zeros((NUM_USERS, NUM_DAYS))
    for row in range(len(arrivals.time_us)):
        user, time_us = int(arrivals.user[row]), int(arrivals.time_us[row])
        day = (time_us - arrivals.span.start_us) // DAY_US
        page = order(Asked(UserState(f"u{user}"), time_us))[:PAGE_SIZE]
        for place, item in enumerate(page):
            shown_us = time_us + 2_000_000 * place
            seconds[user, day] += value(world, user, item, place, shown_us)
    return seconds


class Asked:
    def __init__(self, user, now):
        self.user, self.now = user, now


@pytest.fixture(scope="module")
def oracle(world, arrivals):
    return lived(world, arrivals, best_first(world))


@pytest.fixture(scope="module")
def popular(world, arrivals):
    return lived(world, arrivals, popular_first(world))


def test_truth_of_both_arms_is_that_of_their_pages_one_by_one(world, arrivals, oracle, popular):
    for (_, _, ledger, _), order in ((oracle, best_first), (popular, popular_first)):
        expected = slowly_expected(world, arrivals, order(world))
        np.testing.assert_allclose(ledger.expected_seconds, expected, rtol=1e-4)


def test_oracle_beats_popularity_by_what_the_truth_says(oracle, popular):
    truth = oracle[2].expected_seconds.sum() - popular[2].expected_seconds.sum()
    gains = (oracle[2].watched_seconds - popular[2].watched_seconds).sum(axis=1)
    assert truth > 0.2 * popular[2].expected_seconds.sum()
    error = gains.std() * math.sqrt(NUM_USERS)
    assert abs(gains.sum() - truth) < 3 * error


def test_same_arm_lives_through_the_same_twice(world, arrivals, oracle):
    again = lived(world, arrivals, best_first(world))
    for first, second in zip(oracle[3], again[3], strict=True):
        np.testing.assert_array_equal(first.pages.items, second.pages.items)
        np.testing.assert_array_equal(first.pages.watch_ms, second.pages.watch_ms)
    other = lived(world, arrivals, best_first(world), seed=4)
    assert (other[2].watched_seconds != again[2].watched_seconds).any()


def test_arms_live_under_the_same_chance(oracle, popular):
    """Where both show the same item at the same place, the same comes of it."""
    first, second = oracle[3][0].pages, popular[3][0].pages
    same = first.items == second.items
    assert same.sum() > 5
    np.testing.assert_array_equal(first.watch_ms[same], second.watch_ms[same])


def test_history_grows_by_pages_and_finds(arrivals, popular):
    site, arm, _, days = popular
    shown = sum((day.pages.items >= 0).sum() for day in days)
    found = sum((arrivals.find[day.rows] >= 0).sum() for day in days)
    assert found > 0
    events = [site.state(user).events for user in range(NUM_USERS)]
    assert sum(len(each) for each in events) == shown + found
    assert sum((~each.is_impression).sum() for each in events) == found
    assert all((np.diff(each.moment) >= 0).all() for each in events)
    assert sum(len(each) for each in arm.counted) == shown + found


def test_request_knows_all_before_it_and_nothing_else(popular):
    _, arm, _, _ = popular
    later = [request for request in arm.requests if len(request.user.events)]
    assert len(later) > 20
    assert all(request.user.events.moment[0] < request.now for request in later)
    by_user = {}
    for request in arm.requests:
        known = by_user.setdefault(request.user.user_id, 0)
        assert len(request.user.events) >= known
        by_user[request.user.user_id] = known + PAGE_SIZE


def test_outcome_is_known_when_the_watch_is_over(popular):
    for user in range(NUM_USERS):
        events = popular[0].state(user).events
        np.testing.assert_array_equal(events.outcome_moment - events.moment, 1000 * events.watch_ms)


def test_every_turn_of_every_day_has_a_chance_of_its_own(world, arrivals, monkeypatch):
    used = []

    def noted(seed, *names):
        used.append((seed, *names))
        return np.random.default_rng(0)

    monkeypatch.setattr("recsys.simulation.site.stream", noted)
    lived(world, arrivals, popular_first(world))
    turns = sum(len(list(arrivals.turns(day))) for day in range(NUM_DAYS))
    assert len(used) == len(set(used)) == turns > NUM_DAYS


def test_searches_come_before_the_page(popular):
    _, arm, _, _ = popular
    searched = [request for request in arm.requests if request.user.searches]
    assert searched
    assert all(moment < request.now for request in searched for _, moment in request.user.searches)
    assert searched[0].user.searches[0][0].startswith("topic")


def test_counters_learn_of_a_day_when_it_is_over(world, arrivals):
    site, arm = Site(world, arrivals, states(), seed=3), Listed(popular_first(world))
    answer = arm.recommend
    counted_when_asked = []
    arm.recommend = lambda requests: counted_when_asked.append(len(arm.counted)) or answer(requests)
    site.live(0, arm)
    assert set(counted_when_asked) == {0}
    assert len(arm.counted) == 2


def test_what_is_not_uploaded_leaves_its_place_empty(world, arrivals):
    late = int(world.item_upload_us.argmax())
    assert world.item_upload_us[late] > arrivals.time_us.min()
    _, _, ledger, days = lived(
        world, arrivals, lambda request: [late, *range(PAGE_SIZE)], num_days=1
    )
    day = days[0]
    too_early = arrivals.time_us[day.rows] < world.item_upload_us[late]
    assert (day.pages.items[too_early, 0] == -1).all()
    assert (day.expected_ms[too_early, 0] == 0).all()
    assert (day.pages.watch_ms[too_early, 0] == 0).all()
    assert (day.pages.items[:, 1] == 0).all()
    assert ledger.num_pages[0] == len(day.rows)


def test_short_answers_leave_the_rest_of_the_page_empty(world, arrivals):
    _, _, _, days = lived(world, arrivals, lambda request: [1, 2], num_days=1)
    assert (days[0].pages.items[:, 2:] == -1).all()
    assert (days[0].pages.clicked[:, 2:] == 0).all()
    np.testing.assert_array_equal(days[0].expected_ms[:, 2:], 0)


def test_label_is_that_of_the_rule_of_watches(world, arrivals):
    site, _, _, days = lived(world, arrivals, popular_first(world), num_days=1, label="liked")
    labels = np.concatenate([site.state(user).events.watch_label for user in range(NUM_USERS)])
    found = arrivals.finds.take(arrivals.find[days[0].rows[arrivals.find[days[0].rows] >= 0]])
    assert labels.sum() == days[0].pages.liked.sum() + found.liked.sum()
    plain = lived(world, arrivals, popular_first(world), num_days=1)[0]
    assert (plain.state(0).events.watch_label == -1).all()


def test_other_answers_to_the_same_pages_are_worth_what_the_truth_says(
    world, arrivals, oracle, popular
):
    day = popular[3][1]
    answers = Listed(best_first(world)).recommend(day.requests)
    found = popular[0].expected_ms(day.rows, answers)
    same_day = oracle[3][1]
    np.testing.assert_allclose(found, same_day.expected_ms, rtol=1e-6)


def test_day_without_visitors_is_empty(world, arrivals):
    nobody = replace(arrivals, **{name: getattr(arrivals, name)[:0] for name in ROWS})
    site, arm = Site(world, nobody, states(), seed=3), Listed(popular_first(world))
    day = site.live(0, arm)
    assert day.pages.items.shape == (0, PAGE_SIZE)
    assert arm.requests == []


ROWS = ("session", "request", "surface", "time_us", "find")
