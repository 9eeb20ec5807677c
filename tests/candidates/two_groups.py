"""A world with a known answer: each user watches items of one of two groups, never of both."""

import numpy as np

from recsys.candidates.sequences import join_labels
from recsys.data.examples import TRAINING
from tests.candidates.small_log import settings_of, shard_of

NUM_ITEMS, NUM_USERS, LENGTH = 12, 80, 12
GROUP = np.arange(NUM_ITEMS) % 2
"""Even rows are one group, odd ones the other."""


def training_labels(watches):
    """Return all watches but each user's last, which is validation."""
    return join_labels([shard_of(watches)], settings_of(), split=TRAINING, num_trained=NUM_ITEMS)


def two_groups():
    """Return the labels of the world: user u watches group u mod 2."""
    rng = np.random.default_rng(0)
    return training_labels(
        [2 * rng.integers(0, NUM_ITEMS // 2, LENGTH) + user % 2 for user in range(NUM_USERS)]
    )


def cosines(rows):
    """Return the mean cosine of pairs of one group, and of pairs of both."""
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosine, is_same = rows @ rows.T, GROUP[:, None] == GROUP
    is_pair = ~np.eye(NUM_ITEMS, dtype=bool)
    return cosine[is_same & is_pair].mean(), cosine[~is_same].mean()
