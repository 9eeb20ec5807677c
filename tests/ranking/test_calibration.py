import json
from dataclasses import replace

import numpy as np
import pytest

from recsys.errors import ArtefactError
from recsys.ranking.calibration import (
    Calibration,
    bucket_edges,
    duration_buckets,
    fit_calibration,
    fit_factors,
)
from recsys.ranking.spec import FeatureSpec, Priors

SPEC = FeatureSpec(
    user_categorical={"device": 2, "surface": 3, "hour": 25},
    item_categorical={},
    item_bags={},
    bias_categorical={},
    user_numeric=(),
    item_numeric=("height", "duration_seconds", "item_age_seconds"),
    num_item_codes=2,
    history_length=1,
    recent_length=0,
    retrieval_trained=False,
    priors=Priors(0.5, 1.0, 0.5),
)
CALIBRATION = Calibration(
    common_factor=2.0,
    surface_column=1,
    surface_factors=(1.0, 0.5, 3.0),
    duration_column=1,
    duration_edges_seconds=(10.0, 60.0),
    duration_factors=(1.0, 0.25, 4.0, 5.0),
)
NAN = float("nan")


def features_of(surface, seconds):
    """Features of SPEC: surface [Q], seconds [Q, C]; the other columns hold decoys."""
    user = np.full((len(surface), 3), 1, np.int32)
    user[:, 1] = surface
    numeric = np.full((*np.shape(seconds), 3), 15.0, np.float32)
    numeric[..., 1] = seconds
    return {"user_categorical": user, "candidate_numeric": numeric}


def fit(predicted, true, surface, seconds, *, spec=SPEC, calibrate_durations=True):
    return fit_calibration(
        predicted,
        true,
        features_of(surface, np.reshape(seconds, (-1, 1))),
        spec,
        calibrate_durations=calibrate_durations,
    )


def random_rows(num_rows=6000):
    """Surfaces 1 and 2, of which the second has the longer items; some durations unknown."""
    rng = np.random.default_rng(0)
    surface = rng.integers(1, 3, num_rows)
    seconds = rng.integers(1, 50, num_rows) * np.where(surface == 1, 1.0, 2.0)
    seconds[rng.random(num_rows) < 0.2] = NAN
    predicted = rng.exponential(5.0, num_rows)
    true = rng.exponential(5.0, num_rows) * np.where(seconds > 30, 1.5, 0.8) * surface
    return predicted, true, surface, seconds


def test_one_factor_makes_the_sums_equal():
    predicted, true = np.array([1.0, 3.0, 4.0]), np.array([2.0, 2.0, 8.0])
    zeros = np.zeros(3, np.int64)
    common, of_surface, of_bucket = fit_factors(predicted, true, zeros, zeros, (1, 1))
    assert (common, *of_surface, *of_bucket) == pytest.approx((1.5, 1.0, 1.0))


@pytest.mark.parametrize("axis", [0, 1])
def test_levels_move_towards_their_own_ratio_and_the_sums_stay_equal(axis):
    code = np.repeat([1, 2], [4000, 1000])
    true = np.where(code == 1, 0.9, 1.4)
    codes, shape = [np.zeros_like(code)] * 2, [1, 1]
    codes[axis], shape[axis] = code, 3
    common, *factors = fit_factors(np.ones(5000), true, *codes, tuple(shape))
    # (4000 * .9 + 500) / 4500 and (1000 * 1.4 + 500) / 1500, brought to a sum of 5000.
    raw = np.array([4100 / 4500, 1900 / 1500])
    np.testing.assert_allclose(factors[axis], [1, *raw])
    np.testing.assert_array_equal(factors[1 - axis], [1])
    assert common == pytest.approx(5000 / (raw @ [4000, 1000]))


def test_two_surfaces_by_two_buckets_are_recovered_where_counts_are_large():
    # Surface 2 has mostly long items, so neither axis alone shows its own factors.
    counts = np.array([[900_000, 100_000], [300_000, 700_000]])
    surface, bucket = (np.repeat(codes.ravel(), counts.ravel()) for codes in np.indices((2, 2)))
    of_surface, of_bucket = np.array([0.5, 2.0]), np.array([0.8, 1.5])
    truth = of_surface[:, None] * of_bucket
    predicted = np.where(bucket == 0, 3.0, 20.0)
    true = predicted * truth[surface, bucket]
    common, a, b = fit_factors(predicted, true, surface, bucket, (2, 2))
    np.testing.assert_allclose(common * np.outer(a, b), truth, rtol=0.02)
    np.testing.assert_allclose(a[1] / a[0], 4, rtol=0.02)
    np.testing.assert_allclose(b[1] / b[0], 1.5 / 0.8, rtol=0.02)


