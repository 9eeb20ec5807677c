import numpy as np
import pytest
from scipy import stats

from recsys.experiment.checks import divide
from recsys.experiment.effect import compare, compare_segments, user_deviation
from recsys.experiment.moments import Moments, columns_of
from recsys.experiment.sequential import always_valid
from tests.experiment.samples import moments_of_means


def test_means_are_compared_as_by_welchs_test():
    rng = np.random.default_rng(0)
    treatment, control = rng.gamma(2.0, 5.0, 40), rng.gamma(2.0, 4.0, 90)
    found = compare(Moments.of(columns_of(treatment)), Moments.of(columns_of(control)))
    theirs = stats.ttest_ind(treatment, control, equal_var=False)
    bounds = theirs.confidence_interval(0.95)
    assert found.p_value == pytest.approx(theirs.pvalue, rel=1e-10)
    assert (found.low, found.high) == pytest.approx((bounds.low, bounds.high), rel=1e-10)
    assert found.treatment == pytest.approx(treatment.mean())
    assert found.control == pytest.approx(control.mean())
    assert found.variance_cut == 0


def ratio_arm(rng, number, *, level=2.0):
    """Users' sums of a ratio metric; the users before the test are like them in the test."""
    taste = rng.gamma(4.0, 0.25, number)
    per, per_before = rng.integers(1, 30, number) * 1.0, rng.integers(1, 30, number) * 1.0
    values = level * taste * per + rng.normal(size=number)
    before = 2 * taste * per_before + rng.normal(size=number)
    return columns_of(values, per=per, before=before, per_before=per_before)


def test_plain_ratio_has_the_delta_method_error():
    rng = np.random.default_rng(0)
    treatment, control = (ratio_arm(rng, number)[:, :2] for number in (500, 800))
    found = compare(
        *(Moments.of(columns_of(arm[:, 0], per=arm[:, 1])) for arm in (treatment, control))
    )
    errors = []
    for arm in (treatment, control):
        ratio = arm[:, 0].sum() / arm[:, 1].sum()
        parts = (arm[:, 0] - ratio * arm[:, 1]) / arm[:, 1].mean()
        errors.append(parts.var(ddof=1) / len(arm))
    assert found.standard_error == pytest.approx(np.sqrt(sum(errors)), rel=1e-10)


def test_cuped_of_a_mean_is_the_regression_on_the_value_before():
    rng = np.random.default_rng(0)
    before = rng.gamma(2.0, size=1000)
    values = 3 * before + rng.normal(size=1000)
    is_treated = rng.random(1000) < 0.5
    arms = [columns_of(values[arm], before=before[arm]) for arm in (is_treated, ~is_treated)]
    found = compare(*(Moments.of(arm) for arm in arms))
    design = np.column_stack([np.ones(1000), is_treated, before])
    coefficients, squares, *_ = np.linalg.lstsq(design, values, rcond=None)
    error = np.sqrt(squares[0] / 997 * np.linalg.inv(design.T @ design)[1, 1])
    assert found.difference == pytest.approx(coefficients[1], abs=0.02 * error)
    assert found.standard_error == pytest.approx(error, rel=0.01)


@pytest.mark.parametrize("correlation", [0.0, 0.3, 0.6, 0.9])
def test_cuped_cuts_the_variance_by_the_squared_correlation(correlation):
    rng = np.random.default_rng(1)
    before, noise = rng.normal(size=(2, 200_000))
    values = correlation * before + np.sqrt(1 - correlation**2) * noise
    columns = columns_of(values, before=before)
    found = compare(Moments.of(columns[::2]), Moments.of(columns[1::2]))
    assert found.variance_cut == pytest.approx(correlation**2, abs=0.01)


def test_cuped_cut_equals_the_squared_correlation_of_equal_arms_exactly():
    rng = np.random.default_rng(0)
    before = rng.normal(size=50)
    columns = columns_of(before + rng.normal(size=50), before=before)
    found = compare(Moments.of(columns), Moments.of(columns))
    correlation = np.corrcoef(columns[:, 0], columns[:, 2])[0, 1]
    assert found.variance_cut == pytest.approx(correlation**2, abs=1e-12)


