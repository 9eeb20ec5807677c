import numpy as np
import pytest
from scipy import stats

from recsys.errors import ComparisonError
from recsys.experiment.checks import check_sample_ratio, divide, self_test
from recsys.experiment.effect import compare
from recsys.experiment.moments import Moments, columns_of


def test_planned_shares_pass_with_the_p_value_of_chi_square():
    found = check_sample_ratio({"b": 330, "a": 670}, {"a": 2 / 3, "b": 1 / 3})
    deviation = (670 - 2000 / 3) ** 2 / (2000 / 3) + (330 - 1000 / 3) ** 2 / (1000 / 3)
    assert found == pytest.approx(stats.chi2.sf(deviation, 1))


def test_lost_users_are_refused():
    # 821,588 and 815,482 users at equal shares: p = 1.8e-6.
    with pytest.raises(ComparisonError, match=r"sample ratio mismatch.*815482.*p = 1\.8e-06"):
        check_sample_ratio({"a": 821_588, "b": 815_482}, {"a": 0.5, "b": 0.5})


def test_other_arms_than_planned_are_refused():
    with pytest.raises(ValueError, match=r"arms \['a', 'b'\], got \['a'\]"):
        check_sample_ratio({"a": 10}, {"a": 0.5, "b": 0.5})


def test_no_users_are_no_mismatch():
    assert check_sample_ratio({"a": 0, "b": 0}, {"a": 0.5, "b": 0.5}) == 1


def past_users(number=600, seed=0):
    rng = np.random.default_rng(seed)
    before = rng.gamma(1.0, size=number)
    return columns_of(
        before + rng.gamma(1.0, size=number) + 1e4,
        per=rng.integers(1, 9, number) * 1.0,
        before=before,
        per_before=rng.integers(1, 9, number) * 1.0,
    )


def test_divisions_side_by_side_equal_each_alone():
    columns = past_users(50)
    is_treated = np.random.default_rng(1).random((7, 50)) < 0.4
    together = compare(*divide(columns, is_treated))
    for e, row in enumerate(is_treated):
        alone = compare(Moments.of(columns[row]), Moments.of(columns[~row]))
        assert together.difference[e] == pytest.approx(float(alone.difference), rel=1e-9)
        assert together.p_value[e] == pytest.approx(float(alone.p_value), rel=1e-6)


def test_sound_analysis_passes_its_self_test():
    found = self_test(past_users(), num_experiments=4000, seed=0)
    assert found.is_sound
    assert len(found.p_values) == 4000
    assert found.rejected == pytest.approx(0.05, abs=0.015)
    assert stats.kstest(found.p_values, "uniform").pvalue > 0.001


def test_rows_taken_for_users_fail_the_self_test():
    # Ten rows a user, taken as users of their own but divided as they were.
    rng = np.random.default_rng(0)
    levels = rng.normal(size=(200, 1))
    rows = (levels + 0.3 * rng.normal(size=(200, 10))).ravel()

    def by_row(treatment, control):
        pooled = Moments(treatment.num_users * 10, treatment.mean, treatment.covariance)
        return compare(pooled, Moments(control.num_users * 10, control.mean, control.covariance))

    found = self_test(
        columns_of(rows.reshape(200, 10).mean(axis=1)),
        num_experiments=1000,
        seed=0,
        compare_arms=by_row,
    )
    assert not found.is_sound
    assert found.rejected > 0.3


def test_self_test_in_chunks_uses_every_experiment(monkeypatch):
    from recsys.experiment import checks

    monkeypatch.setattr(checks, "MAX_ASSIGNMENTS", 6000)
    found = self_test(past_users(), num_experiments=25, seed=0)
    assert len(np.unique(found.p_values)) == 25
