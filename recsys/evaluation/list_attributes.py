"""What ranked lists are made of, by attributes that no net has learned: topics and age.

Two nets have vectors of their own, by which neither's lists can be held against the other's;
the attributes of the items table are the same for both. Lists as in
`recsys.evaluation.metrics`.
"""

import numpy as np
from scipy.sparse import csr_array


def topic_diversity(ranked: np.ndarray, topics: csr_array, k: int) -> np.ndarray:
    """Return the mean of 1 - cosine of the topics over all pairs of the first k.

    Args:
        ranked: int [Q, K].
        topics: [N, T], 1 where an item has a topic; an item without resembles nothing.
        k: Length of the list.

    Returns:
        float64 [Q], NaN for lists of fewer than two items.
    """
    sizes = np.asarray(topics.sum(axis=1), np.float64)
    unit = csr_array(topics.multiply(1 / np.sqrt(np.maximum(sizes, 1))[:, None]))
    head = ranked[:, :k]
    filled = head >= 0
    lengths = filled.sum(axis=1)
    offsets = np.concatenate([[0], lengths.cumsum()])
    ones = np.ones(offsets[-1])
    chosen = csr_array((ones, head[filled], offsets), shape=(len(head), unit.shape[0]))
    total = chosen @ unit
    # |sum u|^2 = sum |u|^2 + 2 sum over pairs of u.v
    alone = chosen @ (sizes > 0).astype(np.float64)
    similarity = (np.asarray(total.multiply(total).sum(axis=1)) - alone) / 2
    num_pairs = lengths * (lengths - 1) / 2
    mean = np.divide(similarity, num_pairs, out=np.full(len(head), np.nan), where=num_pairs > 0)
    return 1 - mean


def mean_age(
    ranked: np.ndarray, born: np.ndarray, moments: np.ndarray, k: int, *, unknown: int
) -> np.ndarray:
    """Return the mean age of the first k at the moment of each query, in the unit of the moments.

    Args:
        ranked: int [Q, K].
        born: int64 [N], when each item came up.
        moments: int64 [Q].
        k: Length of the list.
        unknown: Value of `born` that means nobody knows; such items do not count.

    Returns:
        float64 [Q], NaN where no age is known.
    """
    head = ranked[:, :k]
    moment_born = np.append(born, unknown)[head]
    is_known = (moment_born != unknown) & (head >= 0)
    age = np.where(is_known, moments[:, None] - np.where(is_known, moment_born, 0), 0)
    counts = is_known.sum(axis=1)
    total = age.sum(axis=1, dtype=np.float64)
    return np.divide(total, counts, out=np.full(len(head), np.nan), where=counts > 0)
