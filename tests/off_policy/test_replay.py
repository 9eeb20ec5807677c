import numpy as np
import pytest

from recsys.errors import ComparisonError
from recsys.off_policy.replay import plan_replay, replay

NUM_ITEMS = 20
VALUES = np.linspace(1, 3, NUM_ITEMS)


def random_log(number=40_000, seed=0):
    rng = np.random.default_rng(seed)
    items = rng.integers(NUM_ITEMS, size=number)
    users = rng.integers(number // 10, size=number)
    return items, VALUES[items] + rng.normal(size=number), users


def test_matched_rows_have_the_policys_value():
    items, rewards, users = random_log()
    chosen = np.tile([19, 0, 5], (len(items), 1))
    found = replay(items, chosen, rewards, users, num_items=NUM_ITEMS, rounds=200, seed=0)
    truth = VALUES[[19, 0, 5]].mean()
    assert found.value.low < truth < found.value.high
    assert found.value.value == rewards[np.isin(items, [19, 0, 5])].mean()
    assert found.matched_rows == pytest.approx(found.plan.matched_rows, rel=0.05)


def test_padding_matches_nothing():
    items, rewards, users = random_log()
    shorter = replay(
        items, np.full((len(items), 1), 7), rewards, users, num_items=20, rounds=10, seed=0
    )
    padded = np.tile([7, -1], (len(items), 1))
    found = replay(items, padded, rewards, users, num_items=20, rounds=10, seed=0)
    assert found.matched_rows == shorter.matched_rows
    assert found.value.value == shorter.value.value


def test_plan_of_independent_rows_is_the_textbook_one():
    items, rewards, _ = random_log()
    plan = plan_replay(items, rewards, np.arange(len(items)), num_items=NUM_ITEMS, list_length=2)
    assert plan.matched_rows == 4000
    assert plan.standard_error == pytest.approx(rewards.std() / np.sqrt(4000), rel=1e-3)
    reach = 1.959964 + 0.841621
    expected = reach * rewards.std() * np.sqrt(2 / 4000)
    assert plan.minimum_detectable_effect == pytest.approx(expected, rel=1e-3)


def test_plan_foresees_the_error_of_the_answer():
    items, rewards, users = random_log()
    rewards = rewards + np.random.default_rng(1).normal(size=users.max() + 1)[users]
    chosen = np.tile(np.arange(10), (len(items), 1))
    found = replay(items, chosen, rewards, users, num_items=NUM_ITEMS, rounds=1000, seed=0)
    error = (found.value.high - found.value.low) / (2 * 1.96)
    # The log's rewards vary over all 20 items, those of the list over ten.
    assert error < found.plan.standard_error < 1.25 * error


def test_users_whose_rows_are_alike_count_for_less():
    items, _, users = random_log()
    rewards = np.random.default_rng(0).normal(size=users.max() + 1)[users]
    plans = [
        plan_replay(items, rewards, of, num_items=NUM_ITEMS, list_length=10)
        for of in (users, np.arange(len(items)))
    ]
    # Ten rows a user: half of them match, 1 + 9 / 2 (and sizes differ: a tenth more).
    assert (plans[0].standard_error / plans[1].standard_error) ** 2 == pytest.approx(6, rel=0.1)


def test_log_of_a_policy_is_refused():
    items, rewards, users = random_log()
    kept = (items > 4) | (np.arange(len(items)) % 2 == 0)
    with pytest.raises(ComparisonError, match="items drawn uniformly from 20"):
        plan_replay(items[kept], rewards[kept], users[kept], num_items=20, list_length=1)


def test_item_numbers_beyond_the_catalogue_are_refused():
    items, rewards, users = random_log()
    with pytest.raises(ComparisonError, match="among 20 items"):
        plan_replay(items, rewards, users, num_items=19, list_length=1)


def test_policy_that_never_matches_is_refused():
    items, rewards, users = random_log()
    with pytest.raises(ComparisonError, match="number the items alike"):
        replay(items, np.full((len(items), 1), -1), rewards, users, num_items=20, rounds=10, seed=0)


@pytest.mark.parametrize("list_length", [0, 21])
def test_impossible_lists_are_refused(list_length):
    items, rewards, users = random_log()
    with pytest.raises(ValueError, match="list of 1 to 20"):
        plan_replay(items, rewards, users, num_items=NUM_ITEMS, list_length=list_length)
