import numpy as np
import pytest

from recsys.errors import ComparisonError
from recsys.experiment.trend import clustered_regression, effect_trend


def days_of_users(effects, *, num_users=2000, seed=0):
    """Users' values on each day; the treatment adds an effect that changes with the day."""
    rng = np.random.default_rng(seed)
    users = np.repeat(np.arange(num_users), len(effects))
    days = np.tile(np.arange(len(effects)), num_users)
    is_treated = users % 2 == 0
    values = rng.normal(size=num_users)[users] + 0.5 * rng.normal(size=len(users)) - 0.1 * days
    return values + is_treated * np.array(effects)[days], days, is_treated, users


@pytest.mark.parametrize(
    ("effects", "reading"),
    [
        ([1.0, 0.8, 0.6, 0.4, 0.2], "novelty"),
        ([0.2, 0.4, 0.6, 0.8, 1.0], "primacy"),
        ([-1.0, -0.8, -0.6, -0.4, -0.2], "novelty"),
        ([0.6] * 5, "steady"),
    ],
)
def test_trend_is_read_from_the_days(effects, reading):
    values, days, is_treated, users = days_of_users(effects)
    found = effect_trend(values, days, is_treated, users)
    assert found.reading == reading
    assert found.slope == pytest.approx(effects[1] - effects[0], abs=4 * found.standard_error)
    np.testing.assert_allclose(found.effect_by_day, effects, atol=0.2)


def test_effect_of_a_day_is_the_difference_of_its_means():
    values, days, is_treated, users = days_of_users([1.0, 2.0], num_users=10)
    found = effect_trend(values, days, is_treated, users)
    for day in (0, 1):
        arms = [values[(days == day) & (is_treated == arm)].mean() for arm in (True, False)]
        assert found.effect_by_day[day] == pytest.approx(arms[0] - arms[1])


def test_trends_that_are_none_are_found_as_often_as_by_chance():
    found = [
        effect_trend(*days_of_users([0.3] * 4, num_users=200, seed=seed)).p_value
        for seed in range(400)
    ]
    assert np.mean(np.array(found) < 0.05) == pytest.approx(0.05, abs=0.03)


def test_regression_equals_the_slow_twin():
    rng = np.random.default_rng(0)
    users = rng.integers(0, 12, 60)
    design = np.column_stack([np.ones(60), rng.normal(size=(60, 2))])
    values = rng.normal(size=60)
    found, covariance = clustered_regression(design, values, users)
    expected = np.linalg.lstsq(design, values, rcond=None)[0]
    meat = np.zeros((3, 3))
    for user in range(12):
        own = users == user
        score = design[own].T @ (values[own] - design[own] @ expected)
        meat += np.outer(score, score)
    bread = np.linalg.inv(design.T @ design)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    np.testing.assert_allclose(covariance, 12 / 11 * 59 / 57 * bread @ meat @ bread, rtol=1e-10)


def test_regression_equals_that_of_statsmodels():
    api = pytest.importorskip("statsmodels.api")
    values, days, is_treated, users = days_of_users([1.0, 0.5, 0.2], num_users=50)
    design = np.column_stack([np.ones(150), is_treated, days, is_treated * days])
    theirs = api.OLS(values, design).fit(cov_type="cluster", cov_kwds={"groups": users})
    found, covariance = clustered_regression(design, values, users)
    np.testing.assert_allclose(found, theirs.params, rtol=1e-9)
    np.testing.assert_allclose(covariance, theirs.cov_params(), rtol=1e-9)


def test_single_day_has_no_trend():
    values, days, is_treated, users = days_of_users([1.0])
    with pytest.raises(ComparisonError, match="two days or more"):
        effect_trend(values, days, is_treated, users)
