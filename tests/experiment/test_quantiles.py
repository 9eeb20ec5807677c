import numpy as np
import pytest
from scipy import stats

from recsys.evaluation.intervals import statistic_interval
from recsys.experiment.quantiles import compare_quantiles, quantile_and_error


def rows_of_users(seed, *, num_users=300, shift=0.0):
    rng = np.random.default_rng(seed)
    users = np.repeat(np.arange(num_users), rng.integers(1, 20, num_users))
    values = np.exp(rng.normal(size=num_users)[users] + 0.5 * rng.normal(size=len(users)))
    return values + shift, users


@pytest.mark.parametrize("share", [0.5, 0.95])
def test_error_of_independent_rows_is_the_textbook_one(share):
    values = np.random.default_rng(0).normal(size=40_000)
    quantile, error = quantile_and_error(values, np.arange(40_000), share)
    density = stats.norm.pdf(stats.norm.ppf(share))
    assert quantile == np.quantile(values, share)
    assert error == pytest.approx(np.sqrt(share * (1 - share) / 40_000) / density, rel=0.15)


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_error_over_users_is_that_of_the_bootstrap(share):
    values, users = rows_of_users(0)
    _, error = quantile_and_error(values, users, share)
    drawn = statistic_interval(
        lambda rows: float(np.quantile(values[rows], share)), users, rounds=500, seed=0
    )
    assert error == pytest.approx((drawn.high - drawn.low) / (2 * 1.96), rel=0.2)
    assert error > 1.5 * quantile_and_error(values, np.arange(len(users)), share)[1]


def test_aa_tests_reject_about_as_often_as_they_say():
    p_values = [
        compare_quantiles(rows_of_users(2 * seed), rows_of_users(2 * seed + 1), 0.8).p_value
        for seed in range(400)
    ]
    assert np.mean(np.array(p_values) < 0.05) == pytest.approx(0.05, abs=0.03)


def test_shift_is_found_with_its_sign():
    found = compare_quantiles(rows_of_users(0, shift=2.0), rows_of_users(1), 0.5)
    assert found.treatment - found.control == found.difference
    assert found.low < 2 < found.high
    assert found.p_value < 0.001
    narrow = compare_quantiles(rows_of_users(0, shift=2.0), rows_of_users(1), 0.5, alpha=0.5)
    assert narrow.low > found.low


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_quantile_that_is_none_is_refused(share):
    with pytest.raises(ValueError, match="share between 0 and 1"):
        quantile_and_error(np.ones(3), np.arange(3), share)
