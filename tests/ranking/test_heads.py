import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from recsys.errors import ArtefactError
from recsys.ranking.heads import Heads, curve_quantiles, fit_heads

NAN = float("nan")
EVERY = ("expected", "median", "completion", "click", "like", "percentile", "curve")
HUNDRED = tuple(float(number) for number in range(101))
HEADS = Heads(
    names=EVERY,
    mean_watch_seconds=10.0,
    thresholds_seconds=(2.0, 5.0, 20.0),
    group_edges_seconds=(30.0, 60.0),
    group_seconds=tuple(tuple(scale * value for value in HUNDRED) for scale in (7, 1, 2, 3)),
)


def logit(probability):
    return np.log(probability) - np.log1p(-np.asarray(probability))


def raw_of(heads=HEADS, rows=1, **columns):
    """Return raw outputs [rows, K] that are 0 but for the given heads."""
    raw = np.zeros((rows, heads.num_outputs), np.float32)
    for name, values in columns.items():
        raw[:, heads.columns()[name]] = values
    return raw


def values_of(heads=HEADS, duration=NAN, **columns):
    return {
        name: value.item()
        for name, value in heads.values(raw_of(heads, **columns), np.array([duration])).items()
    }


def test_columns_lie_side_by_side_in_the_order_of_the_names():
    assert HEADS.widths() == dict.fromkeys(EVERY, 1) | {"curve": 3}
    assert HEADS.num_outputs == 9
    assert list(HEADS.columns()) == list(EVERY)
    places = [list(range(9))[where] for where in HEADS.columns().values()]
    assert places == [[0], [1], [2], [3], [4], [5], [6, 7, 8]]


def test_heads_that_are_off_have_no_column_and_no_value():
    heads = Heads(("expected", "completion", "curve"), 10.0, (2.0, 5.0), (), ())
    places = {name: list(range(4))[where] for name, where in heads.columns().items()}
    assert places == {"expected": [0], "completion": [1], "curve": [2, 3]}
    assert set(values_of(heads)) == {
        "expected_seconds",
        "completion",
        "median_seconds",
        "low_seconds",
        "high_seconds",
    }


def test_expected_seconds_are_the_odds_in_units():
    assert values_of(expected=np.log(3))["expected_seconds"] == pytest.approx(30)


def test_expected_seconds_are_least_wrong_at_the_mean():
    watch_time = np.array([0.0, 0.5, 4.0, 9.0])

    def loss(z):
        return np.mean((1 + watch_time) * np.logaddexp(0, z) - watch_time * z)

    best = minimize_scalar(loss, bounds=(-5, 5), method="bounded").x
    found = values_of(expected=best)["expected_seconds"]
    assert found == pytest.approx(10 * watch_time.mean(), rel=1e-4)


def test_median_is_a_softplus_in_units_where_there_is_no_curve():
    heads = Heads(("expected", "median", "completion"), 10.0, (), (), ())
    # softplus(log 3) = log(1 + 3)
    assert values_of(heads, median=np.log(3))["median_seconds"] == pytest.approx(10 * np.log(4))


@pytest.mark.parametrize("name", ["completion", "click", "like"])
def test_probability_is_a_sigmoid(name):
    found = values_of(**{name: logit(0.8)})
    assert found[name] == pytest.approx(0.8)
    assert {found[other] for other in {"completion", "click", "like"} - {name}} == {0.5}


def test_curve_gives_median_and_interval():
    found = values_of(median=0.0, curve=logit([0.95, 0.5, 0.05]))
    # The curve falls through 1/2 at 5 s; 0.9 is a ninth of the way from 2 to 5 s, and 0.1 eight
    # ninths of that from 5 to 20 s. The other median is 10 log 2 seconds.
    assert found["median_seconds"] == pytest.approx((5 + 10 * np.log(2)) / 2, rel=1e-5)
    assert found["low_seconds"] == pytest.approx(2 + 3 / 9, rel=1e-5)
    assert found["high_seconds"] == pytest.approx(5 + 15 * 8 / 9, rel=1e-5)


def test_median_does_not_leave_the_interval():
    found = values_of(median=50.0, curve=logit([0.95, 0.5, 0.05]))
    assert found["median_seconds"] == found["high_seconds"]


def test_curve_alone_gives_its_own_median():
    heads = replace(HEADS, names=tuple(name for name in EVERY if name != "median"))
    found = values_of(heads, curve=logit([0.95, 0.5, 0.05]))
    assert found["median_seconds"] == pytest.approx(5)


