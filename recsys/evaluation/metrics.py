"""Metrics of ranked lists over a full catalogue, one value a query.

Lists are int [Q, K], best first, without repetition, padded with -1. A metric at k looks at the
first k columns; where a query has nothing relevant, it is 0. Values stay per query, so that
`recsys.evaluation.intervals` can resample users. Definitions are those of trec_eval.

References:
    Jarvelin, Kekalainen, Cumulated gain-based evaluation of IR techniques, TOIS 2002.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MAX_MARKS = 1 << 22
"""Items times queries marked at once: 4 MB, so that they stay in the cache."""
QUERY_CHUNK = 1 << 16
"""Queries measured at once: ten million of them need no more memory than these."""


@dataclass(frozen=True)
class Relevant:
    """The relevant items of Q queries, as sets in CSR form.

    Args:
        offsets: int64 [Q + 1]; query q owns `items[offsets[q]:offsets[q + 1]]`.
        items: int [R], rows of the catalogue, none twice within a query.
    """

    offsets: np.ndarray
    items: np.ndarray

    @classmethod
    def single(cls, targets: np.ndarray) -> "Relevant":
        """Return one relevant item a query: int [Q]."""
        return cls(np.arange(len(targets) + 1), targets)

    def counts(self) -> np.ndarray:
        """Return how many items are relevant to each query: int64 [Q]."""
        return np.diff(self.offsets)

    def part(self, start: int, stop: int) -> "Relevant":
        """Return the sets of some neighbouring queries."""
        offsets = self.offsets[start : stop + 1]
        return Relevant(offsets - offsets[0], self.items[offsets[0] : offsets[-1]])


def find_hits(ranked: np.ndarray, relevant: Relevant) -> np.ndarray:
    """Return which positions hold a relevant item: bool [Q, K].

    Args:
        ranked: int [Q, K].
        relevant: Of the same Q queries.

    Raises:
        ValueError: The number of queries differs, or a list holds an item twice.
    """
    num_queries = len(relevant.offsets) - 1
    if ranked.ndim != 2 or len(ranked) != num_queries:
        raise ValueError(f"expected lists [{num_queries}, K], got {list(ranked.shape)}")
    width = int(max(ranked.max(initial=0), relevant.items.max(initial=0))) + 2
    hits = np.empty(ranked.shape, bool)
    rows = max(1, min(MAX_MARKS // width, QUERY_CHUNK))
    # A line a query, its last column never marked: -1 falls on that of the line before.
    marks = np.zeros(rows * width, bool)
    for start in range(0, num_queries, rows):
        stop = min(start + rows, num_queries)
        _check_distinct(ranked[start:stop], start)
        part = relevant.part(start, stop)
        line = np.arange(stop - start, dtype=np.int64) * width
        wanted = np.repeat(line, part.counts()) + part.items
        marks[wanted] = True
        hits[start:stop] = marks[line[:, None] + ranked[start:stop]]
        marks[wanted] = False
    return hits


def hit_rate(hits: np.ndarray, k: int) -> np.ndarray:
    """Return 1 where one of the first k is relevant, else 0: bool [Q, K] -> float64 [Q]."""
    return np.asarray(hits[:, :k].any(axis=1), np.float64)


def precision(hits: np.ndarray, k: int) -> np.ndarray:
    """Return the relevant share of k places, filled or not: bool [Q, K] -> float64 [Q]."""
    return np.asarray(hits[:, :k].sum(axis=1) / k)


def recall(hits: np.ndarray, num_relevant: np.ndarray, k: int) -> np.ndarray:
    """Return the share of the relevant items that are among the first k.

    Args:
        hits: bool [Q, K].
        num_relevant: int64 [Q].
        k: Length of the list.

    Returns:
        float64 [Q].
    """
    return hits[:, :k].sum(axis=1) / np.maximum(num_relevant, 1)


def ndcg(hits: np.ndarray, num_relevant: np.ndarray, k: int) -> np.ndarray:
    """Return the discounted gain, 1 / log2(1 + rank) a hit, over that of the best list.

    Args:
        hits: bool [Q, K].
        num_relevant: int64 [Q].
        k: Length of the list; the best list holds min(k, num_relevant) hits.

    Returns:
        float64 [Q].
    """
    discount = 1 / np.log2(np.arange(k) + 2)
    gain = hits[:, :k] @ discount[: hits.shape[1]]
    ideal = np.concatenate([[1.0], np.cumsum(discount)])
    # ideal[0] only avoids 0 / 0: without relevant items there is no gain.
    return gain / ideal[np.minimum(num_relevant, k)]


def reciprocal_rank(hits: np.ndarray, k: int) -> np.ndarray:
    """Return 1 / rank of the first hit among k, 0 without: bool [Q, K] -> float64 [Q]."""
    first = hits[:, :k].argmax(axis=1)
    return hit_rate(hits, k) / (first + 1)


def average_precision(hits: np.ndarray, num_relevant: np.ndarray, k: int) -> np.ndarray:
    """Return the precision at each hit among the first k, summed, over the relevant items.

    Args:
        hits: bool [Q, K].
        num_relevant: int64 [Q].
        k: Length of the list.

    Returns:
        float64 [Q].
    """
    head = hits[:, :k]
    precisions = np.cumsum(head, axis=1) / np.arange(1, head.shape[1] + 1)
    return (precisions * head).sum(axis=1) / np.maximum(num_relevant, 1)


def ranking_metrics(
    ranked: np.ndarray, relevant: Relevant, ks: Sequence[int]
) -> dict[str, np.ndarray]:
    """Return every accuracy metric at every k, by name (`hr@10`): float64 [Q] each."""
    hits, counts = find_hits(ranked, relevant), relevant.counts()
    parts = [
        _part_metrics(hits[start : start + QUERY_CHUNK], counts[start : start + QUERY_CHUNK], ks)
        for start in range(0, max(len(hits), 1), QUERY_CHUNK)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def catalogue_coverage(ranked: np.ndarray, num_items: int, k: int) -> float:
    """Return the share of the catalogue that appears among the first k of any list."""
    head = ranked[:, :k]
    return len(np.unique(head[head >= 0])) / max(num_items, 1)


def popularity_percentile(ranked: np.ndarray, watch_counts: np.ndarray, k: int) -> np.ndarray:
    """Return the mean popularity of the first k: 1 the most watched item, 0 the least.

    Args:
        ranked: int [Q, K].
        watch_counts: int64 [N], watches in the training data; items of equal count share the
            middle of their places.
        k: Length of the list.

    Returns:
        float64 [Q], NaN for an empty list.
    """
    _, group, sizes = np.unique(watch_counts, return_inverse=True, return_counts=True)
    middle = np.cumsum(sizes) - (sizes + 1) / 2
    percentile = middle[group] / max(len(watch_counts) - 1, 1)
    return _mean_of_items(ranked[:, :k], percentile)


def novelty(ranked: np.ndarray, watch_counts: np.ndarray, k: int) -> np.ndarray:
    """Return the mean surprise -log2 p of the first k, in bits.

    Args:
        ranked: int [Q, K].
        watch_counts: int64 [N]; p is the item's share of all watches, each item counted once
            more than it was watched, so that one never watched is finite.
        k: Length of the list.

    Returns:
        float64 [Q], NaN for an empty list.
    """
    share = (watch_counts + 1) / (watch_counts.sum() + len(watch_counts))
    return _mean_of_items(ranked[:, :k], -np.log2(share))


def intra_list_diversity(ranked: np.ndarray, vectors: np.ndarray, k: int) -> np.ndarray:
    """Return the mean of 1 - cosine over all pairs of the first k.

    Args:
        ranked: int [Q, K].
        vectors: float [N, D], or topics as 0 and 1; a zero vector resembles nothing.
        k: Length of the list.

    Returns:
        float64 [Q], NaN for lists of fewer than two items.
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.divide(vectors, lengths, out=np.zeros(vectors.shape), where=lengths > 0)
    head = ranked[:, :k]
    diversity = np.full(len(head), np.nan)
    for q, items in enumerate(head):
        members = unit[items[items >= 0]]
        num_pairs = len(members) * (len(members) - 1) / 2
        if num_pairs:
            # |sum u|^2 = sum |u|^2 + 2 sum over pairs of u.v
            total = members.sum(axis=0)
            similarity = (total @ total - (members**2).sum()) / 2
            diversity[q] = 1 - similarity / num_pairs
    return diversity


