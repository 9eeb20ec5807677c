import numpy as np
import pytest

from recsys.off_policy.slates import (
    cascade_doubly_robust,
    item_position_ips,
    reward_interaction_ips,
)
from tests.off_policy.exact_logs import FIRST, exact_pages, page_probability

ITEMS = range(3)


def place_weights(log):
    """Ratios of P(item at the place), whatever stands above."""
    marginal = {}
    for name, first in FIRST.items():
        second = [
            sum(
                first[top] * page_probability(first, (top, item))[1] for top in ITEMS if top != item
            )
            for item in ITEMS
        ]
        marginal[name] = np.array([first, second])
    places = np.arange(2)
    return (marginal["target"] / marginal["logging"])[places, log.pages]


def model_of(log):
    """A model of the rewards to come, rather wrong, and its mean over what the target draws."""
    first = FIRST["target"]

    def below(top, item):
        return 1.5 + top + item

    def below_mean(top):
        return sum(
            page_probability(first, (top, item))[1] * below(top, item)
            for item in ITEMS
            if item != top
        )

    def to_come(top):
        return 0.5 * top + below_mean(top)

    predicted = np.array([[to_come(top), below(top, item)] for top, item in log.pages])
    start = sum(first[top] * to_come(top) for top in ITEMS)
    expected = np.array([[start, below_mean(top)] for top, _ in log.pages])
    return predicted, expected


def test_reward_interaction_makes_no_error_on_an_exact_log():
    log = exact_pages()
    assert reward_interaction_ips(log.weights, log.rewards).value == pytest.approx(log.value)


def test_cascade_makes_no_error_on_an_exact_log_though_its_model_does():
    log = exact_pages()
    found = cascade_doubly_robust(log.weights, log.rewards, *model_of(log))
    assert found.value == pytest.approx(log.value, abs=1e-12)
    assert np.std(found.above) < np.std(reward_interaction_ips(log.weights, log.rewards).above)


def test_cascade_without_a_model_is_reward_interaction():
    log = exact_pages()
    nothing = np.zeros(log.rewards.shape)
    found = cascade_doubly_robust(log.weights, log.rewards, nothing, nothing).value
    assert found == reward_interaction_ips(log.weights, log.rewards).value


def test_item_position_is_right_only_where_places_do_not_interact():
    apart, together = exact_pages(interacts=False), exact_pages()
    found = item_position_ips(place_weights(apart), apart.rewards)
    assert found.value == pytest.approx(apart.value, abs=1e-12)
    wrong = item_position_ips(place_weights(together), together.rewards)
    assert abs(wrong.value - together.value) > 0.05


def test_hand_worked_page():
    weights, rewards = np.array([[2.0, 0.5, 3.0]]), np.array([[1.0, 10.0, 100.0]])
    assert item_position_ips(weights, rewards).value == 2 + 5 + 300
    assert reward_interaction_ips(weights, rewards).value == 2 + 10 + 300
    predicted, expected = np.array([[1.0, 2.0, 3.0]]), np.array([[5.0, 7.0, 9.0]])
    found = cascade_doubly_robust(weights, rewards, predicted, expected).value
    assert found == (5 + 2 * 0) + (2 * 7 + 1 * 8) + (1 * 9 + 3 * 97)


def test_padded_places_change_nothing():
    weights, rewards = np.array([[2.0, 0.5]]), np.array([[1.0, 10.0]])
    padded = np.array([[2.0, 0.5, 1.0]]), np.array([[1.0, 10.0, 0.0]])
    for estimate in (item_position_ips, reward_interaction_ips):
        assert estimate(weights, rewards).value == estimate(*padded).value


def test_pages_of_other_lengths_are_refused():
    with pytest.raises(ValueError, match=r"\[1, 2\] and \[1, 3\]"):
        item_position_ips(np.ones((1, 2)), np.ones((1, 3)))
