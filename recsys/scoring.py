"""The ranking stage of a request: features of its candidates, what the heads say, a score."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from recsys.boosts import Boost
from recsys.bundle import Bundle
from recsys.errors import BundleError
from recsys.live_counters import LiveCounters
from recsys.ranking.features import Queries, ranking_features
from recsys.ranking.formula import Formula
from recsys.ranking.ranker import Ranker
from recsys.ranking.spec import feature_names
from recsys.retrieval import Candidates
from recsys.user_views import UserViews

RANKED_TOGETHER = 32
"""Requests whose candidates are ranked in one run, to bound memory."""


@dataclass(frozen=True)
class Scored:
    """Scores of one request's candidates.

    Args:
        score: float32 [C], what candidates are ordered by.
        seconds: float32 [C], expected watch time.
        features: Of each candidate, name -> value; empty unless asked for.
        inputs: All that the ranking net was fed, as `recsys.ranking.features` gives it for this
            one request; empty unless kept.
        boost: What the rules made of the score; None without rules.
    """

    score: np.ndarray
    seconds: np.ndarray
    features: list[dict[str, float | str]]
    inputs: dict[str, np.ndarray] = field(default_factory=dict)
    boost: Boost | None = None

    def boosted(self, boost: Boost | None) -> "Scored":
        """Return these with the score that the rules make of it."""
        if boost is None:
            return self
        return replace(self, score=boost.of(self.score).astype(np.float32), boost=boost)


class Scoring:
    """Ranks candidates by the configured formula, expected watch time unless said otherwise.

    Args:
        bundle: A bundle with a ranking net.
        counters: Item counters as of now.
    """

    def __init__(self, bundle: Bundle, counters: LiveCounters) -> None:
        if bundle.ranker is None:
            raise BundleError(f"bundle {bundle.bundle_id}: expected a ranking net, found none")
        self._ranker: Ranker = bundle.ranker
        self._formula = Formula(bundle.settings.ranking, bundle.vocabularies)
        self._items = bundle.item_features
        self._counters = counters

    def score(
        self,
        users: UserViews,
        candidates: Sequence[Candidates],
        *,
        explained: bool,
        inputs_kept: np.ndarray | None = None,
    ) -> list[Scored]:
        """Score the candidates of every request.

        Args:
            users: Q users.
            candidates: Of each.
            explained: Whether features come by name.
            inputs_kept: bool [Q], whose inputs are kept; None keeps nobody's.

        Raises:
            FloatingPointError: The net gave a score that is not finite.
        """
        kept = np.zeros(len(candidates), bool) if inputs_kept is None else inputs_kept
        starts = range(0, len(candidates), RANKED_TOGETHER)
        together = [
            np.arange(start, min(start + RANKED_TOGETHER, len(candidates))) for start in starts
        ]
        return [
            scored
            for positions in together
            for scored in self._score_some(users, candidates, positions, explained, kept)
        ]

    def predict(self, users: UserViews, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Return what the heads say of one item for each user.

        Args:
            users: Q views.
            rows: int32 [Q], catalogue rows; where the net learned from scores of the candidate
                stage, it is told none.

        Returns:
            Name -> float32 [Q], as `Ranker.score` gives them.
        """
        starts = range(0, len(rows), RANKED_TOGETHER)
        parts = []
        for start in starts:
            positions = np.arange(start, min(start + RANKED_TOGETHER, len(rows)))
            unscored = np.full(1, np.nan, np.float32)
            alone = [Candidates(rows[[q]], unscored, {}, {}) for q in positions]
            parts.append(self._ranker.score(self._features(users, alone, positions)))
        names = parts[0] if parts else {}
        return {name: np.concatenate([part[name][:, 0] for part in parts]) for name in names}

    def _score_some(
        self,
        users: UserViews,
        candidates: Sequence[Candidates],
        positions: np.ndarray,
        explained: bool,
        inputs_kept: np.ndarray,
    ) -> list[Scored]:
        chosen = [candidates[position] for position in positions]
        if not any(len(each.rows) for each in chosen):  # the net takes one candidate at least
            nothing = np.zeros(0, np.float32)
            return [Scored(nothing, nothing, []) for _ in chosen]
        features = self._features(users, chosen, positions)
        values = self._ranker.score(features)
        seconds = values["expected_seconds"]
        scores = self._formula.scores(values, features["user_categorical"])
        scored = []
        for row, each in enumerate(chosen):
            own = seconds[row, : len(each.rows)]
            score = scores[row, : len(each.rows)]
            if not (np.isfinite(own).all() and np.isfinite(score).all()):
                raise FloatingPointError("the ranking net gave a score that is not finite")
            named = self._named(features, row, len(each.rows)) if explained else []
            inputs = _own(features, row, len(each.rows)) if inputs_kept[positions[row]] else {}
            scored.append(Scored(score, own, named, inputs))
        return scored

    def _features(
        self, users: UserViews, candidates: Sequence[Candidates], positions: np.ndarray
    ) -> dict[str, np.ndarray]:
        # Padding repeats row 0: rows do not see each other, and the padding's scores are cut off.
        rows = _padded([each.rows for each in candidates], 0).astype(np.int32)
        score = np.full(rows.shape, np.nan, np.float32)
        rank = score
        if self._ranker.spec.retrieval_trained:
            score = _padded([each.scores for each in candidates], np.nan).astype(np.float32)
            rank = np.where(np.isnan(score), score, np.arange(rows.shape[1], dtype=np.float32))
        # Of the batch, only those ranked together: the features sort all events they are given.
        start, end = int(positions[0]), int(positions[-1]) + 1
        queries = Queries(
            user=positions - start,
            moment=users.moment[positions],
            has_time=users.has_time[positions],
            codes={name: codes[positions] for name, codes in users.codes.items()},
            numeric={name: values[positions] for name, values in users.numeric.items()},
            retrieval_score=score,
            retrieval_rank=rank,
        )
        return ranking_features(
            queries,
            rows,
            users.timelines.of_users(start, end),
            users.histories.of_users(start, end),
            self._items,
            self._counters.of_items(rows),
            self._counters.of_channels(rows),
            self._ranker.spec,
        )

    def _named(
        self, features: dict[str, np.ndarray], row: int, num_candidates: int
    ) -> list[dict[str, float | str]]:
        names = feature_names(self._ranker.spec)
        user = dict(zip(names["user_numeric"], features["user_numeric"][row].tolist(), strict=True))
        return [
            _known(user | dict(zip(names["candidate_numeric"], values.tolist(), strict=True)))
            for values in features["candidate_numeric"][row, :num_candidates]
        ]


def _own(features: dict[str, np.ndarray], row: int, num_candidates: int) -> dict[str, np.ndarray]:
    """Return views of one request's features, without padding."""
    own = {name: values[row : row + 1] for name, values in features.items()}
    return {
        name: values[:, :num_candidates] if name.startswith("candidate_") else values
        for name, values in own.items()
    }


def _known(features: dict[str, float]) -> dict[str, float | str]:
    return {name: value for name, value in features.items() if value == value}


def _padded(columns: Sequence[np.ndarray], padding: float) -> np.ndarray:
    """Stack arrays of different lengths [C_i] into [Q, max C_i]."""
    width = max((len(column) for column in columns), default=1)
    out = np.full((len(columns), width), padding, np.float64)
    for row, column in enumerate(columns):
        out[row, : len(column)] = column
    return out
