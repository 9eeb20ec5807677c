"""Metrics of predicted watch time and of scores, over impressions.

XAUC, the share of pairs in the right order, is published in three versions that differ by what
a pair of equal true values counts. All three are given, with the share of such pairs; a pair of
equal predictions counts half in each, so that none depends on the order of the rows.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Xauc:
    """The share of pairs in the right order, by what pairs of equal true values count.

    Args:
        ties_correct: They count 1 (as in the code of CWM, KDD 2024).
        ties_wrong: They count 0.
        ties_dropped: They are left out: 0.5 for random predictions. The one we mean by `xauc`.
        tied_share: Share of them among all pairs.
    """

    ties_correct: float
    ties_wrong: float
    ties_dropped: float
    tied_share: float


@dataclass(frozen=True)
class CalibrationTable:
    """Bins of equal frequency by prediction.

    Args:
        predicted, true: float64 [M], means of the bin.
        counts: int64 [M].
    """

    predicted: np.ndarray
    true: np.ndarray
    counts: np.ndarray


def mae(true: np.ndarray, predicted: np.ndarray) -> float:
    """Return the mean absolute error: float [N] twice."""
    return float(np.abs(predicted - true).mean())


def rmse(true: np.ndarray, predicted: np.ndarray) -> float:
    """Return the root of the mean squared error: float [N] twice."""
    return float(np.sqrt(np.square(predicted - true, dtype=np.float64).mean()))


def seconds_ratio(true: np.ndarray, predicted: np.ndarray) -> float:
    """Return the sum of the predictions over the true sum, NaN where that is 0."""
    total = float(true.sum(dtype=np.float64))
    return float(predicted.sum(dtype=np.float64)) / total if total else float("nan")


def xauc(true: np.ndarray, predicted: np.ndarray) -> Xauc:
    """Count all pairs in O(n log n), exactly.

    Args:
        true: float [N].
        predicted: float [N]; only its order counts.

    Returns:
        NaN wherever there is no pair to count.
    """
    true_rank, predicted_rank = _dense_ranks(true), _dense_ranks(predicted)
    num_pairs = len(true) * (len(true) - 1) // 2
    tied_true, tied_predicted = _tied_pairs(true_rank), _tied_pairs(predicted_rank)
    both = _tied_pairs(true_rank * (predicted_rank.max(initial=0) + 1) + predicted_rank)
    # Sorted by the truth, with equal ones by prediction, every inversion is a wrong pair.
    order = np.lexsort((predicted_rank, true_rank))
    wrong = count_inversions(predicted_rank[order])
    comparable = num_pairs - tied_true
    half = tied_predicted - both
    right = comparable - wrong - half + half / 2
    return Xauc(
        ties_correct=_ratio(right + tied_true, num_pairs),
        ties_wrong=_ratio(right, num_pairs),
        ties_dropped=_ratio(right, comparable),
        tied_share=_ratio(tied_true, num_pairs),
    )


def count_inversions(ranks: np.ndarray) -> int:
    """Count the pairs i < j with ranks[i] > ranks[j].

    A radix sort from the highest bit down: among values that agree above a bit, each 1 before
    a 0 at that bit is an inversion, and no pair is one at two bits.

    Args:
        ranks: int64 [N], not negative.
    """
    total = 0
    for bit in reversed(range(int(ranks.max(initial=0)).bit_length())):
        ones = (ranks >> bit) & 1
        ones_before = np.cumsum(ones) - ones
        group = ranks >> (bit + 1)
        is_first = np.append(True, group[1:] != group[:-1])
        start = np.flatnonzero(is_first)[np.cumsum(is_first) - 1]
        ones_before -= ones_before[start]
        total += int(ones_before[ones == 0].sum())
        ranks = ranks[np.argsort(ranks >> bit, kind="stable")]
    return total


def gauc(users: np.ndarray, labels: np.ndarray, scores: np.ndarray) -> float:
    """Return the AUC within users, weighted by their impressions.

    Users with one class only are left out; equal scores count half.

    Args:
        users: int [N].
        labels: bool [N].
        scores: float [N].

    Returns:
        NaN where no user has both classes.
    """
    values, weights = user_aucs(users, labels, scores)
    return _ratio(float(values @ weights), float(weights.sum()))


def user_ndcg(users: np.ndarray, gains: np.ndarray, scores: np.ndarray, k: int) -> float:
    """Return the mean over users of NDCG@k of their rows, with graded gains.

    sum of gain / log2(1 + rank) over the k best by score, over the same of the k best by gain
    (Jarvelin & Kekalainen 2002). Equal scores stay in the order of rows.

    Args:
        users: int [N].
        gains: float [N], at least 0.
        scores: float [N].
        k: Length of the lists.

    Returns:
        NaN where no user has two rows and a gain.
    """
    _, user, count = np.unique(users, return_inverse=True, return_counts=True)
    found, best = (
        np.bincount(user, _discounted(user, gains, order, k), len(count))
        for order in (scores, gains)
    )
    chosen = (count > 1) & (best > 0)
    return _ratio(float((found[chosen] / best[chosen]).sum()), int(chosen.sum()))


def user_aucs(
    users: np.ndarray, labels: np.ndarray, scores: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return each user's AUC and number of impressions, in order of user.

    Args:
        users: int [N].
        labels: bool [N].
        scores: float [N].

    Returns:
        float64 [V] AUC and int64 [V] impressions, of the V users with both classes.
    """
    _check_labels(labels)
    _, user = np.unique(users, return_inverse=True)
    impressions = np.bincount(user)
    positives = np.bincount(user, labels)
    negatives = impressions - positives
    start = np.cumsum(impressions) - impressions
    # Mann-Whitney: the positives' ranks within the user, less those they would have alone.
    rank_sum = np.bincount(user, labels * (_middle_ranks(user, scores) - start[user]))
    chosen = (positives > 0) & (negatives > 0)
    right = (rank_sum - positives * (positives + 1) / 2)[chosen]
    return right / (positives * negatives)[chosen], impressions[chosen]