@pytest.mark.parametrize(
    ("duration", "scale"),
    [(NAN, 7), (0.0, 1), (29.9, 1), (30.0, 2), (59.9, 2), (60.0, 3), (1e6, 3)],
)
def test_percentile_is_looked_up_in_the_group_of_the_duration(duration, scale):
    for share in (0.25, 0.255, 0.999):
        found = values_of(duration=duration, percentile=logit(share))["percentile_seconds"]
        assert found == pytest.approx(scale * 100 * share, rel=1e-5)


def test_percentiles_at_the_ends_are_the_least_and_the_longest():
    for raw, seconds in ((-1e4, 0), (1e4, 200)):
        assert values_of(duration=40.0, percentile=raw)["percentile_seconds"] == seconds


def test_values_stay_finite_for_any_output():
    raw = np.random.default_rng(0).choice([-1e4, -88, 0, 88, 1e4], (500, 9)).astype(np.float32)
    duration = np.random.default_rng(1).choice([NAN, 1.0, 50.0, 1e9], 500)
    values = HEADS.values(raw, duration)
    assert len(values) == 8
    for name, value in values.items():
        assert value.dtype == np.float32
        assert np.isfinite(value).all() and (value >= 0).all(), name
    for name in ("completion", "click", "like"):
        assert {values[name].min(), values[name].max()} == {0, 1}
    assert (values["low_seconds"] <= values["median_seconds"]).all()
    assert (values["median_seconds"] <= values["high_seconds"]).all()
    assert values["high_seconds"].max() <= 40


def test_values_keep_the_shape_of_requests_by_candidates():
    rng = np.random.default_rng(0)
    raw = rng.normal(size=(4, 5, 9)).astype(np.float32)
    duration = rng.choice([NAN, 10.0, 40.0, 90.0], (4, 5))
    together = HEADS.values(raw, duration)
    alone = HEADS.values(raw.reshape(20, 9), duration.ravel())
    for name, value in together.items():
        assert value.shape == (4, 5)
        np.testing.assert_array_equal(value.ravel(), alone[name])


def slow_quantile(probabilities, thresholds, quantile):
    """Interpolate one curve, made to descend."""
    above = [1.0]
    for probability in probabilities:
        above.append(min(above[-1], probability))
    edges = [0.0, *thresholds, 2 * thresholds[-1]]
    # np.interp wants ascending abscissae.
    return np.interp(1 - quantile, [0.0, *above[::-1]], edges[::-1])


@pytest.mark.parametrize("quantile", [0.1, 0.25, 0.5, 0.9, 0.99])
def test_curve_quantiles_equal_an_interpolation_of_each_curve(quantile):
    rng = np.random.default_rng(0)
    curves = rng.random((300, 4))
    curves[::3] = rng.choice([0.0, 0.07, 0.33, 0.6, 1.0], (100, 4))
    curves[::2] = -np.sort(-curves[::2], axis=1)
    thresholds = (1.0, 3.0, 4.5, 20.0)
    found = curve_quantiles(curves, thresholds, (0.3, quantile))
    slow = [slow_quantile(curve, thresholds, quantile) for curve in curves]
    np.testing.assert_allclose(found[:, 1], slow, rtol=1e-9)


def test_quantile_of_a_level_stretch_is_its_end():
    found = curve_quantiles(np.array([0.5, 0.5, 0.2]), (1.0, 2.0, 4.0), (0.5,))
    np.testing.assert_allclose(found, [2.0])


def test_rising_probability_counts_as_the_one_before():
    thresholds = (1.0, 2.0, 4.0)
    rising = curve_quantiles(np.array([0.4, 0.9, 0.2]), thresholds, (0.3, 0.7))
    level = curve_quantiles(np.array([0.4, 0.4, 0.2]), thresholds, (0.3, 0.7))
    np.testing.assert_array_equal(rising, level)
    # 1 falls to 0.4 within a second; from 2 to 4 s it falls from 0.4 to 0.2.
    np.testing.assert_allclose(rising, [0.5, 3.0])


def test_quantile_beyond_the_last_threshold_lies_before_twice_that():
    found = curve_quantiles(np.array([[1.0, 0.8], [1.0, 1.0]]), (3.0, 5.0), (0.6, 0.9))
    np.testing.assert_allclose(found, [[7.5, 9.375], [8.0, 9.5]])


def test_one_threshold_makes_a_curve():
    found = curve_quantiles(np.array([0.5]), (4.0,), (0.25, 0.5, 0.75))
    np.testing.assert_allclose(found, [2, 4, 6])


def rows_of_like_duration(rng, num_rows=4000):
    """Return watch times that grow with the duration; a fifth of the durations are unknown."""
    duration = rng.choice([10.0, 30.0, 60.0, 200.0], num_rows)
    watch = rng.exponential(duration)
    return watch, np.where(rng.random(num_rows) < 0.2, NAN, duration)


