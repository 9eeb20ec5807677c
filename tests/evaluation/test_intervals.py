from dataclasses import astuple

import numpy as np
import pytest

from recsys.evaluation import intervals
from recsys.evaluation.intervals import (
    mean_intervals,
    paired_difference,
    ratio_difference_intervals,
    ratio_intervals,
    ratio_standard_error,
    statistic_interval,
)


def test_interval_of_independent_rows_has_the_textbook_width():
    values = np.random.default_rng(0).normal(size=2000)
    found = mean_intervals({"x": values}, np.arange(2000), rounds=2000, seed=1)["x"]
    half = 1.96 * values.std() / np.sqrt(2000)
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_interval_widens_where_a_users_rows_are_alike():
    users = np.repeat(np.arange(100), 25)
    values = np.random.default_rng(0).normal(size=100)[users]
    alike = mean_intervals({"x": values}, users, rounds=500, seed=0)["x"]
    apart = mean_intervals({"x": values}, np.arange(2500), rounds=500, seed=0)["x"]
    assert alike.high - alike.low > 4 * (apart.high - apart.low)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(5)
    covered = 0
    for seed in range(200):
        users = rng.integers(0, 80, 300)
        values = rng.normal(size=80)[users] + rng.normal(size=300)
        found = mean_intervals({"x": values}, users, rounds=200, seed=seed)["x"]
        covered += found.low <= 0 <= found.high
    assert 0.88 <= covered / 200 <= 0.98


def test_ratio_interval_equals_the_slow_twin_with_the_same_draws():
    rng = np.random.default_rng(0)
    users, above, below = rng.integers(0, 9, 40), rng.random(40), rng.random(40) + 1
    found = ratio_intervals({"r": above}, {"r": below}, users, rounds=300, seed=3)["r"]

    def slow(rows):
        return above[rows].sum() / below[rows].sum()

    twin = statistic_interval(slow, users, rounds=300, seed=3)
    assert astuple(twin) == pytest.approx(astuple(found), abs=1e-12)


def test_draws_in_chunks_equal_draws_at_once(monkeypatch):
    values, users = np.random.default_rng(0).random(50), np.arange(50) % 7
    whole = mean_intervals({"x": values}, users, rounds=100, seed=2)
    monkeypatch.setattr(intervals, "MAX_DRAWS", 30)
    assert mean_intervals({"x": values}, users, rounds=100, seed=2) == whole


def test_values_that_are_unknown_do_not_count():
    values = np.array([1.0, np.nan, 3.0])
    assert mean_intervals({"x": values}, np.arange(3), rounds=100, seed=0)["x"].value == 2


def test_paired_difference_is_narrower_than_the_systems_apart():
    rng = np.random.default_rng(0)
    first = rng.normal(size=1000)
    second = first - 0.1 + 0.05 * rng.normal(size=1000)
    users = np.arange(1000)
    paired = paired_difference(first, second, users, rounds=500, seed=0)
    assert paired.low > 0.09
    assert paired.high < 0.11


def test_seed_decides_the_interval():
    values, users = np.random.default_rng(0).random(50), np.arange(50)
    first, again, other = (
        mean_intervals({"x": values}, users, rounds=100, seed=seed)["x"] for seed in (1, 1, 2)
    )
    assert first == again != other


def test_no_rows_give_nothing():
    found = mean_intervals({"x": np.zeros(0)}, np.zeros(0, int), rounds=100, seed=0)["x"]
    assert np.isnan([found.value, found.low, found.high]).all()


def test_difference_of_ratios_equals_the_slow_twin_with_the_same_draws():
    rng = np.random.default_rng(0)
    users = rng.integers(0, 9, 40)
    above, below, other_above, other_below = rng.random((4, 40)) + 0.5
    found = ratio_difference_intervals(
        ({"r": above}, {"r": below}),
        ({"r": other_above}, {"r": other_below}),
        users,
        rounds=300,
        seed=3,
    )["r"]

    def slow(rows):
        first = above[rows].sum() / below[rows].sum()
        return first - other_above[rows].sum() / other_below[rows].sum()

    twin = statistic_interval(slow, users, rounds=300, seed=3)
    assert astuple(twin) == pytest.approx(astuple(found), abs=1e-12)


def test_difference_of_no_rows_is_nothing():
    nothing = ({"r": np.zeros(0)}, {"r": np.zeros(0)})
    found = ratio_difference_intervals(nothing, nothing, np.zeros(0, int), rounds=10, seed=0)
    assert np.isnan(found["r"].value)


def test_standard_error_of_a_mean_of_independent_rows_is_the_textbook_one():
    values = np.random.default_rng(0).normal(size=50)
    found = ratio_standard_error(values, np.ones(50), np.arange(50))
    assert found == pytest.approx(values.std(ddof=1) / np.sqrt(50), rel=1e-12)


def test_standard_error_of_a_ratio_is_that_of_the_bootstrap_over_users():
    rng = np.random.default_rng(0)
    users = rng.integers(0, 400, 3000)
    below = rng.gamma(1.0, size=400)[users] + rng.random(3000)
    above = below * (2 + rng.normal(size=400)[users])
    error = ratio_standard_error(above, below, users)
    drawn = ratio_intervals({"r": above}, {"r": below}, users, rounds=2000, seed=0)["r"]
    assert (drawn.high - drawn.low) / (2 * 1.96) == pytest.approx(error, rel=0.05)
    assert ratio_standard_error(above, below, np.arange(3000)) < 0.6 * error


@pytest.mark.parametrize("users", [np.zeros(0, int), np.zeros(4, int)])
def test_standard_error_of_fewer_than_two_users_is_unknown(users):
    ones = np.ones(len(users))
    assert np.isnan(ratio_standard_error(ones, ones, users))
