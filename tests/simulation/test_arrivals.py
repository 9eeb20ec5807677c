import numpy as np
import pytest

from recsys.data.sources.world import DAY_US, make_world
from recsys.simulation.arrivals import Span, draw_arrivals


@pytest.fixture(scope="module")
def world():
    return make_world(num_users=400, num_items=60, num_days=12, num_countries=6, seed=5)


def drawn(world, seed=0):
    span = Span(world.start_us + 8 * DAY_US, 5)
    return draw_arrivals(world, np.arange(400), span, sessions_per_day=0.5, seed=seed)


def test_days_are_numbered_within_the_span():
    span = Span(1000, 2)
    times = np.array([999, 1000, 1000 + DAY_US - 1, 1000 + DAY_US, 1000 + 2 * DAY_US])
    assert span.day_of(times).tolist() == [-1, 0, 0, 1, -1]
    assert span.end_us == 1000 + 2 * DAY_US


def test_users_come_as_often_as_told(world):
    arrivals = drawn(world)
    first = arrivals.request == 0
    # Poisson around the users' own activity: about 400 x 5 days x 0.5.
    expected = 2.5 * world.activity.sum()
    assert abs(first.sum() - expected) < 4 * np.sqrt(expected)
    assert abs(len(first) / first.sum() - 2) < 0.3
    assert (np.diff(arrivals.time_us) >= 0).all()


def test_turns_of_a_day_have_each_user_once_in_the_order_of_time(world):
    arrivals = drawn(world)
    turns = list(arrivals.turns(2))
    assert len(turns) > 2
    assert all(len(np.unique(arrivals.user[rows])) == len(rows) for rows in turns)
    together = np.concatenate(turns)
    of_day = arrivals.span.day_of(arrivals.time_us) == 2
    assert sorted(together.tolist()) == np.flatnonzero(of_day).tolist()
    for earlier, later in zip(turns, turns[1:], strict=False):
        before = dict(zip(arrivals.user[earlier], arrivals.time_us[earlier], strict=True))
        assert all(
            before[user] <= moment
            for user, moment in zip(arrivals.user[later], arrivals.time_us[later], strict=True)
        )


def test_finds_come_with_the_first_page_of_their_session(world):
    arrivals = drawn(world)
    with_find = np.flatnonzero(arrivals.find >= 0)
    assert len(with_find) > 10
    assert (arrivals.request[with_find] == 0).all()
    finds = arrivals.finds.take(arrivals.find[with_find])
    np.testing.assert_array_equal(finds.session, arrivals.session[with_find])
    assert (finds.found_us < arrivals.time_us[with_find]).all()


def test_seed_says_who_comes(world):
    first, again, other = drawn(world, 0), drawn(world, 0), drawn(world, 1)
    np.testing.assert_array_equal(first.time_us, again.time_us)
    np.testing.assert_array_equal(first.finds.item, again.finds.item)
    assert len(first.time_us) != len(other.time_us)
