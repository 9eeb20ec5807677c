import numpy as np
import pytest

from recsys.errors import ArtefactError
from recsys.ranking.calibration import Calibration, fit_factors


def test_one_factor_makes_the_sums_equal():
    predicted, true = np.array([1.0, 3.0, 4.0]), np.array([2.0, 2.0, 8.0])
    assert fit_factors(predicted, true, np.zeros(3, np.int64), 1) == pytest.approx((1.5,))


def test_surfaces_move_towards_their_own_ratio_and_the_sums_stay_equal():
    code = np.repeat([1, 2], [4000, 1000])
    predicted = np.ones(5000)
    true = np.where(code == 1, 0.9, 1.4)
    factors = np.array(fit_factors(predicted, true, code, 3))
    assert 0.9 < factors[1] < factors[0] < factors[2] < 1.4
    # (4000 * .9 + 500) / 4500 and (1000 * 1.4 + 500) / 1500, brought to a sum of 5000.
    raw = np.array([4100 / 4500, 1900 / 1500])
    np.testing.assert_allclose(factors[1:], raw * 5000 / (raw @ [4000, 1000]))
    assert (predicted * factors[code]).sum() == pytest.approx(true.sum())


def test_surface_without_impressions_has_the_common_factor():
    predicted, true = np.full(10_000, 2.0), np.full(10_000, 3.0)
    factors = fit_factors(predicted, true, np.ones(10_000, np.int64), 3)
    assert factors == pytest.approx((1.5, 1.5, 1.5))


@pytest.mark.parametrize("true", [np.zeros(3), np.zeros(0)])
def test_nothing_watched_leaves_predictions_alone(true):
    assert fit_factors(np.ones_like(true), true, true.astype(int), 2) == (1.0, 1.0)


def test_factor_follows_the_surface_of_the_request():
    calibration = Calibration(2.0, (1.0, 0.5, 3.0), surface_column=1)
    codes = np.array([[9, 2], [9, 0], [9, 1]], np.int32)
    assert calibration.factors_of(codes).tolist() == [3.0, 1.0, 0.5]


def test_factor_is_the_same_everywhere_without_surfaces():
    calibration = Calibration(2.0, (0.5,), surface_column=None)
    assert calibration.factors_of(np.zeros((3, 2), np.int32)).tolist() == [0.5] * 3


def test_calibration_survives_its_file(tmp_path):
    calibration = Calibration(2.5, (1.0, 0.25), surface_column=0)
    calibration.save(tmp_path / "c.json")
    assert Calibration.load(tmp_path / "c.json") == calibration


@pytest.mark.parametrize("text", ["{}", "[]", "nonsense", '{"factors": 3}'])
def test_file_that_is_no_calibration_is_refused(tmp_path, text):
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(ArtefactError, match="not a calibration"):
        Calibration.load(tmp_path / "c.json")
