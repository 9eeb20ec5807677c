"""Requests in, ranked items out: the algorithm that the server and offline evaluation share.

    states -> user views -> user vectors -> candidates -> features -> expected seconds -> order

A stage that breaks, that hangs, or for which no time is left, is replaced by something simpler and
named in the answer: no draw means the order of the scores, no ranker candidate order, no index
popular items. A batch of requests gets the answers that each would get alone.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from recsys.answers import to_recommendation
from recsys.arrangement import Arrangement, directions
from recsys.bundle import Bundle
from recsys.candidate_stage import CandidateStage
from recsys.data.timelines import Timelines
from recsys.data.user_states import timelines_of_states
from recsys.eligibility import REASONS, Eligibility
from recsys.errors import RequestError
from recsys.guard import BusyError, Guard
from recsys.live_counters import LiveCounters
from recsys.order_stage import OrderStage
from recsys.ordering import Order, Ordering
from recsys.requests import Recommendation, Request
from recsys.retrieval import Candidates, Retrieval
from recsys.scoring import Scored, Scoring
from recsys.stages import NO_TIME, Batch, Clock, TimeRemaining, Trace
from recsys.state import UserEvents, UserState
from recsys.user_views import UserViews, view_users

Ranked: TypeAlias = tuple[list[Candidates], list[Scored | None], list[Order]]
"""Of each request: its candidates, their scores, their order."""

NUM_GUARDED = 16
"""Batches that may hang in a stage before the next ones go without waiting for it."""
RESERVED_SECONDS, RESERVED_SHARE = 0.02, 0.2
"""Of the time that is left, at most, for an answer without the stages that hang."""


@dataclass(frozen=True)
class _Counted:
    """What E events add, W of them watches: int32 [E], int64 [E, 5], int32 [W], int64 [W]."""

    rows: np.ndarray
    deltas: np.ndarray
    watched: np.ndarray
    moments: np.ndarray


@dataclass
class _Progress:
    """How far the ranking of a batch is."""

    candidates: list[Candidates] | None = None


class Recommender:
    """Answers requests from exactly one bundle.

    Args:
        bundle: A loaded bundle.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._eligibility = Eligibility(bundle.catalogue)
        self._retrieval = Retrieval(bundle, self._eligibility)
        self._candidate_stage = CandidateStage(bundle, self._eligibility, self._retrieval)
        self._counters = self._new_counters()
        self._scoring = Scoring(bundle, self._counters) if bundle.ranker else None
        self._ordering = Ordering(bundle)
        self._order_stage = OrderStage(self._ordering, Arrangement(bundle, self._eligibility))
        self._ranking_clock = Clock()
        self._guard = Guard(NUM_GUARDED, "answer")
        # It is asked only where answers hang, so how long it takes is never learnt before.
        self._candidate_guard = Guard(NUM_GUARDED, "candidates", usual_seconds=0.0)

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
        trace, started = Trace(), time.perf_counter()
        users = view_users(requests, self._bundle)
        trace.seconds["understand"] = time.perf_counter() - started
        batch = Batch(requests, users, trace, time_remaining)
        ranked, trace = self._ranked_in_time(batch)
        return [
            to_recommendation(*each, trace, self._bundle.catalogue.item_ids)
            for each in zip(requests, *ranked, strict=True)
        ]

    def candidates(self, requests: Sequence[Request]) -> list[Candidates]:
        """Return the candidates of requests, in the order of the candidate stage."""
        users = view_users(requests, self._bundle)
        return self._candidate_stage.find(Batch(requests, users, Trace()))

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
            RequestError: There is no ranking net, which says what an order is drawn from; or pages
                obey caps, fresh items or diversity.
        """
        if self._scoring is None:
            raise RequestError("bundle", f"expected a ranking net in {self.bundle_id}, found none")
        batch = Batch(requests, view_users(requests, self._bundle), Trace())
        candidates = self._candidate_stage.find(batch)
        explored = self._ordering.explored(batch.users)
        scored = self._scoring.score(
            batch.users,
            candidates,
            explained=False,
            inputs_kept=explored & self._ordering.needs_inputs,
        )
        return [
            self._order_stage.propensities(
                batch,
                position,
                candidates[position],
                scored[position],
                self._bundle.catalogue.rows(page),
                is_drawn=bool(explored[position]),
            )
            for position, page in enumerate(pages)
        ]

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
        vectors = directions(self._bundle, np.arange(len(self._bundle.item_vectors)))
        cosine = vectors @ vectors[row]
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
        facts = {"item_id": item_id, **self._standing(users, row)}
        facts["sources"] = list(self._sources_of(request, row))
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
        counted = self._counted(events)
        self._counters.add(counted.rows, sign * counted.deltas)
        self._candidate_stage.count_watches(counted.watched, counted.moments, sign=sign)

    def recount_events(self, batches: Iterable[UserEvents]) -> None:
        """Replace what `count_events` added by the counts of these events, all at once."""
        counters, recent = self._new_counters(), self._candidate_stage.new_recent_watches()
        for events in batches:
            counted = self._counted(events)
            counters.add(counted.rows, counted.deltas)
            if recent is not None:
                recent.add(counted.watched, counted.moments)
        self._counters.take_over(counters)
        self._candidate_stage.take_over(recent)

    def is_watch(self, events: UserEvents) -> np.ndarray:
        """Say which events are positive watches by the rule of the bundle: bool [E]."""
        return self._timelines(UserState("", events)).is_watch

    def _new_counters(self) -> LiveCounters:
        items = self._bundle.item_features
        return LiveCounters(self._bundle.item_counters, items.channel, items.num_channels)

    def _counted(self, events: UserEvents) -> "_Counted":
        """Say what events since `data_until` add."""
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
        watched = timelines.is_watch
        return _Counted(
            timelines.item,
            deltas.astype(np.int64),
            timelines.item[watched],
            timelines.outcome_moment[watched],
        )

    def _timelines(self, state: UserState) -> Timelines:
        return timelines_of_states(
            [state],
            self._bundle.catalogue,
            self._bundle.item_features.duration_ms,
            self._bundle.settings.data.watch,
        )

    def _ranked_in_time(self, batch: Batch) -> tuple[Ranked, Trace]:
        """Rank, but go without the stages that are not through when time is up."""
        progress = _Progress()
        if batch.time_remaining is None:
            return self._rank(batch, progress), batch.trace
        left = batch.time_remaining()
        seconds = left - min(RESERVED_SECONDS, RESERVED_SHARE * left)
        try:
            return self._guard.run(lambda: self._rank(batch, progress), seconds), batch.trace
        except BusyError as error:
            return self._rank_without(batch, self._candidates_in_time(batch, seconds), str(error))
        except TimeoutError as error:
            if progress.candidates is None:  # it is the candidates that hang
                self._candidate_guard.rest()
            return self._rank_without(batch, progress.candidates, str(error))

    def _candidates_in_time(self, batch: Batch, seconds: float) -> list[Candidates] | None:
        try:
            return self._candidate_guard.run(lambda: self._candidate_stage.find(batch), seconds)
        except TimeoutError:
            return None

    def _rank(self, batch: Batch, progress: "_Progress") -> Ranked:
        candidates = progress.candidates = self._candidate_stage.find(batch)
        explored = self._ordering.explored(batch.users)
        scored = self._score(batch, candidates, explored)
        return candidates, *self._order_stage.order(batch, candidates, scored, explored)

    def _rank_without(
        self, batch: Batch, candidates: list[Candidates] | None, reason: str
    ) -> tuple[Ranked, Trace]:
        """Rank by the candidates, if there are any yet; what hangs may still write to the trace."""
        trace = Trace(dict(batch.trace.failures), dict(batch.trace.seconds))
        batch = replace(batch, trace=trace)
        if candidates is None:
            trace.failures["index"] = reason
            candidates = self._candidate_stage.find_without_net(batch)
        if self._scoring is not None:
            trace.failures["ranker"] = reason
        nothing: list[Scored | None] = [None] * len(candidates)
        undrawn = np.zeros(len(candidates), bool)
        return (candidates, *self._order_stage.order(batch, candidates, nothing, undrawn)), trace

    def _score(
        self, batch: Batch, candidates: Sequence[Candidates], explored: np.ndarray
    ) -> list[Scored | None]:
        nothing: list[Scored | None] = [None] * len(batch.requests)
        if self._scoring is None:
            return nothing
        trace = batch.trace
        if self._ranking_clock.is_late(batch.time_remaining):
            trace.failures["ranker"] = NO_TIME
            return nothing
        started = time.perf_counter()
        explained = any(request.explained for request in batch.requests)
        kept = explored & self._ordering.needs_inputs
        try:
            scored = self._scoring.score(
                batch.users, candidates, explained=explained, inputs_kept=kept
            )
        except Exception as error:  # a broken ranker must cost quality, never the answer
            trace.failures["ranker"] = repr(error)
            return nothing
        trace.seconds["rank"] = time.perf_counter() - started
        self._ranking_clock.note(trace.seconds["rank"], len(batch.requests))
        return list(scored)

    def _sources_of(self, request: Request, row: int) -> Iterator[str]:
        found = self.candidates([request])[0]
        is_row = found.rows == row
        for name, own in found.found_by.items():
            if not np.isnan(own[is_row]).all():
                yield name

    def _why_missing(self, request: Request, users: UserViews, row: int) -> str:
        restrictions = self._candidate_stage.restrictions(request, users, 0)
        reason = self._eligibility.reasons(np.array([row]), restrictions)[0]
        if reason:
            return f"removed: {REASONS[reason]}"
        if row in self.candidates([request])[0].rows:
            return "a candidate, but ranked below the page"
        num_candidates = self._bundle.settings.serving.num_candidates
        return f"not among the best {num_candidates} candidates"

    def _standing(self, users: UserViews, row: int) -> dict[str, object]:
        """Return an item's score and rank among all with a vector, before any removal."""
        facts: dict[str, object] = {}
        score = np.full(1, np.nan, np.float32)
        if row < len(self._bundle.item_vectors):
            vectors = self._bundle.user_tower.vectors(users.tower_inputs)
            scores = self._retrieval.all_scores(vectors, users.successions)
            score = scores[[row]]
            facts["candidate_score"] = float(scores[row])
            facts["candidate_rank"] = int((scores > scores[row]).sum())
        else:
            facts |= {"candidate_score": None, "why_unscored": "too few watches to be trained"}
        if self._scoring is not None:
            alone = Candidates(np.array([row], np.int32), score, {}, {})
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
