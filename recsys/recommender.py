"""Requests in, ranked items out: the algorithm that the server and offline evaluation share.

    states -> user views -> user vectors -> candidates -> features -> expected seconds -> page

A stage that breaks, or for which no time is left, is replaced by something simpler and named in
the answer: no ranker means candidate order, no index means popular items. A batch of requests
gets the answers that each would get alone.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from recsys.bundle import Bundle
from recsys.data.timelines import Timelines
from recsys.data.user_states import timelines_of_states
from recsys.eligibility import REASONS, Eligibility, Restrictions
from recsys.errors import RequestError
from recsys.live_counters import LiveCounters
from recsys.requests import Explanation, RankedItem, Recommendation, Request
from recsys.retrieval import Candidates, Retrieval
from recsys.scoring import Scored, Scoring
from recsys.state import UserEvents, UserState
from recsys.user_views import UserViews, view_users

TimeRemaining = Callable[[], float]
"""Seconds until the caller stops waiting."""

RANKER_SAFETY = 1.5
"""The ranker is skipped if less than this many times its usual seconds are left."""


@dataclass
class _Trace:
    """What happened on the way to a batch of answers."""

    failures: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


class Recommender:
    """Answers requests from exactly one bundle.

    Args:
        bundle: A loaded bundle.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._eligibility = Eligibility(bundle.catalogue)
        self._retrieval = Retrieval(bundle, self._eligibility)
        items = bundle.item_features
        self._counters = LiveCounters(bundle.item_counters, items.channel, items.num_channels)
        self._scoring = Scoring(bundle, self._counters) if bundle.ranker else None
        self._ranker_seconds = 0.0

    @property
    def bundle_id(self) -> str:
        """Id of the bundle, as every answer carries it."""
        return self._bundle.bundle_id

    @property
    def data_until(self) -> int:
        """Moment from which on events are to be given to `count_events`."""
        return self._bundle.data_until

    @property
    def bundle(self) -> Bundle:
        """The bundle."""
        return self._bundle

    def recommend(
        self, requests: Sequence[Request], *, time_remaining: TimeRemaining | None = None
    ) -> list[Recommendation]:
        """Answer a batch of requests.

        Args:
            requests: Any number, of any users.
            time_remaining: Seconds until the caller gives up; stages that do not fit are left
                out and named in `degraded_stages`.

        Raises:
            RequestError: A filter names a value that no item has.
        """
        if not requests:
            return []
        for request in requests:
            self._eligibility.check(request.item_filter)
        trace = _Trace()
        started = time.perf_counter()
        users = view_users(requests, self._bundle)
        trace.seconds["understand"] = time.perf_counter() - started
        candidates = self._candidates(requests, users, trace)
        scored = self._score(requests, users, candidates, trace, time_remaining)
        return [
            _answer(request, found, score, trace, self._bundle.catalogue.item_ids)
            for request, found, score in zip(requests, candidates, scored, strict=True)
        ]

    def candidates(self, requests: Sequence[Request]) -> list[Candidates]:
        """Return the candidates of requests, in the order of the candidate stage."""
        users = view_users(requests, self._bundle)
        return self._candidates(requests, users, _Trace())

    def predict(
        self, requests: Sequence[Request], item_ids: Sequence[str]
    ) -> dict[str, np.ndarray]:
        """Say what the ranking net expects of one given item for each request.

        Args:
            requests: Any number, of any users.
            item_ids: An item for each.

        Returns:
            Name (`expected_seconds`, `median_seconds`, ...) -> float32 [Q], NaN for an item that
            the catalogue does not know; empty without a ranking net or without requests.
        """
        rows = self._bundle.catalogue.rows(item_ids)
        known = np.flatnonzero(rows >= 0)
        if self._scoring is None or len(known) == 0:
            return {}
        users = view_users([requests[position] for position in known.tolist()], self._bundle)
        predicted = {}
        for name, values in self._scoring.predict(users, rows[known]).items():
            predicted[name] = np.full(len(rows), np.nan, np.float32)
            predicted[name][known] = values
        return predicted

    def similar_items(self, item_id: str, num_items: int) -> list[tuple[str, float]]:
        """Return the items whose vectors point most nearly the same way, with the cosine.

        Raises:
            RequestError: The item is unknown, or was too rare to be trained.
        """
        row = self._row_with_vector(item_id)
        # What stands behind is no direction: a bias, how often the item was watched lately.
        vectors = self._bundle.item_vectors[:, : self._bundle.settings.candidates.embedding_width]
        norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(vectors[row])
        cosine = vectors @ vectors[row] / np.maximum(norms, 1e-12)
        cosine[row] = -np.inf
        best = np.argsort(-cosine, kind="stable")[: min(num_items, len(cosine) - 1)]
        ids = self._bundle.catalogue.item_ids(best)
        return list(zip(ids, cosine[best].tolist(), strict=True))

    def explain_item(self, request: Request, item_id: str) -> dict[str, object]:
        """Say where an item stands in the answer to a request, or why it is missing."""
        row = int(self._bundle.catalogue.rows([item_id])[0])
        if row < 0:
            return {"item_id": item_id, "found": False, "reason": "not in the catalogue"}
        users = view_users([request], self._bundle)
        facts = {"item_id": item_id, **self._standing(request, users, row)}
        ids = [item.item_id for item in self.recommend([request])[0].items]
        if item_id in ids:
            return {**facts, "found": True, "position": ids.index(item_id)}
        return {**facts, "found": False, "reason": self._why_missing(request, users, row)}

    def count_events(self, events: UserEvents, *, sign: int = 1) -> None:
        """Add events to the item counters (or take them back with `sign` -1).

        Args:
            events: Of any users. Those before `data_until` are ignored: the bundle counted them.
            sign: 1 or -1.
        """
        fresh = events.take(events.moment >= self.data_until)
        timelines = self._timelines(UserState("", fresh))
        known = timelines.watch_ms >= 0
        deltas = np.stack(
            [
                timelines.is_impression,
                known,
                timelines.is_watch,
                timelines.clicked == 1,
                np.where(known, timelines.watch_ms, 0),
            ],
            axis=1,
        )
        self._counters.add(timelines.item, sign * deltas.astype(np.int64))

    def is_watch(self, events: UserEvents) -> np.ndarray:
        """Say which events are positive watches by the rule of the bundle: bool [E]."""
        return self._timelines(UserState("", events)).is_watch

    def _timelines(self, state: UserState) -> Timelines:
        return timelines_of_states(
            [state],
            self._bundle.catalogue,
            self._bundle.item_features.duration_ms,
            self._bundle.settings.data.watch,
        )

    def _candidates(
        self, requests: Sequence[Request], users: UserViews, trace: _Trace
    ) -> list[Candidates]:
        num_candidates = self._bundle.settings.serving.num_candidates
        restrictions = [
            self._restrictions(request, users, position)
            for position, request in enumerate(requests)
        ]
        started = time.perf_counter()
        try:
            vectors = self._bundle.user_tower.vectors(users.tower_inputs)
            if not np.isfinite(vectors).all():
                raise FloatingPointError("the user tower gave a vector that is not finite")
            found = self._retrieval.by_vector(
                vectors, restrictions, num_candidates, users.successions
            )
        except Exception as error:  # a broken index must cost quality, never the answer
            trace.failures["index"] = repr(error)
            found = [self._retrieval.popular(each, num_candidates) for each in restrictions]
        trace.seconds["retrieve"] = time.perf_counter() - started
        return found

    def _restrictions(self, request: Request, users: UserViews, position: int) -> Restrictions:
        catalogue = self._bundle.catalogue
        watched = np.zeros(0, np.int32)
        if request.seen_removed:
            older = catalogue.rows(sorted(request.user.seen))
            watched = np.union1d(users.watched_rows(position), older[older >= 0])
        current = request.context.get("current_item_id")
        return Restrictions(
            watched=watched,
            excluded=np.unique(catalogue.rows(sorted(request.excluded_item_ids))),
            current=int(catalogue.rows([str(current)])[0]) if current else -1,
            item_filter=request.item_filter,
            now=request.now,
        )

    def _score(
        self,
        requests: Sequence[Request],
        users: UserViews,
        candidates: Sequence[Candidates],
        trace: _Trace,
        time_remaining: TimeRemaining | None,
    ) -> list[Scored | None]:
        nothing: list[Scored | None] = [None] * len(requests)
        if self._scoring is None:
            return nothing
        if time_remaining and time_remaining() < RANKER_SAFETY * self._ranker_seconds:
            trace.failures["ranker"] = "no time left"
            return nothing
        started = time.perf_counter()
        explained = any(request.explained for request in requests)
        try:
            scored = self._scoring.score(users, candidates, explained=explained)
        except Exception as error:  # a broken ranker must cost quality, never the answer
            trace.failures["ranker"] = repr(error)
            return nothing
        trace.seconds["rank"] = time.perf_counter() - started
        per_request = trace.seconds["rank"] / len(requests)
        self._ranker_seconds += 0.1 * (per_request - self._ranker_seconds)
        return list(scored)

    def _why_missing(self, request: Request, users: UserViews, row: int) -> str:
        restrictions = self._restrictions(request, users, 0)
        reason = self._eligibility.reasons(np.array([row]), restrictions)[0]
        if reason:
            return f"removed: {REASONS[reason]}"
        if row in self.candidates([request])[0].rows:
            return "a candidate, but ranked below the page"
        num_candidates = self._bundle.settings.serving.num_candidates
        return f"not among the best {num_candidates} candidates"

    def _standing(self, request: Request, users: UserViews, row: int) -> dict[str, object]:
        """Return an item's score and rank among all trained items, before any removal."""
        if row >= len(self._bundle.item_vectors):
            return {"candidate_score": None, "why_unscored": "too few watches to be trained"}
        vectors = self._bundle.user_tower.vectors(users.tower_inputs)
        scores = self._retrieval.all_scores(vectors, users.successions)
        rank = int((scores > scores[row]).sum())
        facts: dict[str, object] = {"candidate_score": float(scores[row]), "candidate_rank": rank}
        if self._scoring is not None:
            alone = Candidates(np.array([row], np.int32), scores[[row]], "candidate_net", {})
            scored = self._scoring.score(users, [alone], explained=True)[0]
            facts["expected_watch_seconds"] = float(scored.seconds[0])
            facts["features"] = scored.features[0]
        return facts

    def _row_with_vector(self, item_id: str) -> int:
        row = int(self._bundle.catalogue.rows([item_id])[0])
        if row < 0:
            raise RequestError("item_id", f"expected an item of the catalogue, got {item_id!r}")
        if row >= len(self._bundle.item_vectors):
            raise RequestError("item_id", f"{item_id!r} had too few watches to have a vector")
        return row


def _answer(
    request: Request,
    candidates: Candidates,
    scored: Scored | None,
    trace: _Trace,
    item_ids: Callable[[np.ndarray], list[str]],
) -> Recommendation:
    order = np.arange(len(candidates.rows))
    if scored is not None:
        order = np.argsort(-scored.score, kind="stable")
    chosen = order[: request.num_items]
    items = (
        RankedItem(
            item_id=item_id,
            expected_watch_seconds=None if scored is None else float(scored.seconds[position]),
            source=candidates.source,
            explanation=_explanation(candidates, scored, position) if request.explained else None,
        )
        for item_id, position in zip(item_ids(candidates.rows[chosen]), chosen, strict=True)
    )
    return Recommendation(
        items=tuple(items),
        degraded_stages=tuple(sorted(trace.failures)),
        failures=dict(trace.failures),
        dropped=candidates.dropped,
        stage_seconds=dict(trace.seconds),
    )


def _explanation(candidates: Candidates, scored: Scored | None, position: int) -> Explanation:
    features = scored.features[position] if scored is not None else {}
    return Explanation(float(candidates.scores[position]), int(position), features)
