"""Each peer of the ranking net finds what was planted in a small world."""

import dataclasses
import functools

import numpy as np
import pytest

from benchmarks.peers import ranking_distributions, ranking_nets, ranking_training
from benchmarks.peers.ranking_distributions import (
    DurationGroups,
    adaptive_thresholds,
    curve_means,
    curve_medians,
)
from benchmarks.peers.ranking_peers import PEERS
from benchmarks.peers.ranking_rows import PeerRows
from benchmarks.peers.ranking_training import Encoding
from recsys.evaluation.ranking import gauc
from recsys.ranking.predictions import FeatureMatrix

NAMES = ("first", "second", "noise", "duration_seconds")
MEAN_SECONDS = np.array([np.nan, 5.0, 10.0, 20.0, 40.0])
"""By code of the first column."""


@pytest.fixture(autouse=True)
def small_training(monkeypatch):
    """Make as many steps from few rows, with nets that train in a second."""
    monkeypatch.setattr(ranking_training, "BATCH_SIZE", 64)
    monkeypatch.setattr(ranking_nets, "HIDDEN_2016", (64, 32))
    monkeypatch.setattr(ranking_nets, "HIDDEN_EXPERT", (64, 32))
    monkeypatch.setattr(ranking_distributions, "HIDDEN", (64, 32))