def test_cuped_ratio_keeps_its_coverage_and_is_narrower():
    rng = np.random.default_rng(2)
    users = ratio_arm(rng, 2000)
    treatment, control = divide(users, rng.random((2000, 2000)) < 0.5)
    found = compare(treatment, control)
    assert np.mean((found.low <= 0) & (found.high >= 0)) == pytest.approx(0.95, abs=0.02)
    assert found.standard_error.mean() == pytest.approx(found.difference.std(), rel=0.05)
    assert found.variance_cut.min() > 0.5


def test_lift_has_the_error_of_simulated_lifts():
    rng = np.random.default_rng(3)
    arms = [moments_of_means(rng.gamma(2.0, level, (3000, 200))) for level in (1.3, 1.0)]
    found = compare(*arms)
    covered = (found.lift_low <= 0.3) & (found.lift_high >= 0.3)
    assert covered.mean() == pytest.approx(0.95, abs=0.015)
    assert found.lift_error.mean() == pytest.approx(found.lift.std(), rel=0.05)


def test_lift_without_a_past_has_the_textbook_error():
    rng = np.random.default_rng(0)
    t, c = rng.gamma(2.0, 1.2, 300), rng.gamma(2.0, 1.0, 500)
    found = compare(Moments.of(columns_of(t)), Moments.of(columns_of(c)))
    variance = c.var(ddof=1) * t.mean() ** 2 / (c.mean() ** 4 * 500) + t.var(ddof=1) / (
        c.mean() ** 2 * 300
    )
    assert found.lift == pytest.approx(t.mean() / c.mean() - 1)
    assert found.lift_error == pytest.approx(np.sqrt(variance), rel=1e-10)


def test_lift_from_nothing_is_not_finite():
    found = compare(
        Moments.of(columns_of(np.array([1.0, 2.0]))), Moments.of(columns_of(np.zeros(3)))
    )
    assert not np.isfinite(found.lift)
    assert np.isfinite(found.difference)


def test_swapped_arms_swap_the_sign():
    rng = np.random.default_rng(0)
    first, second = (Moments.of(ratio_arm(rng, number)) for number in (50, 80))
    forth, back = compare(first, second), compare(second, first)
    assert forth.difference == pytest.approx(-back.difference)
    assert forth.low == pytest.approx(-back.high)
    assert forth.p_value == pytest.approx(back.p_value)


def test_alpha_is_the_share_outside_of_the_interval():
    rng = np.random.default_rng(0)
    arms = [Moments.of(columns_of(rng.normal(size=500))) for _ in range(2)]
    narrow, wide = (compare(*arms, alpha=alpha) for alpha in (0.2, 0.01))
    reach = (wide.high - wide.low) / (narrow.high - narrow.low)
    assert reach == pytest.approx(stats.norm.ppf(0.995) / stats.norm.ppf(0.9), rel=0.01)


def test_deviation_of_a_user_is_what_the_error_is_made_of():
    rng = np.random.default_rng(0)
    moments = Moments.of(ratio_arm(rng, 1000))
    error = compare(moments, moments).standard_error
    assert user_deviation(moments) * np.sqrt(2 / 1000) == pytest.approx(error, rel=1e-10)


def test_segments_are_corrected_for_their_number():
    rng = np.random.default_rng(0)
    shifts = {"a": 0.5, "b": 0.15, "c": 0.0, "d": 0.0}
    treatment = {s: Moments.of(columns_of(rng.normal(d, 1, 400))) for s, d in shifts.items()}
    control = {s: Moments.of(columns_of(rng.normal(size=400))) for s in shifts}
    found = compare_segments(treatment, control)
    raw = np.array([float(effect.p_value) for effect, _ in found.values()])
    # Benjamini & Hochberg by hand: the least of p n / rank over this and all larger p.
    order = np.argsort(raw)
    scaled = raw[order] * 4 / np.arange(1, 5)
    expected = np.empty(4)
    expected[order] = np.minimum.accumulate(scaled[::-1])[::-1]
    assert [p for _, p in found.values()] == pytest.approx(expected.tolist())
    assert list(found) == list(shifts)


def test_no_segments_have_no_effects():
    assert compare_segments({}, {}) == {}


@pytest.mark.parametrize("values", [np.ones(9), np.arange(9.0)])
def test_metric_that_leaves_nothing_to_chance_has_no_width(values):
    arm = Moments.of(columns_of(values, before=values))
    found = compare(arm, arm)
    assert (found.low, found.high) == pytest.approx((0, 0), abs=1e-6)
    valid = always_valid(found, 18, tuned_for=18)
    assert (valid.low, valid.high) == pytest.approx((0, 0), abs=1e-6)
