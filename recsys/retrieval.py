"""The candidate stage of a request: user vector, index, exact removal of what may not be shown.

The index is asked for more than is needed by as much as the request rules out. Where that was
not enough (a narrow filter, a user who saw nearly everything) all eligible items are scored
exactly, so a filter never costs an answer and an approximate index is never trusted to filter.
Where a request names the items that it allows, these are scored and the index is not asked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from recsys.bundle import Bundle
from recsys.candidates.successors import SuccessorCounts
from recsys.candidates.user_tower import successor_weights
from recsys.eligibility import REASONS, Eligibility, Restrictions
from recsys.index.exact import score_rows

CANDIDATE_NET, POPULAR, ALLOWED = "candidate_net", "popular", "allowed"
FETCH_STEP = 128
"""k is rounded up to a multiple, so that few different k reach the index."""


@dataclass(frozen=True)
class Candidates:
    """Candidates of one request, best first.

    Args:
        rows: int32 [C], catalogue rows.
        scores: float32 [C], of the candidate net, whichever source found them; NaN, and behind all
            others, where there is no vector, or no net.
        found_by: Source -> float32 [C], its own scores, NaN where it did not find the candidate.
        dropped: Reason -> how many were removed on the way.
    """

    rows: np.ndarray
    scores: np.ndarray
    found_by: Mapping[str, np.ndarray]
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
        gains = self.gains(vectors, successions)
        wanted = [self._num_fetched(each, num_candidates) for each in restrictions]
        found: list[Candidates | None] = [None] * len(wanted)
        for position, limit in enumerate(restrictions):
            if limit.allowed is not None:
                found[position] = self._allowed(
                    vectors[position], limit, num_candidates, gains[position]
                )
        open_to_all = [position for position, each in enumerate(found) if each is None]
        for k in sorted({wanted[position] for position in open_to_all}):
            members = [position for position in open_to_all if wanted[position] == k]
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
        return self._exact_scores(vectors[0], self.gains(vectors, successions)[0])

    def popular(self, restrictions: Restrictions, num_candidates: int) -> Candidates:
        """Return the most popular eligible items: the answer when the net or index fails."""
        rows = np.asarray(self._bundle.popular)
        own = 1 / np.arange(1, len(rows) + 1, dtype=np.float32)
        scores = np.full(len(rows), np.nan, np.float32)
        return self._keep(rows, scores, restrictions, num_candidates, source=POPULAR, own=own)

    def gains(
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

    def scores_of(
        self, rows: np.ndarray, vectors: np.ndarray, gains: tuple[np.ndarray, np.ndarray]
    ) -> np.ndarray:
        """Return the net's scores of some items for one user, as the index would give them.

        Args:
            rows: int [n], catalogue rows, each once.
            vectors: float32 [interests, D].
            gains: Of the user, see `gains`.

        Returns:
            float32 [n], NaN where an item has no vector.
        """
        scores = np.full(len(rows), np.nan, np.float32)
        known = np.flatnonzero(rows < len(self._bundle.item_vectors))
        of_interests = [
            score_rows(self._bundle.item_vectors, vector, rows[known]) for vector in vectors
        ]
        scores[known] = np.max(of_interests, axis=0)
        _, own, gaining = np.intersect1d(rows, gains[0], return_indices=True)
        scores[own] += gains[1][gaining]
        return scores

    def _num_fetched(self, restrictions: Restrictions, num_candidates: int) -> int:
        needed = num_candidates + len(restrictions.watched) + len(restrictions.excluded) + 1
        rounded = -(-needed // FETCH_STEP) * FETCH_STEP
        return max(1, min(rounded, self._num_indexed))

    def _search(self, vectors: np.ndarray, k: int) -> list[tuple[np.ndarray, np.ndarray]]:
        num_queries, interests, width = vectors.shape
        scores, rows = self._bundle.index.search(vectors.reshape(-1, width), k)
        if not np.isfinite(scores[rows >= 0]).all():
            raise FloatingPointError("the index gave an item a score that is not finite")
        scores = scores.reshape(num_queries, interests * k)
        rows = rows.reshape(num_queries, interests * k)
        return [_merge(*pair) for pair in zip(rows, scores, strict=True)]

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

    def _allowed(
        self,
        vectors: np.ndarray,
        restrictions: Restrictions,
        num_candidates: int,
        gains: tuple[np.ndarray, np.ndarray],
    ) -> Candidates:
        """Score all that a request allows; items without a vector come last."""
        rows = np.zeros(0, np.int32) if restrictions.allowed is None else restrictions.allowed
        scores = self.scores_of(rows, vectors, gains)
        order = np.lexsort((rows, -scores))
        rows, scores, own = rows[order], scores[order], np.zeros(len(rows), np.float32)
        return self._keep(rows, scores, restrictions, num_candidates, source=ALLOWED, own=own)

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
        source: str = CANDIDATE_NET,
        own: np.ndarray | None = None,
    ) -> Candidates:
        reasons = self._eligibility.reasons(rows, restrictions)
        kept = np.flatnonzero(reasons == 0)[:num_candidates]
        counts = np.bincount(reasons, minlength=len(REASONS))
        dropped = {REASONS[code]: int(n) for code, n in enumerate(counts) if code and n}
        own = scores if own is None else own
        return Candidates(rows[kept].astype(np.int32), scores[kept], {source: own[kept]}, dropped)


def _merge(rows: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Order the finds of all interests by score, each row once, at its best."""
    valid = rows >= 0
    rows, scores = rows[valid], scores[valid]
    order = np.lexsort((rows, -scores))
    _, first = np.unique(rows[order], return_index=True)
    chosen = order[np.sort(first)]
    return rows[chosen], scores[chosen]