def _part_metrics(hits: np.ndarray, counts: np.ndarray, ks: Sequence[int]) -> dict[str, np.ndarray]:
    metrics = {}
    for k in ks:
        metrics[f"hr@{k}"] = hit_rate(hits, k)
        metrics[f"recall@{k}"] = recall(hits, counts, k)
        metrics[f"precision@{k}"] = precision(hits, k)
        metrics[f"ndcg@{k}"] = ndcg(hits, counts, k)
        metrics[f"mrr@{k}"] = reciprocal_rank(hits, k)
        metrics[f"map@{k}"] = average_precision(hits, counts, k)
    return metrics


def _check_distinct(ranked: np.ndarray, first_query: int) -> None:
    ordered = np.sort(ranked, axis=1)
    repeated = ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any(axis=1)
    if repeated.any():
        raise ValueError(
            f"expected lists without repetition, but list "
            f"{first_query + int(repeated.argmax())} "
            f"holds an item twice"
        )


def _mean_of_items(items: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the mean value of each list's items: int [Q, k], [N] -> float64 [Q]."""
    filled = items >= 0
    total = np.where(filled, values[np.where(filled, items, 0)], 0.0).sum(axis=1)
    counts = filled.sum(axis=1)
    return np.divide(total, counts, out=np.full(len(items), np.nan), where=counts > 0)
