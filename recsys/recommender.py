"""Requests in, ranked items out: the algorithm that the server and offline evaluation share.

    states -> user views -> user vectors -> candidates -> features -> expected seconds -> order

A stage that breaks, or for which no time is left, is replaced by something simpler and named in
the answer: no draw means the order of the scores, no ranker candidate order, no index popular
items. A batch of requests gets the answers that each would get alone.
"""

import time
from collections.abc import Callable, Sequence

import numpy as np

from recsys.answers import Trace, build_answer
from recsys.bundle import Bundle
from recsys.data.timelines import Timelines
from recsys.data.user_states import timelines_of_states
from recsys.eligibility import REASONS, Eligibility, Restrictions
from recsys.errors import RequestError
from recsys.live_counters import LiveCounters
from recsys.ordering import Order, Ordering, greedy_order, greedy_propensities
from recsys.requests import Recommendation, Request
from recsys.retrieval import Candidates, Retrieval
from recsys.scoring import Scored, Scoring
from recsys.state import UserEvents, UserState
from recsys.user_views import UserViews, view_users

TimeRemaining = Callable[[], float]
"""Seconds until the caller stops waiting."""

SAFETY = 1.5
"""A stage is skipped if less than this many times its usual seconds are left."""
NO_TIME = "no time left"


class _Clock:
    """Knows how long a stage usually takes a request."""

    def __init__(self) -> None:
        self._usual_seconds = 0.0

    def is_late(self, time_remaining: TimeRemaining | None) -> bool:
        """Say whether the stage no longer fits."""
        return time_remaining is not None and time_remaining() < SAFETY * self._usual_seconds

    def note(self, seconds: float, num_requests: int) -> None:
        """Take how long it took so many requests together."""
        self._usual_seconds += 0.1 * (seconds / num_requests - self._usual_seconds)


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
        self._ordering = Ordering(bundle)
        self._ranking_clock, self._ordering_clock = _Clock(), _Clock()

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
        trace = Trace()
        started = time.perf_counter()
        users = view_users(requests, self._bundle)
        trace.seconds["understand"] = time.perf_counter() - started
        candidates = self._candidates(requests, users, trace)
        explored = self._ordering.explored(users)
        scored = self._score(requests, users, candidates, explored, trace, time_remaining)
        orders = self._orders(requests, users, scored, explored, trace, time_remaining)
        return [
            build_answer(*each, trace, self._bundle.catalogue.item_ids)
            for each in zip(requests, candidates, scored, orders, strict=True)
        ]

    def candidates(self, requests: Sequence[Request]) -> list[Candidates]:
        """Return the candidates of requests, in the order of the candidate stage."""
        users = view_users(requests, self._bundle)
        return self._candidates(requests, users, Trace())

    def propensities(
        self, requests: Sequence[Request], pages: Sequence[Sequence[str]]
    ) -> list[np.ndarray]:
        """Say how probable given pages are as answers: what off-policy estimators ask.

        Args:
            requests: Q of them.
            pages: Items of each, from the first place on, as another bundle may have shown them.

        Returns:
            Of each page float64 [K], the probability of each item at its place given those above
            it: 0 or 1 where the order of this bundle is not drawn.

        Raises:
            RequestError: There is no ranking net, which says what an order is drawn from.
        """
        if self._scoring is None:
            raise RequestError("bundle", f"expected a ranking net in {self.bundle_id}, found none")
        users, trace = view_users(requests, self._bundle), Trace()
        candidates = self._candidates(requests, users, trace)
        explored = self._ordering.explored(users)
        scored = self._scoring.score(
            users, candidates, explained=False, inputs_kept=explored & self._ordering.needs_inputs
        )
        found = []
        for position, page in enumerate(pages):
            placed = _places(candidates[position].rows, self._bundle.catalogue.rows(page))
            found.append(
                self._ordering.propensities(users, position, scored[position], placed)
                if explored[position]
                else greedy_propensities(scored[position], placed)
            )
        return found

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
        self, requests: Sequence[Request], users: UserViews, trace: Trace
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
        explored: np.ndarray,
        trace: Trace,
        time_remaining: TimeRemaining | None,
    ) -> list[Scored | None]:
        nothing: list[Scored | None] = [None] * len(requests)
        if self._scoring is None:
            return nothing
        if self._ranking_clock.is_late(time_remaining):
            trace.failures["ranker"] = NO_TIME
            return nothing
        started = time.perf_counter()
        explained = any(request.explained for request in requests)
        kept = explored & self._ordering.needs_inputs
        try:
            scored = self._scoring.score(users, candidates, explained=explained, inputs_kept=kept)
        except Exception as error:  # a broken ranker must cost quality, never the answer
            trace.failures["ranker"] = repr(error)
            return nothing
        trace.seconds["rank"] = time.perf_counter() - started
        self._ranking_clock.note(trace.seconds["rank"], len(requests))
        return list(scored)

    def _orders(
        self,
        requests: Sequence[Request],
        users: UserViews,
        scored: Sequence[Scored | None],
        explored: np.ndarray,
        trace: Trace,
        time_remaining: TimeRemaining | None,
    ) -> list[Order | None]:
        """Order the candidates of every request; None where no score says how."""
        orders: list[Order | None] = []
        for position, (request, score) in enumerate(zip(requests, scored, strict=True)):
            if score is None:
                orders.append(None)
            elif explored[position]:
                orders.append(self._draw(request, users, position, score, trace, time_remaining))
            else:
                orders.append(greedy_order(score, request.num_items))
        return orders

    def _draw(
        self,
        request: Request,
        users: UserViews,
        position: int,
        scored: Scored,
        trace: Trace,
        time_remaining: TimeRemaining | None,
    ) -> Order:
        if self._ordering_clock.is_late(time_remaining):
            return greedy_order(scored, request.num_items, failure=NO_TIME)
        started = time.perf_counter()
        try:
            order = self._ordering.draw(request, users, position, scored)
        except Exception as error:  # a broken process must cost exploration, never the answer
            return greedy_order(scored, request.num_items, failure=repr(error))
        seconds = time.perf_counter() - started
        self._ordering_clock.note(seconds, 1)
        trace.seconds["explore"] = trace.seconds.get("explore", 0.0) + seconds
        return order

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


def _places(rows: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return where rows stand among the candidates, -1 for none of them: int64 [K]."""
    is_there = wanted[:, None] == rows
    return np.where(is_there.any(axis=1), is_there.argmax(axis=1), -1)