def make_rows(seed, num_rows, watch_seconds, completed):
    """Make impressions; the labels are functions of (rng, first codes, second codes)."""
    rng = np.random.default_rng(seed)
    first, second = rng.integers(1, 5, num_rows), rng.integers(1, 3, num_rows)
    amounts = rng.random((2, num_rows)) * 60
    amounts[:, rng.random(num_rows) < 0.1] = np.nan
    seconds, label = watch_seconds(rng, first, second), completed(rng, first, second)
    features = FeatureMatrix(
        values=np.stack([first, second, *amounts], axis=1).astype(np.float32),
        names=NAMES,
        categorical=(0, 1),
        item=first,
        watch_ms=np.round(1000 * seconds).astype(np.int64),
        completed=np.where(rng.random(num_rows) < 0.1, -1, label).astype(np.int8),
    )
    return PeerRows(features, rng.integers(0, num_rows // 10, num_rows))


def make_parts(watch_seconds, completed, num_rows=3000):
    return [
        make_rows(seed, size, watch_seconds, completed)
        for seed, size in enumerate((num_rows, num_rows // 4, num_rows // 4))
    ]


def noisy_mean(rng, first, second):
    return MEAN_SECONDS[first] * rng.uniform(0.5, 1.5, len(first))


def likely_first(rng, first, second):
    return rng.random(len(first)) < first / 5


def is_different(rng, first, second):
    return (first > 2) != (second > 1)


@functools.cache
def planted():
    return make_parts(noisy_mean, likely_first)


@functools.cache
def planted_scores(name):
    return PEERS[name](*planted(), seed=0)


def by_code(rows, scores):
    """Return the mean score of each code of the first column."""
    first = rows.features.values[:, 0]
    return np.array([scores[first == code].mean() for code in range(1, 5)])


@pytest.mark.parametrize("name", sorted(PEERS))
def test_scores_follow_the_planted_means_and_rates(name):
    scores, test = planted_scores(name), planted()[2]
    for head in ("expected_seconds", "median_seconds"):
        if head in scores and name != "net_2016":
            found = by_code(test, scores[head])
            np.testing.assert_allclose(found, MEAN_SECONDS[1:], rtol=0.15, atol=1)
    if "completion" in scores:
        assert (np.diff(by_code(test, scores["completion"])) > 0).all()


@pytest.mark.parametrize("name", sorted(PEERS))
def test_scores_repeat_and_never_look_at_test_labels(name):
    training, validation, test = planted()
    blind = dataclasses.replace(
        test.features, watch_ms=0 * test.features.watch_ms, completed=0 * test.features.completed
    )
    again = PEERS[name](training, validation, PeerRows(blind, test.users), seed=0)
    for head, scores in planted_scores(name).items():
        assert scores.shape == (len(test),)
        np.testing.assert_allclose(again[head], scores, rtol=1e-4)


@pytest.mark.parametrize("name", ["lightgbm", "d2q", "factorization_machine"])
def test_scores_depend_on_the_seed(name):
    other = PEERS[name](*planted(), seed=1)
    for head, scores in planted_scores(name).items():
        assert not np.allclose(other[head], scores, rtol=1e-3)


@pytest.mark.parametrize("name", ["factorization_machine", "lightgbm_lambdarank"])
def test_interaction_that_no_linear_model_has_is_found(name):
    parts = make_parts(noisy_mean, is_different)
    scores = PEERS[name](*parts, seed=0)["completion"]
    test = parts[2]
    known = test.features.completed >= 0
    assert gauc(test.users[known], test.features.completed[known] > 0, scores[known]) > 0.95


def test_net_2016_serves_expected_seconds_over_the_share_without_a_click():
    def watched_sometimes(rng, first, second):
        return np.where(rng.random(len(first)) < 0.2 * first, 10.0, 0.0)

    parts = make_parts(watched_sometimes, likely_first, num_rows=4000)
    scores = PEERS["net_2016"](*parts, seed=0)["expected_seconds"]
    click_rate = 0.2 * np.arange(1, 5)
    expected = 10 * click_rate / (1 - click_rate)
    np.testing.assert_allclose(by_code(parts[2], scores), expected, rtol=0.25)


def test_cread_restores_a_watch_time_that_each_code_fixes():
    parts = make_parts(lambda rng, first, second: MEAN_SECONDS[first], likely_first)
    scores = PEERS["cread"](*parts, seed=0)
    found = by_code(parts[2], scores["expected_seconds"])
    np.testing.assert_allclose(found, MEAN_SECONDS[1:], rtol=0.1, atol=1)


def test_codes_without_training_rows_and_zero_are_one_unknown():
    training = make_rows(0, 100, noisy_mean, likely_first).features
    encoding = Encoding.fit(training)
    values = np.full((4, 4), np.nan, np.float32)
    values[:, 0], values[:, 1] = [0, 1, 4, 9], [1, 2, 7, 0]
    inputs = encoding.inputs(dataclasses.replace(training, values=values))
    assert encoding.num_codes == 7
    assert inputs["codes"].tolist() == [[0, 5], [1, 6], [4, 0], [0, 0]]


def test_percentiles_of_like_durations_by_hand():
    duration = np.array([1, 1, 1, 1, 9, 9, np.nan], np.float32)
    watched = np.array([0, 1, 1, 4, 3, 5, 8], np.float32)
    groups = DurationGroups.fit(duration, watched, num_groups=2)
    found = groups.percentiles(duration, watched)
    np.testing.assert_allclose(found, [1 / 8, 1 / 2, 1 / 2, 7 / 8, 1 / 4, 3 / 4, 1 / 2])


def test_percentiles_are_inverted_through_the_curve_of_the_own_group():
    duration = np.array([1, 1, 1, 1, 9, 9, np.nan], np.float32)
    watched = np.array([0, 1, 2, 4, 3, 5, 8], np.float32)
    groups = DurationGroups.fit(duration, watched, num_groups=2)
    asked = np.array([0.5, 1 / 8, 0.75, 1.0, 0.5, 0.0, 0.3], np.float32)
    found = groups.seconds(duration, asked)
    np.testing.assert_allclose(found, [1.5, 0, 3, 4, 4, 3, 8], rtol=1e-6)


def test_durations_unknown_to_training_take_the_curve_of_all_rows():
    duration, watched = np.array([1, 9], np.float32), np.array([2, 6], np.float32)
    groups = DurationGroups.fit(duration, watched, num_groups=2)
    assert groups.seconds(np.array([np.nan], np.float32), np.array([0.5])).tolist() == [4]


def test_thresholds_grow_denser_where_watch_times_are_long():
    watched = np.arange(1, 1001, dtype=np.float32)
    thresholds = adaptive_thresholds(watched, num_thresholds=4, skew=1.0)
    share = (1 - np.exp(-np.arange(1, 5) / 4)) / (1 - np.exp(-1))
    np.testing.assert_allclose(thresholds, 1000 * share, atol=1)


def test_thresholds_hold_each_positive_watch_time_of_few_once():
    watched = np.repeat(np.array([0, 3, 5], np.float32), [50, 30, 20])
    assert adaptive_thresholds(watched, 32, 2.0).tolist() == [3, 5]


def test_true_shares_restore_the_mean_of_watch_times_on_thresholds():
    watched = np.repeat(np.array([0, 3, 5, 11], np.float32), [40, 30, 20, 10])
    thresholds = adaptive_thresholds(watched, 32, 2.0)
    shares = (watched[:, None] >= thresholds).mean(axis=0)
    assert curve_means(shares[None], thresholds) == pytest.approx([watched.mean()])


def test_medians_lie_where_the_curve_falls_to_a_half():
    thresholds = np.array([2.0, 4.0, 8.0])
    shares = np.array([[0.9, 0.7, 0.3], [0.25, 0.1, 0], [0.9, 0.8, 0.7], [0.6, 0.2, 0.9]])
    found = curve_medians(shares, thresholds)
    np.testing.assert_allclose(found, [6, 4 / 3, 8, 2.5])
