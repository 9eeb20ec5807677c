"""The candidate stage of a request: user vector, index, exact removal of what may not be shown.

The index is asked for more than is needed by as much as the request rules out. Where that was
not enough (a narrow filter, a user who saw nearly everything) all eligible items are scored
exactly, so a filter never costs an answer and an approximate index is never trusted to filter.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recsys.bundle import Bundle
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
        self, vectors: np.ndarray, restrictions: Sequence[Restrictions], num_candidates: int
    ) -> list[Candidates]:
        """Return the best eligible items of each user.

        Args:
            vectors: float32 [Q, interests, D].
            restrictions: Of each request.
            num_candidates: How many at most.
        """
        wanted = [self._num_fetched(each, num_candidates) for each in restrictions]
        found: list[Candidates | None] = [None] * len(wanted)
        for k in sorted(set(wanted)):
            members = [position for position, value in enumerate(wanted) if value == k]
            merged = self._search(vectors[members], k)
            for position, (rows, scores) in zip(members, merged, strict=True):
                candidates = self._keep(rows, scores, restrictions[position], num_candidates)
                if len(candidates.rows) < num_candidates and k < self._num_indexed:
                    candidates = self._exact(
                        vectors[position], restrictions[position], num_candidates
                    )
                found[position] = candidates
        return [candidates for candidates in found if candidates is not None]

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

    def _exact(
        self, vectors: np.ndarray, restrictions: Restrictions, num_candidates: int
    ) -> Candidates:
        scores = (self._bundle.item_vectors @ vectors.T).max(axis=1)
        rows = np.argsort(-scores, kind="stable")
        return self._keep(rows, scores[rows], restrictions, num_candidates)

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