def test_each_shrunken_sum_matches_and_so_does_the_total():
    predicted, true, surface, seconds = random_rows()
    bucket = np.where(np.isnan(seconds), 0, np.where(seconds < 40, 1, 2))
    common, a, b = fit_factors(predicted, true, surface, bucket, (3, 3))
    prior, expected = 500 * true.mean(), predicted * true.sum() / predicted.sum()
    for codes, own, others in ((surface, a, b[bucket]), (bucket, b, a[surface])):
        for code in np.unique(codes):
            rows = codes == code
            ratio = (true[rows].sum() + prior) / ((expected * others)[rows].sum() + prior)
            assert own[code] == pytest.approx(ratio, rel=1e-6)
            assert own[code] != pytest.approx(1, abs=0.01)
    calibrated = common * predicted * a[surface] * b[bucket]
    assert calibrated.sum() == pytest.approx(true.sum(), rel=1e-12)


def test_levels_without_impressions_have_exactly_the_common_factor():
    predicted, true, surface, seconds = random_rows()
    bucket = np.where(seconds > 30, 1, 2)
    _, of_surface, of_bucket = fit_factors(predicted, true, surface, bucket, (4, 4))
    assert (of_surface[0], of_surface[3], of_bucket[0], of_bucket[3]) == (1, 1, 1, 1)


def test_an_axis_of_one_used_level_has_factors_of_one():
    predicted, true = np.full(10_000, 2.0), np.full(10_000, 3.0)
    ones = np.ones(10_000, np.int64)
    common, of_surface, of_bucket = fit_factors(predicted, true, ones, ones, (3, 2))
    assert common == pytest.approx(1.5)
    assert (*of_surface, *of_bucket) == (1, 1, 1, 1, 1)


@pytest.mark.parametrize(
    ("predicted", "true"),
    [(np.ones(3), np.zeros(3)), (np.zeros(3), np.ones(3)), (np.zeros(0), np.zeros(0))],
)
def test_zero_sums_leave_predictions_alone(predicted, true):
    codes = true.astype(int)
    common, of_surface, of_bucket = fit_factors(predicted, true, codes, codes, (2, 2))
    assert (common, *of_surface, *of_bucket) == (1, 1, 1, 1, 1)


def test_surface_that_nobody_watched_keeps_a_positive_factor():
    surface = np.repeat([0, 1], 500)
    zeros = np.zeros_like(surface)
    true = np.where(surface == 0, 2.0, 0.0)
    common, of_surface, _ = fit_factors(np.ones(1000), true, surface, zeros, (2, 1))
    # Mean 1, so (1000 + 500) / (500 + 500) and (0 + 500) / (500 + 500); their sum is right.
    assert (common, *of_surface) == pytest.approx((1, 1.5, 0.5))


def test_edges_part_the_known_durations_evenly():
    seconds = np.random.default_rng(0).permutation(np.append(np.arange(800), [NAN] * 77))
    counts = np.bincount(duration_buckets(seconds, bucket_edges(seconds)))
    assert len(counts) == 9
    assert counts[0] == 77
    assert counts[1:].min() >= 98
    assert counts[1:].max() <= 102


@pytest.mark.parametrize(
    ("seconds", "edges"),
    [
        ([], ()),
        ([NAN, NAN], ()),
        ([20.0] * 50, ()),
        ([5.0] * 50 + [9.0] * 50, (9.0,)),
        ([1.0] + [20.0] * 99, ()),
        ([20.0] * 99 + [300.0], ()),
    ],
)
def test_repeated_durations_leave_no_bucket_thin(seconds, edges):
    assert bucket_edges(np.array(seconds, np.float32)) == edges


def test_edge_belongs_to_the_bucket_above_and_the_unknown_to_its_own():
    seconds = np.array([[0.1, 9.99, 10.0], [59.9, 60.0, NAN]], np.float32)
    assert duration_buckets(seconds, (10.0, 60.0)).tolist() == [[1, 1, 2], [2, 3, 0]]


def test_factor_is_that_of_the_surface_times_that_of_the_bucket():
    features = features_of([2, 0, 1], [[5.0, NAN], [30.0, 60.0], [9.0, 61.0]])
    expected = [[2 * 3 * 0.25, 2 * 3], [2 * 4, 2 * 5], [2 * 0.5 * 0.25, 2 * 0.5 * 5]]
    found = CALIBRATION.factors_of(features)
    assert found.dtype == np.float32
    assert found.tolist() == expected


def test_factors_of_a_request_are_those_of_its_candidates_alone():
    rng = np.random.default_rng(1)
    surface, seconds = rng.integers(0, 3, 20), rng.choice([5.0, 10.0, 30.0, 80.0, NAN], (20, 7))
    together = CALIBRATION.factors_of(features_of(surface, seconds))
    alone = CALIBRATION.factors_of(features_of(np.repeat(surface, 7), seconds.reshape(-1, 1)))
    np.testing.assert_array_equal(together.reshape(-1, 1), alone)


