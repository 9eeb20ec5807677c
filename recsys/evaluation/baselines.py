"""What any candidate stage has to beat: popularity, co-visitation, matrix factorization.

All are fitted on the training watches and asked like the recommender: with the history of each
query, for k catalogue rows. Where a method knows fewer than k, popular items fill the list.

References:
    Linden, Smith, York, Amazon.com recommendations: item-to-item collaborative filtering, 2003.
    Hu, Koren, Volinsky, Collaborative filtering for implicit feedback datasets, ICDM 2008.
    Steck, Embarrassingly Shallow Autoencoders for Sparse Data, WWW 2019.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from implicit.cpu.als import AlternatingLeastSquares
from scipy import linalg, sparse
from threadpoolctl import threadpool_limits

MICROSECONDS_PER_HOUR = 3_600_000_000
REFRESHES_PER_WINDOW = 288
"""Recent popularity is counted anew this many times per window: every 5 minutes of a day."""
QUERY_CHUNK = 256
NUM_RECENT_PAIRED = 50
"""Newest watches of a user that count as seen together."""
NUM_RECENT_ASKED = 20
"""Newest watches of a query that vote for their neighbours."""
NUM_NEIGHBOURS = 200
ITEM_CHUNK = 1024
ALS_FACTORS = 64
ALS_ITERATIONS = 10
ALS_REGULARIZATION = 0.05
ALS_CONFIDENCE = 2.0
EASE_REGULARIZATION = 300.0
MAX_EASE_ITEMS = 20_000
"""Beyond, its dense item by item matrix takes gigabytes."""
MAX_ALS_USERS = 100_000
"""Users that factor the items; the factors of those asked are solved for anyway."""


@dataclass(frozen=True)
class Watches:
    """Watches of U users, or the histories of U queries, in CSR form, oldest first.

    Args:
        offsets: int64 [U + 1].
        items: int32 [W], catalogue rows.
        moments: int64 [W], microseconds, or None where the log knows only order.
    """

    offsets: np.ndarray
    items: np.ndarray
    moments: np.ndarray | None = None

    def __len__(self) -> int:
        """Return the number of users."""
        return len(self.offsets) - 1

    def newest(self, length: int) -> "Watches":
        """Return at most the newest watches of each user."""
        counts = np.diff(self.offsets)
        position = np.arange(len(self.items)) - np.repeat(self.offsets[:-1], counts)
        kept = position >= np.repeat(counts - length, counts)
        lengths = np.minimum(counts, length)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        return Watches(
            offsets, self.items[kept], None if self.moments is None else self.moments[kept]
        )

    def matrix(self, num_items: int) -> sparse.csr_matrix:
        """Return 1 for each user and item watched once or more: float32 [U, N]."""
        user = np.repeat(np.arange(len(self)), np.diff(self.offsets))
        ones = np.ones(len(self.items), np.float32)
        counts = sparse.csr_matrix((ones, (user, self.items)), (len(self), num_items))
        counts.data[:] = 1
        return counts


class Baseline(Protocol):
    """Recommends from histories."""

    def recommend(self, histories: Watches, k: int, *, seen_filtered: bool) -> np.ndarray:
        """Return the best k rows of each query, best first, padded with -1: int64 [Q, k]."""
        ...


class Popularity:
    """The items watched most, the same for everybody.

    Args:
        counts: int64 [N], watches of each item; items never watched are not recommended.
    """

    def __init__(self, counts: np.ndarray) -> None:
        order = np.argsort(-counts, kind="stable")
        self._order = order[: np.count_nonzero(counts)]
        self._num_items = len(counts)

    @classmethod
    def fit(cls, watches: Watches, num_items: int) -> "Popularity":
        """Count all watches."""
        return cls(np.bincount(watches.items, minlength=num_items))

    @classmethod
    def fit_recent(
        cls, watches: Watches, num_items: int, *, hours: float, until: int
    ) -> "Popularity":
        """Count the watches of the last hours before a moment.

        Args:
            watches: With moments.
            num_items: Items of the catalogue.
            hours: Length of the window.
            until: Its end, exclusive, in microseconds.
        """
        moments = _moments(watches)
        recent = (moments < until) & (moments >= until - hours * MICROSECONDS_PER_HOUR)
        return cls(np.bincount(watches.items[recent], minlength=num_items))

    def recommend(self, histories: Watches, k: int, *, seen_filtered: bool) -> np.ndarray:
        """Return the most popular k, without what each query has seen if so asked."""
        longest = int(np.diff(histories.offsets).max(initial=0)) if seen_filtered else 0
        head = self._order[: k + longest]
        out = np.full((len(histories), k), -1, np.int64)
        for start in range(0, len(histories), QUERY_CHUNK):
            part = _slice(histories, start, start + QUERY_CHUNK)
            seen = _seen(part, self._num_items) if seen_filtered else None
            free = np.ones((len(part), len(head)), bool) if seen is None else ~seen[:, head]
            place = np.cumsum(free, axis=1) - 1
            query, column = np.nonzero(free & (place < k))
            out[start + query, place[query, column]] = head[column]
        return out


class RecentPopularity:
    """The items watched most in the hours before each query: strong where items age fast.

    Counted anew every few minutes, so a query sees the watches before the last count only.

    Args:
        watches: With moments; they may reach into the test period, as a server's would.
        num_items: Items of the catalogue.
        hours: Length of the window.
    """

    def __init__(self, watches: Watches, num_items: int, *, hours: float) -> None:
        moments = _moments(watches)
        order = np.argsort(moments, kind="stable")
        self._moments, self._items = moments[order], watches.items[order]
        self._num_items = num_items
        self._window = int(hours * MICROSECONDS_PER_HOUR)

    def recommend(
        self, histories: Watches, k: int, *, seen_filtered: bool, moments: np.ndarray
    ) -> np.ndarray:
        """Return the most popular k of the window before each query's moment, int64 [Q]."""
        step = max(1, self._window // REFRESHES_PER_WINDOW)
        counted_at, group = np.unique(moments // step * step, return_inverse=True)
        start = np.searchsorted(self._moments, counted_at - self._window)
        end = np.searchsorted(self._moments, counted_at)
        out = np.full((len(histories), k), -1, np.int64)
        for number in range(len(counted_at)):
            items = self._items[start[number] : end[number]]
            popular = Popularity(np.bincount(items, minlength=self._num_items))
            queries = np.flatnonzero(group == number)
            asked = _take(histories, queries)
            out[queries] = popular.recommend(asked, k, seen_filtered=seen_filtered)
        return out


class Covisitation:
    """Items watched by the same users: cosine of their columns, summed over the history.

    Args:
        similarity: float32 [N, N], the strongest neighbours of each item (row).
        popular: Fills short lists.
    """

    def __init__(self, similarity: sparse.csr_matrix, popular: Popularity) -> None:
        self._similarity = similarity
        self._popular = popular

    @classmethod
    def fit(cls, watches: Watches, num_items: int) -> "Covisitation":
        """Count common users within the newest watches, over the root of both counts."""
        users = watches.newest(NUM_RECENT_PAIRED).matrix(num_items)
        norms = np.sqrt(np.asarray(users.sum(axis=0)).ravel())
        inverse = np.divide(1, norms, out=np.zeros_like(norms), where=norms > 0)
        unit = users @ sparse.diags(inverse)
        transposed = unit.T.tocsr()
        chunks = [
            _strongest(transposed[start : start + ITEM_CHUNK] @ unit, start)
            for start in range(0, num_items, ITEM_CHUNK)
        ]
        return cls(sparse.vstack(chunks, format="csr"), Popularity.fit(watches, num_items))

    def recommend(self, histories: Watches, k: int, *, seen_filtered: bool) -> np.ndarray:
        """Return the k items nearest to the newest watches of each query."""
        num_items = self._similarity.shape[0]
        found = np.full((len(histories), k), -1, np.int64)
        for start in range(0, len(histories), QUERY_CHUNK):
            part = _slice(histories, start, start + QUERY_CHUNK)
            votes = part.newest(NUM_RECENT_ASKED).matrix(num_items) @ self._similarity
            seen = _seen(part, num_items) if seen_filtered else None
            for q in range(len(part)):
                line = slice(votes.indptr[q], votes.indptr[q + 1])
                items, scores = votes.indices[line], votes.data[line]
                if seen is not None:
                    free = ~seen[q, items]
                    items, scores = items[free], scores[free]
                best = _best(items, scores, k)
                found[start + q, : len(best)] = best
        return _fill(found, self._popular.recommend(histories, 2 * k, seen_filtered=seen_filtered))


class MatrixFactorization:
    """Implicit-feedback ALS by the `implicit` library; users are folded in from their history.

    Args:
        model: The fitted factors.
        num_items: Items of the catalogue.
        popular: Fills the lists of queries without a history.
    """

    def __init__(self, model: Any, num_items: int, popular: Popularity) -> None:
        self._model = model
        self._num_items = num_items
        self._popular = popular

    @classmethod
    def fit(cls, watches: Watches, num_items: int, *, seed: int) -> "MatrixFactorization":
        """Factorize who watched what, over a sample of the users where there are many."""
        popular = Popularity.fit(watches, num_items)
        if len(watches) > MAX_ALS_USERS:
            rng = np.random.default_rng(seed)
            watches = _take(watches, rng.choice(len(watches), MAX_ALS_USERS, replace=False))
        with threadpool_limits(1, "blas"):  # It has threads of its own, and warns of more.
            model = AlternatingLeastSquares(
                # More factors than a small catalogue can bear would learn it by heart.
                factors=min(ALS_FACTORS, max(1, num_items // 8)),
                iterations=ALS_ITERATIONS,
                regularization=ALS_REGULARIZATION,
                alpha=ALS_CONFIDENCE,
                random_state=seed,
            )
            model.fit(watches.matrix(num_items), show_progress=False)
        return cls(model, num_items, popular)

    def recommend(self, histories: Watches, k: int, *, seen_filtered: bool) -> np.ndarray:
        """Return the k items of largest predicted preference."""
        found = np.full((len(histories), k), -1, np.int64)
        asked = np.flatnonzero(np.diff(histories.offsets) > 0)
        if len(asked):
            length = min(k, self._num_items)
            with threadpool_limits(1, "blas"):
                items, scores = self._model.recommend(
                    np.arange(len(asked)),
                    _take(histories, asked).matrix(self._num_items),
                    N=length,
                    filter_already_liked_items=seen_filtered,
                    recalculate_user=True,
                )
            # Filtered items come back with the lowest float.
            found[asked, :length] = np.where(scores > np.finfo(np.float32).min, items, -1)
        return _fill(found, self._popular.recommend(histories, 2 * k, seen_filtered=seen_filtered))


class Ease:
    """A linear model of every item from all others, in closed form (Steck 2019, eq. 8).

    Args:
        weights: float32 [N, N], B, with a zero diagonal.
        popular: Fills the lists of queries without a history.
    """

    def __init__(self, weights: np.ndarray, popular: Popularity) -> None:
        self._weights = weights
        self._popular = popular

    @classmethod
    def fit(
        cls, watches: Watches, num_items: int, *, regularization: float = EASE_REGULARIZATION
    ) -> "Ease":
        """Solve B = I - P diag(1 / P), P = (X^T X + lambda I)^-1.

        Raises:
            ValueError: More items than `MAX_EASE_ITEMS`.
        """
        if num_items > MAX_EASE_ITEMS:
            raise ValueError(
                f"EASE holds an item by item matrix: expected at most {MAX_EASE_ITEMS:,} items, "
                f"got {num_items:,}; leave it out"
            )
        users = watches.matrix(num_items)
        gram = (users.T @ users).toarray()
        gram[np.diag_indices(num_items)] += regularization
        inverse = linalg.inv(gram, overwrite_a=True, check_finite=False)
        weights = -inverse / np.diag(inverse)
        np.fill_diagonal(weights, 0)
        return cls(weights.astype(np.float32), Popularity.fit(watches, num_items))

    def recommend(self, histories: Watches, k: int, *, seen_filtered: bool) -> np.ndarray:
        """Return the k items of largest predicted preference."""
        num_items = len(self._weights)
        found = np.full((len(histories), k), -1, np.int64)
        length = min(k, num_items)
        for start in range(0, len(histories), QUERY_CHUNK):
            part = _slice(histories, start, start + QUERY_CHUNK)
            scores = part.matrix(num_items) @ self._weights
            if seen_filtered:
                scores[_seen(part, num_items)] = -np.inf
            best = np.argsort(-scores, axis=1, kind="stable")[:, :length]
            known = np.take_along_axis(scores, best, axis=1) > -np.inf
            has_history = np.diff(part.offsets)[:, None] > 0
            found[start : start + len(part), :length] = np.where(known & has_history, best, -1)
        return _fill(found, self._popular.recommend(histories, 2 * k, seen_filtered=seen_filtered))


def _moments(watches: Watches) -> np.ndarray:
    if watches.moments is None:
        raise ValueError("recent popularity needs watches with moments; this log knows only order")
    return watches.moments


def _slice(histories: Watches, start: int, stop: int) -> Watches:
    offsets = histories.offsets[start : stop + 1]
    return Watches(offsets - offsets[0], histories.items[offsets[0] : offsets[-1]])


def _take(histories: Watches, queries: np.ndarray) -> Watches:
    lengths = np.diff(histories.offsets)[queries]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
    return Watches(
        offsets, histories.items[np.repeat(histories.offsets[queries], lengths) + within]
    )


def _seen(histories: Watches, num_items: int) -> np.ndarray:
    """Return which items each history holds: bool [Q, N]."""
    seen = np.zeros((len(histories), num_items), bool)
    query = np.repeat(np.arange(len(histories)), np.diff(histories.offsets))
    seen[query, histories.items] = True
    return seen


def _strongest(similarity: sparse.csr_matrix, first_row: int) -> sparse.csr_matrix:
    """Keep the strongest neighbours of each row, without the item itself."""
    rows, columns, values = [], [], []
    for r in range(similarity.shape[0]):
        line = slice(similarity.indptr[r], similarity.indptr[r + 1])
        items, scores = similarity.indices[line], similarity.data[line]
        others = items != first_row + r
        items, scores = items[others], scores[others]
        best = np.argsort(-scores, kind="stable")[:NUM_NEIGHBOURS]
        rows.append(np.full(len(best), r))
        columns.append(items[best])
        values.append(scores[best])
    content = np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))
    return sparse.csr_matrix(content, similarity.shape, dtype=np.float32)


def _best(items: np.ndarray, scores: np.ndarray, k: int) -> np.ndarray:
    """Return the k items of largest score, ties by the smaller row."""
    return items[np.lexsort((items, -scores))[:k]]


def _fill(found: np.ndarray, fallback: np.ndarray) -> np.ndarray:
    """Complete short lists with fallback items that they do not hold.

    Args:
        found: int64 [Q, k], padded with -1.
        fallback: int64 [Q, 2 k], enough of which are not among those found.
    """
    k = found.shape[1]
    for q in np.flatnonzero((found < 0).any(axis=1)):
        own = found[q][found[q] >= 0]
        others = fallback[q][(fallback[q] >= 0) & ~np.isin(fallback[q], own)]
        completed = np.concatenate([own, others])[:k]
        found[q, : len(completed)] = completed
    return found
