import numpy as np
import pytest

from recsys.errors import ComparisonError
from recsys.off_policy import estimators
from recsys.off_policy.policies import (
    LoggedRows,
    Target,
    estimate_difference,
    estimate_terms,
    estimate_value,
)

LOGGING = np.array([0.4, 0.3, 0.2, 0.1])
TARGET = np.array([0.1, 0.2, 0.3, 0.4])
OTHER = np.array([0.25, 0.25, 0.25, 0.25])
REWARD = np.array([1.0, 2.0, 4.0, 3.0])
MODEL = np.array([1.2, 1.9, 3.5, 3.5])


def draw_log(number=20_000, num_users=2_000, seed=0):
    """Items of a known policy; users differ in what they give to any item."""
    rng = np.random.default_rng(seed)
    items = rng.choice(4, number, p=LOGGING)
    users = rng.integers(num_users, size=number)
    rewards = REWARD[items] + rng.normal(size=num_users)[users] + rng.normal(size=number)
    return LoggedRows(rewards, LOGGING[items], users), items


def target_of(policy, items, *, with_model=True):
    if not with_model:
        return Target(policy[items])
    return Target(policy[items], MODEL[items], np.full(len(items), policy @ MODEL))


def test_every_interval_but_the_models_own_covers_the_truth():
    log, items = draw_log()
    found = estimate_value(log, target_of(TARGET, items), rounds=300, seed=0)
    assert found.overlap.num_rows == 20_000
    for name in ("ips", "snips", "doubly_robust", "switch_doubly_robust", "shrunk_doubly_robust"):
        interval = found.estimates[name]
        assert interval.low < TARGET @ REWARD < interval.high, name
    # The model knows no noise: it is sure, and wrong.
    assert found.estimates["direct_method"].value == pytest.approx(TARGET @ MODEL)


def test_without_a_model_there_are_three_estimates():
    log, items = draw_log()
    target = target_of(TARGET, items, with_model=False)
    found = estimate_value(log, target, rounds=10, seed=0)
    assert list(found.estimates) == ["ips", "clipped_ips", "snips"]


def test_difference_is_that_of_the_values():
    log, items = draw_log()
    first, second = target_of(TARGET, items), target_of(OTHER, items)
    found = estimate_difference(log, first, second, rounds=300, seed=0)
    values = [estimate_value(log, one, rounds=10, seed=0) for one in (first, second)]
    for name, interval in found.items():
        apart = values[0].estimates[name].value - values[1].estimates[name].value
        assert interval.value == pytest.approx(apart, abs=1e-12)
    assert found["doubly_robust"].low < (TARGET - OTHER) @ REWARD < found["doubly_robust"].high


def test_difference_is_paired_over_users():
    log, items = draw_log()
    first, second = target_of(TARGET, items), target_of(OTHER, items)
    together = estimate_difference(log, first, second, rounds=300, seed=0)["snips"]
    apart = [
        estimate_value(log, one, rounds=300, seed=0).estimates["snips"] for one in (first, second)
    ]
    widths = [interval.high - interval.low for interval in apart]
    assert together.high - together.low < 0.8 * np.hypot(*widths)


def test_policy_does_not_differ_from_itself():
    log, items = draw_log()
    target = target_of(TARGET, items)
    for interval in estimate_difference(log, target, target, rounds=50, seed=0).values():
        assert (interval.value, interval.low, interval.high) == (0, 0, 0)


def test_logging_policy_has_the_value_of_its_log():
    log, items = draw_log()
    found = estimate_value(log, target_of(LOGGING, items), rounds=50, seed=0)
    for name in ("ips", "snips", "clipped_ips"):
        assert found.estimates[name].value == pytest.approx(log.rewards.mean(), abs=1e-12)


def test_terms_use_the_limits_that_are_told():
    log, items = draw_log()
    target = target_of(TARGET, items)
    terms, limits = estimate_terms(log, target)
    weights = (TARGET / LOGGING)[items]
    again = estimators.shrunk_doubly_robust(
        weights,
        log.rewards,
        target.predicted,
        target.expected,
        shrinkage=limits["shrunk_doubly_robust"],
    )
    assert terms["shrunk_doubly_robust"].value == again.value


def test_log_without_propensities_is_refused():
    log, items = draw_log()
    with pytest.raises(ComparisonError, match="the log has none"):
        estimate_value(
            LoggedRows(log.rewards, None, log.users), target_of(TARGET, items), rounds=10, seed=0
        )


def test_target_of_unseen_items_is_refused_on_either_side():
    log, items = draw_log()
    # Half of its choices are of a fifth item, which the log does not know.
    half = Target(TARGET[items] / 2)
    sound = target_of(OTHER, items, with_model=False)
    for pair in ((half, sound), (sound, half)):
        with pytest.raises(ComparisonError, match="never shows"):
            estimate_difference(log, *pair, rounds=10, seed=0)


def test_model_for_one_policy_only_is_refused():
    log, items = draw_log()
    with pytest.raises(ComparisonError, match="for both policies or for neither"):
        estimate_difference(
            log,
            target_of(TARGET, items),
            target_of(OTHER, items, with_model=False),
            rounds=10,
            seed=0,
        )


def test_interval_over_users_is_wider_than_over_rows_where_users_differ():
    log, items = draw_log(num_users=500)
    by_row = LoggedRows(log.rewards, log.propensities, np.arange(len(items)))
    target = target_of(TARGET, items)
    users, rows = (
        estimate_value(one, target, rounds=300, seed=0).estimates["doubly_robust"]
        for one in (log, by_row)
    )
    assert users.high - users.low > 1.3 * (rows.high - rows.low)
