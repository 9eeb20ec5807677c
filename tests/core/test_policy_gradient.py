"""Against central differences in float64, and in a world of ten items whose best is known."""

import numpy as np
import pytest
import tensorflow as tf

from recsys.core.backends import to_numpy
from recsys.core.policy_gradient import (
    off_policy_weight,
    policy_gradient_loss,
    top_k_multiplier,
)

UNCAPPED = 1e12


def softmax(logits):
    exponentials = np.exp(logits - logits.max())
    return exponentials / exponentials.sum()


def chance_times_reward(logits, rewards, top_k):
    """Return sum_a (1 - (1 - pi_a)^K) R_a: what is to be as large as can be."""
    return float((1 - (1 - softmax(logits)) ** top_k) @ rewards)


def mean_gradient(logits, behaviour, rewards, *, top_k, cap=UNCAPPED):
    """Return the gradient of the loss in the logits, all actions logged as often as beta says."""
    variable = tf.Variable(logits)
    with tf.GradientTape() as tape:
        log_policy = tf.nn.log_softmax(variable)
        values = policy_gradient_loss(
            log_policy, tf.constant(np.log(behaviour)), rewards, top_k=top_k, cap=cap
        )
        loss = tf.reduce_sum(behaviour * values)
    return tape.gradient(loss, variable).numpy()


@pytest.mark.parametrize("top_k", [1, 2, 16])
def test_mean_gradient_is_that_of_the_chance_to_be_shown_times_the_reward(top_k):
    rng = np.random.default_rng(0)
    logits, rewards = rng.normal(size=6), rng.gamma(1, 3, 6)
    behaviour = softmax(rng.normal(size=6))
    found = mean_gradient(logits, behaviour, rewards, top_k=top_k)
    step = 1e-6 * np.eye(6)
    slopes = [
        chance_times_reward(logits + each, rewards, top_k)
        - chance_times_reward(logits - each, rewards, top_k)
        for each in step
    ]
    np.testing.assert_allclose(found, -np.array(slopes) / 2e-6, rtol=1e-6, atol=1e-9)


def test_hand_worked_loss():
    # pi = .25, beta = .125: omega 2, lambda 3 (3/4)^2, reward 4.
    loss = policy_gradient_loss(np.log([0.25]), np.log([0.125]), np.array([4.0]), top_k=3, cap=10.0)
    assert float(to_numpy(loss)[0]) == pytest.approx(2 * 3 * 0.5625 * 4 * -np.log(0.25))


def test_weight_is_capped_and_never_overflows():
    log_policy = np.log(np.array([0.5, 0.5, 0.1], np.float32))
    log_behaviour = np.array([np.log(0.25), -200.0, np.log(0.2)], np.float32)
    found = to_numpy(off_policy_weight(log_policy, log_behaviour, cap=3.0))
    np.testing.assert_allclose(found, [2.0, 3.0, 0.5], rtol=1e-6)


def test_multiplier_is_k_for_the_rare_and_nothing_for_the_sure():
    log_policy = np.log(np.array([1e-9, 0.5, 1.0]))
    np.testing.assert_allclose(
        to_numpy(top_k_multiplier(log_policy, top_k=4)), [4, 4 * 0.125, 0], atol=1e-6
    )
    np.testing.assert_allclose(to_numpy(top_k_multiplier(log_policy, top_k=1)), 1)


def learned(gradient, steps=4000, rate=0.05):
    logits = np.zeros(10)
    for _ in range(steps):
        step = gradient(logits)
        # Adam's habit of equal steps, in its simplest form.
        logits -= rate * step / (np.abs(step).max() + 1e-3)
    return softmax(logits)


@pytest.fixture(scope="module")
def ten_items():
    """Rewards 1 to 10, and a logger that shows most what pays least."""
    rewards = np.arange(1.0, 11)
    behaviour = (11 - rewards) ** 2 / ((11 - rewards) ** 2).sum()
    return behaviour, rewards


def cross_entropy_gradient(logits, behaviour):
    return softmax(logits) - behaviour


def corrected_gradient(logits, behaviour, rewards, top_k):
    """Return the gradient as `mean_gradient`, by NumPy alone: its own twin is checked above."""
    policy = softmax(logits)
    multiplier = top_k * (1 - policy) ** (top_k - 1)
    weighted = policy * multiplier * rewards
    return policy * weighted.sum() - weighted


def test_twin_of_the_ten_item_world_is_the_loss(ten_items):
    behaviour, rewards = ten_items
    logits = np.random.default_rng(0).normal(size=10)
    for top_k in (1, 3):
        np.testing.assert_allclose(
            corrected_gradient(logits, behaviour, rewards, top_k),
            mean_gradient(logits, behaviour, rewards, top_k=top_k),
            rtol=1e-9,
        )


def test_cross_entropy_copies_the_logger_and_the_correction_finds_the_best(ten_items):
    behaviour, rewards = ten_items
    copied = learned(lambda logits: cross_entropy_gradient(logits, behaviour))
    np.testing.assert_allclose(copied, behaviour, atol=0.01)
    corrected = learned(lambda logits: corrected_gradient(logits, behaviour, rewards, 1))
    assert corrected.argmax() == 9
    assert corrected[9] > 0.9


def test_multiplier_spreads_the_policy_over_what_is_shown_together(ten_items):
    behaviour, _ = ten_items
    rewards = np.array([1.0] * 8 + [9, 10])
    alone = learned(lambda logits: corrected_gradient(logits, behaviour, rewards, 1))
    together = learned(lambda logits: corrected_gradient(logits, behaviour, rewards, 2))
    assert alone[9] > 0.9
    assert together[8] > 0.3
    assert together[9] > 0.3
    assert set(np.argsort(-together)[:2].tolist()) == {8, 9}
