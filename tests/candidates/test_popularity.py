"""Counts of the last hours, as of the last refresh."""

import numpy as np
import pytest

from recsys.candidates.popularity import MICROSECONDS_PER_MINUTE, RecentPopularity

MINUTE = MICROSECONDS_PER_MINUTE
HOUR = 60 * MINUTE


def slow_counts(items, moments, num_items, moment, minutes, refresh_minutes):
    """Count by the definition: watches in [refresh - minutes, refresh)."""
    refresh = moment // (refresh_minutes * MINUTE) * refresh_minutes * MINUTE
    inside = (moments < refresh) & (moments >= refresh - minutes * MINUTE)
    return np.bincount(items[inside], minlength=num_items)


@pytest.mark.parametrize("refresh_minutes", [20, 60, 1440])
def test_counts_equal_the_definition(refresh_minutes):
    rng = np.random.default_rng(0)
    moments = 20_000 * 24 * HOUR + rng.integers(0, 90 * HOUR, 500)
    items = rng.integers(0, 6, 500).astype(np.int32)
    popularity = RecentPopularity(
        items, moments, num_items=6, minutes=(60, 1440), refresh_minutes=refresh_minutes
    )
    for moment in rng.choice(moments, 30):
        found = popularity.columns(popularity.refreshes(moment).item())
        for window, minutes in enumerate((60, 1440)):
            expected = slow_counts(items, moments, 6, moment, minutes, refresh_minutes)
            np.testing.assert_allclose(found[:, window], np.log1p(expected), rtol=1e-6)
            np.testing.assert_array_equal(found[:, 2 + window], expected > 0)


def test_a_watch_is_not_counted_at_its_own_moment():
    popularity = RecentPopularity(
        np.zeros(1, np.int32), np.array([5 * HOUR]), num_items=1, minutes=(60,), refresh_minutes=60
    )
    assert popularity.columns(5 * HOUR).tolist() == [[0, 0]]
    assert popularity.columns(6 * HOUR)[0] == pytest.approx([np.log(2), 1])


def test_untrained_items_are_left_out():
    items = np.array([0, -1, 3], np.int32)
    popularity = RecentPopularity(
        items, np.full(3, HOUR), num_items=2, minutes=(60,), refresh_minutes=60
    )
    np.testing.assert_allclose(popularity.columns(2 * HOUR)[:, 0], np.log1p([1, 0]))