def fit(watch, duration, names=EVERY, *, num_thresholds=4, num_duration_groups=4):
    return fit_heads(
        names,
        np.asarray(watch, float),
        np.asarray(duration, float),
        num_thresholds=num_thresholds,
        num_duration_groups=num_duration_groups,
    )


def seconds_of(heads, percentile, duration):
    rows = len(percentile)
    with np.errstate(divide="ignore"):
        raw = raw_of(heads, rows, percentile=logit(percentile)[:, None])
    return heads.values(raw, duration)["percentile_seconds"]


def test_percentile_sent_back_gives_the_watch_time():
    heads = fit(*rows_of_like_duration(np.random.default_rng(0)), num_duration_groups=2)
    durations = [NAN, heads.group_edges_seconds[0] - 1, heads.group_edges_seconds[0]]
    for duration, times in zip(durations, np.array(heads.group_seconds), strict=True):
        # Exactly so at the percentiles, and in the middle between two.
        seconds = np.concatenate([times, (times[1:] + times[:-1]) / 2])
        same = np.full(len(seconds), duration)
        labels = heads.percentiles(seconds, same)
        assert labels.dtype == np.float32
        np.testing.assert_allclose(seconds_of(heads, labels, same), seconds, rtol=1e-4, atol=1e-4)


def test_watch_time_at_a_percentile_gives_that_percentile():
    seconds = np.array([0.0, 2.0, 50.0, 200.0])
    found = HEADS.percentiles(seconds, np.full(4, 40.0))
    np.testing.assert_allclose(found, [0, 0.01, 0.25, 1])
    np.testing.assert_allclose(seconds_of(HEADS, found, np.full(4, 40.0)), seconds, rtol=1e-5)


def test_watch_time_between_percentiles_gives_the_middle_and_beyond_them_the_ends():
    found = HEADS.percentiles(np.array([3.9, 199.0, 1e9]), np.full(3, 40.0))
    np.testing.assert_allclose(found, [0.015, 0.995, 1])
    shifted = Heads(EVERY, 1.0, (1.0,), (), (HUNDRED, tuple(5 + value for value in HUNDRED)))
    assert shifted.percentiles(np.array([4.0]), np.array([40.0])).tolist() == [0]


def test_tied_watch_times_have_the_middle_of_their_percentiles():
    watch = np.repeat([0.0, 5.0, 9.0], [501, 250, 250])
    heads = fit(watch, np.full(1001, 20.0))
    found = heads.percentiles(np.array([0.0, 5.0, 9.0]), np.full(3, 20.0))
    np.testing.assert_allclose(found, [0.25, 0.625, 0.88], atol=0.01)


def test_same_watch_time_is_a_higher_percentile_of_shorter_items():
    watch, duration = rows_of_like_duration(np.random.default_rng(1))
    found = fit(watch, duration).percentiles(np.full(4, 20.0), np.array([10.0, 30.0, 60.0, 200.0]))
    np.testing.assert_allclose(found, 1 - np.exp(-20 / np.array([10, 30, 60, 200])), atol=0.04)


def test_unknown_durations_are_a_group_of_their_own():
    duration = np.repeat([NAN, 20.0, 40.0], 100)
    watch = np.repeat([100.0, 1.0, 3.0], 100) + np.tile(np.arange(100), 3) / 1000
    found = fit(watch, duration).percentiles(np.array([100.05, 1.05]), np.array([NAN, 20.0]))
    np.testing.assert_allclose(found, [0.5, 0.5], atol=0.02)


def test_percentiles_are_even_within_every_group():
    rng = np.random.default_rng(2)
    duration = np.where(rng.random(4000) < 0.2, NAN, rng.uniform(5, 300, 4000))
    watch = rng.exponential(np.nan_to_num(duration, nan=50))
    heads = fit(watch, duration)
    labels = heads.percentiles(watch, duration)
    group = np.where(np.isnan(duration), -1, np.digitize(duration, heads.group_edges_seconds))
    assert np.unique(group).tolist() == [-1, 0, 1, 2, 3]
    for number in range(-1, 4):
        counts = np.histogram(labels[group == number], np.linspace(0, 1, 6))[0]
        np.testing.assert_allclose(counts / counts.sum(), 0.2, atol=0.01)


def test_thresholds_part_the_watch_times_evenly():
    watch = np.random.default_rng(0).permutation(np.arange(1, 1001)).astype(float)
    heads = fit(watch, np.full(1000, NAN), num_thresholds=4)
    assert len(heads.thresholds_seconds) == heads.widths()["curve"] == 4
    np.testing.assert_allclose(heads.thresholds_seconds, [200, 400, 600, 800], atol=1.5)
    assert heads.mean_watch_seconds == pytest.approx(500.5)


