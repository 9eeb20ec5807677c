import numpy as np
import pytest

from recsys.experiment.effect import compare
from recsys.experiment.power import (
    difference_error,
    minimum_detectable_effect,
    power_of,
    users_needed,
)
from recsys.experiment.sequential import multiplier
from tests.experiment.samples import moments_of_means


def test_rule_of_thumb_of_sixteen():
    # 15.7 variances over the squared difference an arm, at 80 % and 5 %.
    assert users_needed(1.5, 0.01) / 2 == pytest.approx(15.7 * 1.5**2 / 0.01**2, rel=1e-3)


def test_error_of_unequal_arms():
    assert difference_error(3.0, 1000, treatment_share=0.2) == pytest.approx(
        np.sqrt(9 / 200 + 9 / 800)
    )


@pytest.mark.parametrize("share", [0.5, 0.1])
@pytest.mark.parametrize("reach", [1.96, 3.0])
def test_three_questions_have_one_answer(share, reach):
    options = {"treatment_share": share, "reach": reach}
    number = users_needed(2.0, 0.1, power=0.9, **options)
    assert minimum_detectable_effect(2.0, number, power=0.9, **options) == pytest.approx(
        0.1, rel=1e-3
    )
    assert power_of(2.0, 0.1, number, **options) == pytest.approx(0.9, abs=1e-3)


def test_power_of_no_effect_is_alpha_and_of_either_sign_the_same():
    assert power_of(1.0, 0.0, 100) == pytest.approx(0.05)
    assert power_of(1.0, -0.4, 100) == pytest.approx(power_of(1.0, 0.4, 100))


def test_simulated_tests_find_an_effect_as_often_as_foreseen():
    rng = np.random.default_rng(0)
    foreseen = power_of(np.sqrt(2), 0.3, 600)
    values = rng.gamma(2.0, size=(2, 2000, 300))
    found = compare(moments_of_means(values[0] + 0.3), moments_of_means(values[1])).p_value < 0.05
    assert np.mean(found) == pytest.approx(foreseen, abs=0.03)


def test_power_equals_that_of_statsmodels():
    power = pytest.importorskip("statsmodels.stats.power")
    theirs = power.NormalIndPower().power(0.2, 150, 0.05, ratio=3.0)
    assert power_of(1.0, 0.2, 600, treatment_share=0.25) == pytest.approx(theirs, abs=1e-10)


def test_watching_a_test_takes_more_users():
    watched = users_needed(1.0, 0.1, reach=float(multiplier(1000, tuned_for=1000)))
    ratio = ((3.0358 + 0.8416) / (1.95996 + 0.8416)) ** 2
    assert watched / users_needed(1.0, 0.1) == pytest.approx(ratio, rel=0.01)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_arm_without_users_is_refused(share):
    with pytest.raises(ValueError, match="treatment share between 0 and 1"):
        minimum_detectable_effect(1.0, 100, treatment_share=share)


def test_more_power_takes_more_users():
    assert users_needed(1.0, 0.1, power=0.9) > users_needed(1.0, 0.1, power=0.8)