def test_fitted_factors_bring_each_group_nearer_to_its_true_seconds():
    predicted, true, surface, seconds = random_rows()
    calibration = fit(predicted, true, surface, seconds)
    features = features_of(surface, seconds[:, None])
    calibrated = predicted * calibration.factors_of(features)[:, 0]
    groups = calibration.codes_of(features)
    for codes in (groups[0], groups[1][:, 0]):
        sums = [np.bincount(codes, values) for values in (true, predicted, calibrated)]
        used = sums[0] > 0
        before, after = (np.abs(values[used] / sums[0][used] - 1) for values in sums[1:])
        assert after.max() < before.max() / 2
    assert calibrated.sum() == pytest.approx(true.sum(), rel=1e-6)


def test_durations_are_left_alone_if_not_wanted():
    predicted, true, surface, seconds = random_rows()
    with_them = fit(predicted, true, surface, seconds)
    without = fit(predicted, true, surface, seconds, calibrate_durations=False)
    assert set(without.duration_factors) == {1.0}
    assert len(set(with_them.duration_factors)) > 5
    assert without.duration_edges_seconds == with_them.duration_edges_seconds
    factors = without.factors_of(features_of([1, 1], [[2.0, NAN], [90.0, 30.0]]))
    assert len(np.unique(factors)) == 1


def test_without_surfaces_only_durations_tell_candidates_apart():
    predicted, true, surface, seconds = random_rows()
    spec = replace(SPEC, user_categorical={"device": 2, "hour": 25})
    calibration = fit(predicted, true, surface, seconds, spec=spec)
    assert (calibration.surface_column, calibration.surface_factors) == (None, (1.0,))
    factors = calibration.factors_of(features_of([1, 2], [[2.0, 90.0], [2.0, 90.0]]))
    assert factors[0].tolist() == factors[1].tolist()
    assert factors[0, 0] < factors[0, 1]


def test_unknown_durations_have_a_factor_of_their_own():
    predicted = np.ones(20_000)
    seconds = np.where(np.arange(20_000) % 2, NAN, 30.0)
    calibration = fit(predicted, np.where(np.isnan(seconds), 3.0, 1.0), predicted, seconds)
    factors = calibration.factors_of(features_of([1], [[NAN, 30.0]]))[0]
    np.testing.assert_allclose(factors, [3, 1], rtol=0.06)


def test_calibration_survives_its_file_and_gives_the_same_factors(tmp_path):
    predicted, true, surface, seconds = random_rows()
    calibration = fit(predicted, true, surface, seconds)
    calibration.save(tmp_path / "c.json")
    loaded = Calibration.load(tmp_path / "c.json")
    assert loaded == calibration
    features = features_of(surface, seconds[:, None])
    np.testing.assert_array_equal(loaded.factors_of(features), calibration.factors_of(features))


@pytest.mark.parametrize("text", ["{}", "[]", "nonsense", '{"surface_factors": 3}'])
def test_file_that_is_no_calibration_is_refused(tmp_path, text):
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(ArtefactError, match="not a calibration"):
        Calibration.load(tmp_path / "c.json")


def test_file_of_before_the_duration_buckets_is_refused(tmp_path):
    old = {"mean_watch_seconds": 2.0, "factors": [1.0, 0.5], "surface_column": 0}
    (tmp_path / "c.json").write_text(json.dumps(old))
    with pytest.raises(ArtefactError, match="train the ranking net anew"):
        Calibration.load(tmp_path / "c.json")


@pytest.mark.parametrize(
    "change",
    [
        {"duration_factors": [1.0, 1.0, 1.0]},
        {"duration_factors": [1.0, 1.0, 1.0, 0.0]},
        {"duration_edges_seconds": [60.0, 10.0]},
        {"duration_edges_seconds": [10.0, 10.0]},
        {"surface_factors": [1.0, NAN, 1.0]},
        {"common_factor": -1.0},
        {"common_factor": "2"},
        {"unheard_of": 1},
        {"mean_watch_seconds": 2.0},
    ],
)
def test_broken_values_are_refused(tmp_path, change):
    CALIBRATION.save(tmp_path / "c.json")
    content = json.loads((tmp_path / "c.json").read_text())
    (tmp_path / "c.json").write_text(json.dumps(content | change))
    with pytest.raises(ArtefactError, match="not a calibration"):
        Calibration.load(tmp_path / "c.json")


@pytest.mark.parametrize("name", list(vars(CALIBRATION)))
def test_missing_values_are_refused_by_name(tmp_path, name):
    CALIBRATION.save(tmp_path / "c.json")
    content = json.loads((tmp_path / "c.json").read_text())
    del content[name]
    (tmp_path / "c.json").write_text(json.dumps(content))
    with pytest.raises(ArtefactError, match=name):
        Calibration.load(tmp_path / "c.json")
