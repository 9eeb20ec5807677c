"""What items are expected to get, in worlds where what they will get is known."""

from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError

from recsys.candidates.crowd import Crowd
from recsys.candidates.forecast import SHARE_UNIT, SMALLEST_SHARE, WatchForecast
from recsys.candidates.popularity import MICROSECONDS_PER_MINUTE as MINUTE
from recsys.candidates.sequences import join_labels, join_sequences
from recsys.candidates.vectors import served_inputs
from recsys.data.examples import VALIDATION
from recsys.data.timelines import WatchHistories
from tests.candidates.small_log import NUM_ITEMS, random_shard, settings_of

HOUR = 60 * MINUTE
START = 20_000 * 24 * HOUR
LIFE_MINUTES = 90
EVERY_MINUTES = 3
LAST = -1
"""Column of the last part of the horizon."""


def short_lives(num_items, *, seed=0):
    """Return watches of items that begin one after another, live 90 minutes, and end.

    Each is watched at a steady rate of its own, 1 to 8 times a minute.
    """
    rng = np.random.default_rng(seed)
    items, moments = [], []
    for item in range(num_items):
        count = LIFE_MINUTES * int(rng.integers(1, 9))
        minutes = EVERY_MINUTES * item + rng.random(count) * LIFE_MINUTES
        items.append(np.full(count, item, np.int32))
        moments.append(START + (minutes * MINUTE).astype(np.int64))
    return np.concatenate(items), np.concatenate(moments)


def forecast_of(items, moments, num_items, until):
    return WatchForecast(
        items, moments, num_items=num_items, horizon_minutes=60, learned_until=until
    )


def test_what_will_end_is_forecast_less_than_what_has_begun():
    items, moments = short_lives(400)
    now = START + 360 * EVERY_MINUTES * MINUTE
    forecast = forecast_of(items[moments < now], moments[moments < now], 400, now)
    found = forecast.columns(now)[:, LAST]
    inside = (moments >= now + HOUR / 3) & (moments < now + HOUR)
    coming = np.bincount(items[inside], minlength=400)
    past = np.bincount(items[(moments < now) & (moments >= now - HOUR / 3)], minlength=400)
    known = np.flatnonzero(past)
    assert np.corrcoef(found[known], np.log1p(coming[known]))[0, 1] > 0.9
    assert np.corrcoef(np.log1p(past[known]), np.log1p(coming[known]))[0, 1] < 0.5
    ended = np.arange(300)
    assert (found[ended] < np.quantile(found[known], 0.2)).all()


def test_each_part_of_the_horizon_has_its_own_forecast():
    items, moments = short_lives(400)
    now = START + 360 * EVERY_MINUTES * MINUTE
    columns = forecast_of(items[moments < now], moments[moments < now], 400, now).columns(now)
    ends_soon = 360 - LIFE_MINUTES // EVERY_MINUTES + 2 + np.arange(3)  # in 6 to 12 minutes
    goes_on = 350 + np.arange(9)
    assert (columns[ends_soon, LAST] < columns[goes_on, LAST].min() - 1).all()
    falls = columns[:, LAST] - columns[:, 0]
    assert falls[ends_soon].max() < falls[goes_on].min()


def test_forecasts_are_shares_of_all_watches():
    items, moments = short_lives(400)
    now = START + 360 * EVERY_MINUTES * MINUTE
    inside = moments < now
    shares = np.exp(forecast_of(items[inside], moments[inside], 400, now).columns(now))
    bounds = now + np.array([0, HOUR / 12, HOUR / 3, HOUR])
    for part in range(3):
        coming = (moments >= bounds[part]) & (moments < bounds[part + 1])
        of_known = np.mean(np.isin(items[coming], items[inside]))
        assert shares[:, part].sum() == pytest.approx(SHARE_UNIT * of_known, rel=0.2)


def test_watches_after_the_moment_and_the_order_of_the_log_change_nothing():
    items, moments = short_lives(150)
    now = START + 120 * EVERY_MINUTES * MINUTE
    inside = np.flatnonzero(moments < now)
    known = forecast_of(items[inside], moments[inside], 150, now).columns(now)
    shuffled = np.random.default_rng(1).permutation(len(items))
    whole = forecast_of(items[shuffled], moments[shuffled], 150, now).columns(now)
    np.testing.assert_array_equal(known, whole)


def test_ages_are_since_parts_of_the_watches():
    minutes = [0, 30, *range(41, 49), 50, 90]  # a stray one first, one after the moment
    items = np.array([0] * 12 + [1], np.int32)
    moments = START + np.array([*minutes, 20]) * MINUTE
    forecast = forecast_of(items, moments, 2, START + HOUR)
    found = forecast.ages(START + HOUR, np.array([0, 1]))
    np.testing.assert_allclose(found * 60, [[60, 30, 60 - 44], [40, 40, 40]])


def test_successors_beside_a_forecast_are_those_of_its_beginning():
    histories = WatchHistories(
        np.array([0, 2]), np.array([1, 2], np.int32), START + np.array([5, 10]) * MINUTE
    )
    settings = settings_of(
        popularity_minutes=(60,),
        successor_windows=(2,),
        refresh_minutes=1,
        loss="sampled_softmax",
    )
    crowd = Crowd.forecast(histories, 2, settings, 60, learned_until=START + HOUR)
    asked = START + np.array([30, 90]) * MINUTE
    assert crowd.successors.newest(np.array([1, 1]), asked, 1).tolist() == [[0], [2]]


def test_forecasts_of_held_out_labels_are_of_the_last_horizon():
    settings = settings_of(popularity_minutes=(60,), forecast_minutes=60, loss="sampled_softmax")
    parts = [random_shard()]
    labels = join_labels(parts, settings, split=VALIDATION, num_trained=NUM_ITEMS)
    minutes = np.resize([0, 59, 60, 150], len(labels))
    labels = replace(labels, moment=START + minutes * MINUTE)
    found = served_inputs(join_sequences(parts), labels, settings)["minutes_since_forecast"]
    assert found.tolist() == np.resize([0, 59, 0, 30], len(labels)).tolist()


def test_a_short_log_is_expected_to_go_on():
    items = np.array([0, 0, 0, 1, 7, -1], np.int32)
    forecast = forecast_of(items, START + np.arange(6) * MINUTE, 3, START + HOUR)
    expected = [3 / 4 * SHARE_UNIT, 1 / 4 * SHARE_UNIT, SMALLEST_SHARE]
    for column in forecast.columns(START + HOUR).T:
        np.testing.assert_allclose(column, np.log(expected), rtol=1e-5)


def test_an_empty_log_expects_nothing():
    nothing = np.zeros(0, np.int32)
    columns = forecast_of(nothing, np.zeros(0, np.int64), 2, START).columns(START)
    np.testing.assert_allclose(columns, np.log(SMALLEST_SHARE))


def test_forecasts_change_with_the_horizon():
    forecast = forecast_of(np.zeros(1, np.int32), np.array([START]), 1, START)
    moments = START + np.array([0, HOUR - 1, HOUR])
    assert forecast.refreshes(moments).tolist() == [START, START, START + HOUR]


@pytest.mark.parametrize("changes", [{}, {"popularity_minutes": (60,), "popularity_shift": (0.5,)}])
def test_a_forecast_needs_counts_for_the_training_and_takes_no_shift(changes):
    with pytest.raises(ValidationError, match="forecast_minutes"):
        settings_of(forecast_minutes=60, loss="sampled_softmax", **changes)
