"""When a loss is lost, by hand: a start of 1, then a rise."""

import math

import pytest

from recsys.core.loss_level import LossLevel


def steps_until_problem(losses, *, examples=None, max_ratio=10.0):
    level = LossLevel()
    for number, loss in enumerate(losses, start=1):
        level.add(loss, examples[number - 1] if examples else 4)
        if level.problem(loss, max_ratio):
            return number
    return None


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("at", [1, 17])
def test_loss_that_is_not_finite_is_a_problem_at_once(bad, at):
    assert steps_until_problem([1.0] * (at - 1) + [bad]) == at


def test_explosion_is_seen_when_the_newest_mean_passes_the_ratio():
    # Long after the start the newest mean is 1; a step of L moves it by (L - 1) / 16.
    assert steps_until_problem([1.0] * 300 + [150.0, 1.0, 1.0]) == 301
    assert steps_until_problem([1.0] * 300 + [140.0, 1.0, 1.0]) is None
    assert steps_until_problem([1.0] * 300 + [140.0, 30.0, 1.0]) == 302


def test_rise_below_the_ratio_is_none():
    assert steps_until_problem([1.0] * 50 + [9.9] * 500) is None
    assert steps_until_problem([1.0] * 50 + [10.1] * 500) is not None
    assert steps_until_problem([1.0] * 50 + [9.9] * 500, max_ratio=5) is not None


def test_rise_from_a_learned_low_to_the_start_is_none():
    assert steps_until_problem([7.0] * 20 + [0.001] * 200 + [7.0] * 50) is None


def test_first_steps_only_say_where_it_starts():
    assert steps_until_problem([0.01] + [50.0] * 15 + [50.0] * 20) is None


def test_step_of_one_example_weighs_as_one():
    losses = [1.0] * 50 + [1000.0]
    assert steps_until_problem(losses, examples=[100] * 50 + [1]) is None
    assert steps_until_problem(losses, examples=[100] * 50 + [100]) == 51


def test_losses_below_zero_have_no_ratio():
    assert steps_until_problem([-1.0] * 20 + [500.0] * 20) is None
