import numpy as np
import pytest

from recsys.errors import ArtefactError
from recsys.exploration.calibration import Spread, fit_spread

SPREAD = Spread((0, 1, 5), (1.0, 2.0, 3.0), (1.5, 2.5, 3.5))


def test_intervals_cover_what_they_were_fitted_on():
    rng = np.random.default_rng(0)
    mean, deviation = rng.uniform(3, 5, 4000), rng.uniform(0.5, 2, 4000)
    outcome = mean + deviation * (rng.exponential(1, 4000) - 0.6)
    spread = fit_spread([(outcome - mean) / deviation], (0,))
    low, high = spread.interval(mean, deviation, np.zeros(4000, int))
    above = float((outcome > np.log1p(high)).mean())
    below = float((outcome < np.log1p(low)).mean())
    assert abs(above - 0.1) < 0.002
    assert abs(below - 0.1) < 0.002
    assert spread.above[0] > spread.below[0]


def test_sizes_find_their_bands():
    deviation = SPREAD.deviations(np.ones(5), np.array([0, 1, 4, 5, 99]))
    np.testing.assert_allclose(deviation, [1.25, 2.25, 2.25, 3.25, 3.25])


def test_interval_uses_the_factor_of_each_side():
    low, high = SPREAD.interval(np.array([5.0]), np.array([0.5]), np.array([1]))
    np.testing.assert_allclose(np.log1p(low), 5 - 1.2815516 * 2.0 * 0.5)
    np.testing.assert_allclose(np.log1p(high), 5 + 1.2815516 * 2.5 * 0.5)


def test_band_of_few_rows_has_the_factors_before():
    residual = np.random.default_rng(0).standard_normal(500)
    spread = fit_spread([residual, residual[:5]], (0, 1))
    assert spread.below[0] == spread.below[1]
    assert spread.above[0] == spread.above[1]


def test_saved_spread_is_loaded(tmp_path):
    SPREAD.save(tmp_path / "spread.json")
    assert Spread.load(tmp_path / "spread.json") == SPREAD


@pytest.mark.parametrize("text", ["{", "{}", '{"first_sizes": [0], "below": [1, 2], "above": [1]}'])
def test_other_files_are_refused(tmp_path, text):
    (tmp_path / "spread.json").write_text(text)
    with pytest.raises(ArtefactError, match="not a calibration of spreads"):
        Spread.load(tmp_path / "spread.json")
