"""The candidate stage of a request: user vector, index, exact removal of what may not be shown.

The index is asked for more than is needed by as much as the request rules out. Where that was
not enough (a narrow filter, a user who saw nearly everything) all eligible items are scored
exactly, so a filter never costs an answer and an approximate index is never trusted to filter.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recsys.bundle import Bundle
from recsys.candidates.successors import SuccessorCounts
from recsys.candidates.user_tower import successor_weights
from recsys.eligibility import REASONS, Eligibility, Restrictions

FETCH_STEP = 128
"""k is rounded up to a multiple, so that few different k reach the index."""


@dataclass(frozen=True)
class Candidates:
    """Candidates of one request, best first.

    Args:
        rows: int32 [C], catalogue rows; scores: float32 [C].
        source: Where they come from: `candidate_net` or `popular`.
        dropped: Reason -> how many were removed on the way.
    """

    rows: np.ndarray
    scores: np.ndarray
    source: str
    dropped: dict[str, int]


class Retrieval:
    """Finds the candidates of requests in one bundle."""

    def __init__(self, bundle: Bundle, eligibility: Eligibility) -> None:
        self._bundle = bundle
        self._eligibility = eligibility
        self._num_indexed = len(bundle.index)

    def by_vector(
        self,
        vectors: np.ndarray,
        restrictions: Sequence[Restrictions],
        num_candidates: int,
        successions: SuccessorCounts | None = None,
    ) -> list[Candidates]:
        """Return the best eligible items of each user.

        Args:
            vectors: float32 [Q, interests, D].
            restrictions: Of each request.
            num_candidates: How many at most.
            successions: Of each user; what they add to the scores is added exactly, to few items.
        """
        gains = self._gains(vectors, successions)
        wanted = [self._num_fetched(each, num_candidates) for each in restrictions]
        found: list[Candidates | None] = [None] * len(wanted)
        for k in sorted(set(wanted)):
            members = [position for position, value in enumerate(wanted) if value == k]
            merged = self._search(vectors[members], k)
            for position, (rows, scores) in zip(members, merged, strict=True):
                lowest = -np.inf if k >= self._num_indexed else scores.min(initial=np.inf)
                rows, scores = self._with_gains(
                    rows, scores, vectors[position], gains[position], lowest
                )
                candidates = self._keep(rows, scores, restrictions[position], num_candidates)
                if len(candidates.rows) < num_candidates and k < self._num_indexed:
                    candidates = self._exact(
                        vectors[position], restrictions[position], num_candidates, gains[position]
                    )
                found[position] = candidates
        return [candidates for candidates in found if candidates is not None]

    def all_scores(
        self, vectors: np.ndarray, successions: SuccessorCounts | None = None
    ) -> np.ndarray:
        """Return the score of every item for one user: float32 [1, interests, D] -> [N]."""
        return self._exact_scores(vectors[0], self._gains(vectors, successions)[0])

    def popular(self, restrictions: Restrictions, num_candidates: int) -> Candidates:
        """Return the most popular eligible items: the answer when the net or index fails."""
        rows = np.asarray(self._bundle.popular)
        scores = 1 / np.arange(1, len(rows) + 1, dtype=np.float32)
        return self._keep(rows, scores, restrictions, num_candidates, source="popular")

    def _num_fetched(self, restrictions: Restrictions, num_candidates: int) -> int:
        needed = num_candidates + len(restrictions.watched) + len(restrictions.excluded) + 1
        rounded = -(-needed // FETCH_STEP) * FETCH_STEP
        return max(1, min(rounded, self._num_indexed))

    def _search(self, vectors: np.ndarray, k: int) -> list[tuple[np.ndarray, np.ndarray]]:
        num_queries, interests, width = vectors.shape
        scores, rows = self._bundle.index.search(vectors.reshape(-1, width), k)
        scores = scores.reshape(num_queries, interests * k)
        rows = rows.reshape(num_queries, interests * k)
        return [_merge(*pair) for pair in zip(rows, scores, strict=True)]

    def _gains(
        self, vectors: np.ndarray, successions: SuccessorCounts | None
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the rows that gain by the successors, and how much, for each user."""
        if successions is None:
            return [(np.zeros(0, np.int64), np.zeros(0, np.float32))] * len(vectors)
        weights = successor_weights(vectors[:, 0], self._bundle.settings.candidates)
        gained = (weights[successions.query] * successions.columns).sum(axis=1)
        ends = np.searchsorted(successions.query, np.arange(1, len(vectors)))
        rows = np.split(successions.code.astype(np.int64) - 1, ends)
        return list(zip(rows, np.split(gained, ends), strict=True))

    def _with_gains(
        self,
        rows: np.ndarray,
        scores: np.ndarray,
        vectors: np.ndarray,
        gains: tuple[np.ndarray, np.ndarray],
        lowest: float,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Score the rows that gain exactly, beside those that the index found.

        A gain may be below zero. A row that it takes under the lowest score that was found might
        stand behind rows that were not: it is left out, and comes back where all rows are scored.
        """
        if len(gains[0]) == 0:
            return rows, scores
        others = ~np.isin(rows, gains[0])
        own = (self._bundle.item_vectors[gains[0]] @ vectors.T).max(axis=1) + gains[1]
        is_sure = own >= lowest
        rows = np.concatenate([rows[others], gains[0][is_sure]])
        scores = np.concatenate([scores[others], own[is_sure]]).astype(np.float32)
        order = np.lexsort((rows, -scores))
        return rows[order], scores[order]

    def _exact(
        self,
        vectors: np.ndarray,
        restrictions: Restrictions,
        num_candidates: int,
        gains: tuple[np.ndarray, np.ndarray],
    ) -> Candidates:
        scores = self._exact_scores(vectors, gains)
        rows = np.argsort(-scores, kind="stable")
        return self._keep(rows, scores[rows], restrictions, num_candidates)

    def _exact_scores(
        self, vectors: np.ndarray, gains: tuple[np.ndarray, np.ndarray]
    ) -> np.ndarray:
        scores = (self._bundle.item_vectors @ vectors.T).max(axis=1)
        scores[gains[0]] += gains[1]
        return scores

    def _keep(
        self,
        rows: np.ndarray,
        scores: np.ndarray,
        restrictions: Restrictions,
        num_candidates: int,
        *,
        source: str = "candidate_net",
    ) -> Candidates:
        reasons = self._eligibility.reasons(rows, restrictions)
        kept = np.flatnonzero(reasons == 0)[:num_candidates]
        counts = np.bincount(reasons, minlength=len(REASONS))
        dropped = {REASONS[code]: int(n) for code, n in enumerate(counts) if code and n}
        return Candidates(rows[kept].astype(np.int32), scores[kept], source, dropped)


def _merge(rows: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Order the finds of all interests by score, each row once, at its best."""
    valid = rows >= 0
    rows, scores = rows[valid], scores[valid]
    order = np.lexsort((rows, -scores))
    _, first = np.unique(rows[order], return_index=True)
    chosen = order[np.sort(first)]
    return rows[chosen], scores[chosen]
