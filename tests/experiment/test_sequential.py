import numpy as np
import pytest
from scipy import integrate, stats

from recsys.experiment.effect import compare
from recsys.experiment.moments import Moments, columns_of
from recsys.experiment.sequential import always_valid, mixture_variance, multiplier, width_ratio
from tests.experiment.samples import moments_of_means


@pytest.mark.parametrize(
    ("share", "ratio"), [(0.1, 1.967), (0.5, 1.573), (1, 1.549), (2, 1.562), (10, 1.654)]
)
def test_interval_is_as_much_wider_as_published(share, ratio):
    assert width_ratio(share * 5000, tuned_for=5000) == pytest.approx(ratio, abs=5e-4)


def test_interval_is_tightest_about_where_it_is_tuned_for():
    numbers = np.geomspace(10, 1e6, 2001)
    tightest = numbers[np.argmin(multiplier(numbers, tuned_for=5000))]
    assert 0.8 < tightest / 5000 < 1.25


def test_p_value_is_the_mixture_of_likelihood_ratios():
    rng = np.random.default_rng(0)
    arms = [Moments.of(columns_of(rng.normal(shift, 1, 300))) for shift in (0.25, 0)]
    effect = compare(*arms)
    valid = always_valid(effect, 600, tuned_for=1000)
    d, s = float(effect.difference), float(effect.standard_error)
    prior = s * np.sqrt(600 * mixture_variance(1000, 0.05))

    def weighted(theta):
        ratio = stats.norm.pdf(d, theta, s) / stats.norm.pdf(d, 0, s)
        return ratio * stats.norm.pdf(theta, 0, prior)

    evidence = integrate.quad(weighted, -10 * prior, 10 * prior, points=[d])[0]
    assert valid.p_value == pytest.approx(1 / evidence, rel=1e-6)


def test_p_value_and_interval_agree():
    rng = np.random.default_rng(0)
    for shift in np.linspace(0, 0.4, 30):
        arms = [Moments.of(columns_of(rng.normal(level, 1, 200))) for level in (shift, 0)]
        valid = always_valid(compare(*arms), 400, tuned_for=400)
        assert (valid.p_value < 0.05) == (valid.low > 0 or valid.high < 0)


def test_twenty_looks_find_effects_that_are_none_at_most_as_often_as_alpha():
    values = np.random.default_rng(0).gamma(1.0, size=(2, 2000, 1000))
    found_fixed, found_valid, outside = (np.zeros(2000, bool) for _ in range(3))
    for number in range(50, 1001, 50):
        fixed = compare(*(moments_of_means(arm[:, :number]) for arm in values))
        valid = always_valid(fixed, 2 * number, tuned_for=2000)
        found_fixed |= fixed.p_value < 0.05
        found_valid |= valid.p_value < 0.05
        outside |= (valid.low > 0) | (valid.high < 0)
    assert found_fixed.mean() > 0.2
    assert 0 < found_valid.mean() <= 0.05
    assert (outside == found_valid).all()


def test_lift_widens_like_the_difference():
    rng = np.random.default_rng(0)
    arms = [Moments.of(columns_of(rng.gamma(2.0, level, 500))) for level in (1.2, 1)]
    fixed = compare(*arms)
    valid = always_valid(fixed, 1000, tuned_for=1000)
    wider = (valid.high - valid.low) / (fixed.high - fixed.low)
    assert wider == pytest.approx(width_ratio(1000, tuned_for=1000), rel=0.01)
    assert valid.lift_high - valid.lift_low == pytest.approx(
        wider * (fixed.lift_high - fixed.lift_low), rel=1e-9
    )


def test_p_value_is_never_above_one():
    same = Moments.of(columns_of(np.arange(50.0)))
    assert always_valid(compare(same, same), 100, tuned_for=100).p_value == 1