def weighted_user_loss(
    pages: np.ndarray, labels: np.ndarray, watch_seconds: np.ndarray, scores: np.ndarray
) -> float:
    """Return the share of watch time that is mispredicted, over pairs of a page.

    A pair is a watched and an unwatched impression of one page (of one user, where the log knows
    no pages). Where the unwatched one scores higher, the watch time of the other is mispredicted;
    an equal score counts half. Section 4.3 of the 2016 paper.

    Args:
        pages: int [N].
        labels: bool [N], watched.
        watch_seconds: float [N].
        scores: float [N].

    Returns:
        NaN where no pair has watch time.
    """
    _check_labels(labels)
    _, page = np.unique(pages, return_inverse=True)
    negatives = np.bincount(page, ~labels)
    positives_first = _negatives_below(page, labels, scores)
    seconds = np.where(labels, watch_seconds, 0.0)
    total = float(seconds @ negatives[page])
    return _ratio(float(seconds @ (negatives[page] - positives_first)), total)


def calibration_table(
    true: np.ndarray, predicted: np.ndarray, num_bins: int = 20
) -> CalibrationTable:
    """Compare mean prediction and mean truth in bins of equal frequency.

    Args:
        true: float [N].
        predicted: float [N].
        num_bins: At most; fewer with fewer rows.
    """
    order = np.argsort(predicted, kind="stable")
    bins = np.array_split(order, max(1, min(num_bins, len(order)))) if len(order) else []
    return CalibrationTable(
        np.array([predicted[rows].mean(dtype=np.float64) for rows in bins]),
        np.array([true[rows].mean(dtype=np.float64) for rows in bins]),
        np.array([len(rows) for rows in bins], np.int64),
    )


def _negatives_below(page: np.ndarray, labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return how many negatives of its page each row beats, ties half: float64 [N]."""
    order = np.lexsort((scores, page))
    negative = (~labels[order]).astype(np.int64)
    before = np.cumsum(negative) - negative
    first_of_page = np.searchsorted(page[order], page[order])
    is_first, group = _runs(page[order], scores[order])
    starts = np.flatnonzero(is_first)
    equal = np.add.reduceat(negative, starts)[group] if len(starts) else negative
    out = np.empty(len(page))
    out[order] = before[starts[group]] - before[first_of_page] + equal / 2
    return out


def _middle_ranks(user: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return ranks from 1 by (user, score), equal ones sharing the middle: float64 [N]."""
    order = np.lexsort((scores, user))
    is_first, group = _runs(user[order], scores[order])
    starts = np.flatnonzero(is_first)
    sizes = np.diff(np.append(starts, len(order)))
    ranks = np.empty(len(order))
    ranks[order] = (starts + (sizes + 1) / 2)[group]
    return ranks


def _runs(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where a new pair of values begins, bool [N], and the number of its run, [N]."""
    changed = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
    is_first = np.append(np.ones(min(1, len(first)), bool), changed)
    return is_first, np.cumsum(is_first) - 1


def _discounted(user: np.ndarray, gains: np.ndarray, order: np.ndarray, k: int) -> np.ndarray:
    """Discount the gain of each row by its rank within the user, 0 beyond the k best."""
    rows = np.lexsort((-order, user))
    first = np.searchsorted(user[rows], user)
    rank = np.empty(len(user), np.int64)
    rank[rows] = np.arange(len(user))
    rank -= first
    return np.where(rank < k, gains / np.log2(rank + 2), 0.0)


def _check_labels(labels: np.ndarray) -> None:
    if labels.dtype != bool:
        raise ValueError(
            f"expected bool labels, got {labels.dtype}; leave rows of unknown label out first"
        )


def _dense_ranks(values: np.ndarray) -> np.ndarray:
    return np.unique(values, return_inverse=True)[1].astype(np.int64)


def _tied_pairs(ranks: np.ndarray) -> int:
    _, counts = np.unique(ranks, return_counts=True)
    return int((counts * (counts - 1) // 2).sum())


def _ratio(numerator: float, denominator: float) -> float:
    return float(numerator / denominator) if denominator else float("nan")
