import numpy as np
import pytest

from recsys.recent_watches import RecentWatches, watch_weights

HOUR = 3_600_000_000
NOW = 1_790_000_000_000_000


def test_watch_weighs_half_after_its_half_life():
    weights = watch_weights(
        np.array([1, 1, 2]),
        np.array([NOW - 2 * HOUR, NOW - 4 * HOUR, NOW]),
        num_items=4,
        until=NOW,
        half_life_hours=2,
    )
    np.testing.assert_allclose(weights, [0, 0.5 + 0.25, 1, 0])


def test_events_change_the_order_at_once_and_can_be_taken_back():
    recent = RecentWatches(np.array([2.0, 1.0, 0.0]), NOW, 2)
    assert recent.best()[0].tolist() == [0, 1]
    later = np.array([NOW + 2 * HOUR])  # weighs 2
    recent.add(np.array([2, -1]), np.repeat(later, 2))
    recent.add(np.array([1]), later)
    rows, weights = recent.best()
    assert rows.tolist() == [1, 0, 2]
    np.testing.assert_allclose(weights, [3, 2, 2])
    recent.add(np.array([1]), later, sign=-1)
    recent.add(np.array([2]), later, sign=-1)
    assert recent.best()[0].tolist() == [0, 1]


def test_given_weights_stay_as_they_were():
    weights = np.ones(3)
    RecentWatches(weights, NOW, 1).add(np.array([0]), np.array([NOW]))
    assert weights.tolist() == [1, 1, 1]


def test_years_of_half_lives_do_not_overflow():
    recent = RecentWatches(np.array([5.0, 0, 0]), NOW, 1)
    for days in (30, 300, 3000):
        moment = np.array([NOW + days * 24 * HOUR])
        recent.add(np.array([1]), moment)
        recent.add(np.array([2, 2]), np.repeat(moment, 2))
    rows, weights = recent.best()
    assert rows.tolist() == [2, 1]
    assert np.isfinite(weights).all()
    assert weights[0] / weights[1] == pytest.approx(2)


@pytest.mark.parametrize("num_items", [7, 9000])
def test_best_are_those_of_a_whole_count(num_items):
    rng = np.random.default_rng(1)
    weights = rng.exponential(size=num_items)
    recent = RecentWatches(weights, NOW, 24)
    for _ in range(30):
        rows = rng.integers(0, num_items, 20)
        moments = NOW + rng.integers(0, 200 * HOUR, 20)
        recent.add(rows, moments)
        np.add.at(weights, rows, 2.0 ** ((moments - NOW) / (24 * HOUR)))
    best = np.argsort(-weights, kind="stable")[:1000]
    rows, found = recent.best()
    np.testing.assert_array_equal(rows[:1000], best)
    np.testing.assert_allclose(found[:1000], weights[best])
