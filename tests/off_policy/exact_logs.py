"""Logs whose shares are exactly their probabilities: on them unbiased estimators make no error.

Two contexts, three items. The log holds each (context, item) as often as the logging policy shows
it in 40 impressions, with its mean reward, so that every sum is an expectation.
"""

from dataclasses import dataclass
from itertools import permutations

import numpy as np

COUNTS = np.array([[10, 6, 4], [2, 8, 10]])
LOGGING = COUNTS / 20
TARGET = np.array([[0.1, 0.2, 0.7], [0.6, 0.4, 0.0]])
REWARD = np.array([[1.0, 3.0, 5.0], [2.0, 0.5, 4.0]])
MODEL = np.array([[1.5, 2.0, 4.0], [1.0, 1.0, 1.0]])
"""A model of the rewards, rather wrong."""
VALUE = float((TARGET * REWARD).sum() / 2)


@dataclass(frozen=True)
class ExactLog:
    context: np.ndarray
    item: np.ndarray
    weights: np.ndarray
    rewards: np.ndarray
    predicted: np.ndarray
    expected: np.ndarray


def exact_log():
    context, item = (
        np.repeat(places, COUNTS.ravel()) for places in np.indices(COUNTS.shape).reshape(2, -1)
    )
    at = (context, item)
    return ExactLog(
        context=context,
        item=item,
        weights=TARGET[at] / LOGGING[at],
        rewards=REWARD[at],
        predicted=MODEL[at],
        expected=(TARGET * MODEL).sum(axis=1)[context],
    )


FIRST = {"logging": np.array([0.5, 0.25, 0.25]), "target": np.array([0.125, 0.5, 0.375])}
"""P(item at the top); what follows is drawn among the rest, in proportion."""


@dataclass(frozen=True)
class ExactPages:
    """All pages of two of three items, as often as the logging policy shows them.

    The reward at the second place depends on the item above it.
    """

    pages: np.ndarray
    weights: np.ndarray
    rewards: np.ndarray
    value: float


def page_probability(first, page):
    """Probability of each place given those above: without replacement, in proportion."""
    top, below = page
    return np.array([first[top], first[below] / (1 - first[top])])


def page_rewards(page, *, interacts):
    top, below = page
    return np.array([1.0 + top, 2.0 + below + (3.0 * top if interacts else 0.0)])


def exact_pages(*, interacts=True):
    every = list(permutations(range(3), 2))
    conditional = {
        name: np.array([page_probability(first, page) for page in every])
        for name, first in FIRST.items()
    }
    rewards = np.array([page_rewards(page, interacts=interacts) for page in every])
    value = float(conditional["target"].prod(axis=1) @ rewards.sum(axis=1))
    counts = conditional["logging"].prod(axis=1) * 24
    np.testing.assert_allclose(counts, np.rint(counts), atol=1e-12)
    row = np.repeat(np.arange(len(every)), np.rint(counts).astype(int))
    weights = conditional["target"] / conditional["logging"]
    return ExactPages(np.array(every)[row], weights[row], rewards[row], value)