def test_tied_watch_times_give_fewer_thresholds_and_none_at_zero():
    watch = np.repeat([0.0, 3.0, 8.0], [50, 30, 20])
    heads = fit(watch, np.full(100, NAN), num_thresholds=9)
    assert heads.thresholds_seconds == (3.0, 8.0)
    assert heads.widths()["curve"] == 2


@pytest.mark.parametrize(
    ("watch", "unit", "thresholds"),
    [([0.0] * 9, 1, (1,)), ([0.0] * 99 + [200.0], 2, (2,)), ([], 1, (1,))],
)
def test_hardly_any_watching_still_gives_a_unit_and_a_threshold(watch, unit, thresholds):
    heads = fit(watch, np.full(len(watch), NAN), ("expected", "completion", "curve"))
    assert (heads.mean_watch_seconds, heads.thresholds_seconds) == (unit, thresholds)
    values = heads.values(raw_of(heads), np.array([NAN]))
    assert all(np.isfinite(value).all() for value in values.values())


def test_groups_hold_equally_many_known_durations():
    rng = np.random.default_rng(0)
    duration = np.append(rng.permutation(np.arange(1, 801)), np.full(100, NAN))
    heads = fit(rng.exponential(size=900), duration, num_duration_groups=8)
    np.testing.assert_allclose(heads.group_edges_seconds, np.arange(1, 8) * 100, atol=1.5)
    assert np.shape(heads.group_seconds) == (9, 101)


def test_one_duration_for_all_leaves_a_group_that_nobody_is_in():
    heads = fit([1.0, 2.0, 3.0], [20.0] * 3, num_duration_groups=4)
    assert heads.group_edges_seconds == (20.0,)
    # What lies below 20 s, or is unknown, is taken to be like all rows.
    assert set(map(len, heads.group_seconds)) == {101}
    assert len(set(heads.group_seconds)) == 1


def test_tables_of_heads_that_are_off_are_empty():
    heads = fit([1.0, 2.0], [3.0, 4.0], ("expected", "median", "completion"))
    assert (heads.thresholds_seconds, heads.group_edges_seconds, heads.group_seconds) == ((),) * 3


def test_heads_survive_their_file_and_mean_the_same(tmp_path):
    watch, duration = rows_of_like_duration(np.random.default_rng(3))
    heads = fit(watch, duration)
    heads.save(tmp_path / "heads.json")
    loaded = Heads.load(tmp_path / "heads.json")
    assert loaded == heads
    raw = np.random.default_rng(4).normal(size=(50, heads.num_outputs)).astype(np.float32)
    found, expected = (each.values(raw, duration[:50]) for each in (loaded, heads))
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)


@pytest.mark.parametrize("text", ["{}", "[]", "3", "null", "nonsense", '{"group_seconds": 3}'])
def test_file_that_describes_no_heads_is_refused(tmp_path, text):
    (tmp_path / "heads.json").write_text(text)
    with pytest.raises(ArtefactError, match="not a description of heads"):
        Heads.load(tmp_path / "heads.json")


def test_absent_file_is_refused(tmp_path):
    with pytest.raises(ArtefactError, match="train the ranking net anew"):
        Heads.load(tmp_path / "heads.json")


@pytest.mark.parametrize("name", list(vars(HEADS)))
def test_missing_values_are_refused_by_name(tmp_path, name):
    HEADS.save(tmp_path / "heads.json")
    content = json.loads((tmp_path / "heads.json").read_text())
    del content[name]
    (tmp_path / "heads.json").write_text(json.dumps(content))
    with pytest.raises(ArtefactError, match=name):
        Heads.load(tmp_path / "heads.json")


@pytest.mark.parametrize(
    "change",
    [
        {"unheard_of": [1]},
        {"names": 3},
        {"names": ["completion", "expected", *EVERY[2:]]},
        {"names": ["expected", "unheard_of"]},
        {"mean_watch_seconds": 0.0},
        {"mean_watch_seconds": NAN},
        {"mean_watch_seconds": "2"},
        {"thresholds_seconds": [2.0, 2.0]},
        {"thresholds_seconds": [0.0, 2.0]},
        {"thresholds_seconds": []},
        {"group_edges_seconds": [30.0]},
        {"group_edges_seconds": [60.0, 30.0]},
        {"group_seconds": [[1.0, 2.0]] * 4},
    ],
)
def test_broken_values_are_refused(tmp_path, change):
    HEADS.save(tmp_path / "heads.json")
    content = json.loads((tmp_path / "heads.json").read_text())
    (tmp_path / "heads.json").write_text(json.dumps(content | change))
    with pytest.raises(ArtefactError, match="not a description of heads"):
        Heads.load(tmp_path / "heads.json")
