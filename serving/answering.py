"""From a checked message to an answer: state read, bundle asked, measured, logged."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from recsys.errors import RequestError
from recsys.guard import Guard
from recsys.recommender import Recommender
from recsys.requests import Recommendation, Request
from recsys.settings import ServingSettings
from recsys.state import UserState
from serving import translate
from serving.answer_log import AnswerLog, LoggedAnswer, without_explanations
from serving.batching import Batching
from serving.call_facts import note_facts
from serving.metrics import Metrics
from serving.pages import RANKED_PAGES
from serving.reload import Bundles
from serving.shadow import Shadow
from serving.store import StateStore

MAX_ANSWER_SECONDS = 2.0
"""How long a part that hangs is waited for, for a caller who would wait longer or for ever."""
STATE_SHARE = 0.3
"""Of that time, for the store."""
NUM_GUARDED = 16
"""Reads of the store that may hang before the next ones go without."""


@dataclass(frozen=True)
class Answered:
    """An answer, and what the log of answers is to know of it.

    Args:
        answer: As the caller gets it.
        bundle_id: Which bundle made it.
        asked: What it was asked.
        logged: What is logged; None without a log.
    """

    answer: Recommendation
    bundle_id: str
    asked: Request
    logged: LoggedAnswer | None


@dataclass(frozen=True)
class _Question:
    """What any bundle is asked, and what was known before one was."""

    message: Any
    request_id: str
    blocked: frozenset[str]
    state: UserState
    failures: dict[str, str]
    state_seconds: float
    time_remaining: Callable[[], float]

    def to_request(self, settings: ServingSettings, now: int) -> Request:
        """Return the question for a bundle of these settings: all pages of a ranking."""
        request = translate.to_request(
            self.message, self.state, settings, now=now, blocked=self.blocked
        )
        num_items = min(request.num_items * RANKED_PAGES, settings.num_candidates)
        return replace(request, num_items=num_items, request_id=self.request_id)


class Answering:
    """Asks bundles.

    Args:
        bundles: Those that answer.
        store: What is known of users.
        metrics: Told what each answer took and dropped.
        clock: Returns microseconds since the epoch.
        batching: Asks the bundles' recommenders.
        answer_log: Where answers are written; None for nowhere.
        shadow: Where answers are computed again; None for nowhere.
    """

    def __init__(
        self,
        bundles: Bundles,
        store: StateStore,
        metrics: Metrics,
        clock: Callable[[], int],
        batching: Batching,
        *,
        answer_log: AnswerLog | None = None,
        shadow: Shadow | None = None,
    ) -> None:
        self._bundles, self._store, self._metrics = bundles, store, metrics
        self._clock, self._batching = clock, batching
        self._answer_log, self._shadow = answer_log, shadow
        self._guard = Guard(NUM_GUARDED, "state")

    def answer(
        self,
        message: Any,
        request_id: str,
        blocked: frozenset[str],
        time_remaining: Callable[[], float],
    ) -> Answered:
        """Answer a RecommendItemsRequest with all pages of a ranking.

        Args:
            message: The request, its ids already checked.
            request_id: The message's, or the server's own.
            blocked: Items that the operator took out.
            time_remaining: Returns the seconds until the caller gives up.
        """
        started = time.perf_counter()

        def remaining() -> float:
            bound = started + MAX_ANSWER_SECONDS - time.perf_counter()
            return min(time_remaining(), bound)

        state, failures = self._read_state(message.user_id, STATE_SHARE * remaining())
        seconds = time.perf_counter() - started
        question = _Question(message, request_id, blocked, state, failures, seconds, remaining)
        answered = self._ask(question)
        self._note(answered.answer, answered.bundle_id)
        return answered

    def log(self, answered: Answered) -> None:
        """Log an answer, if there is a log."""
        if self._answer_log is not None and answered.logged is not None:
            self._answer_log.add(answered.logged)

    def _ask(self, question: "_Question") -> Answered:
        """Ask the user's bundle; where that is a canary that breaks, the active one."""
        recommender, active = (
            self._bundles.of_user(question.message.user_id),
            self._bundles.current(),
        )
        try:
            answered = self._ask_bundle(recommender, question)
        except RequestError:
            raise
        except Exception:  # a broken canary must cost its test, never the answer
            if recommender is active:
                raise
            self._metrics.count_canary_failure()
            recommender, answered = active, self._ask_bundle(active, question)
        if recommender is active and self._shadow is not None:
            self._shadow.offer(answered.asked, answered.answer)
        return answered

    def _ask_bundle(self, recommender: Recommender, question: "_Question") -> Answered:
        settings = recommender.bundle.settings.serving
        request = question.to_request(settings, self._clock())
        asked = self._for_log(request, settings.num_candidates)
        answer = self._batching.recommend(recommender, asked, question.time_remaining)
        answer = replace(
            answer,
            degraded_stages=(*question.failures, *answer.degraded_stages),
            failures=question.failures | answer.failures,
            stage_seconds={"state": question.state_seconds, **answer.stage_seconds},
        )
        logged = self._to_log(asked, answer, recommender, request.num_items)
        answer = without_explanations(answer, request.num_items, kept=request.explained)
        return Answered(answer, recommender.bundle_id, request, logged)

    def _for_log(self, request: Request, num_candidates: int) -> Request:
        """Return what the bundle is asked, which is more where the log wants more."""
        if self._answer_log is None:
            return request
        explained = request.explained or self._answer_log.has_features(request.request_id)
        if self._answer_log.has_candidates(request.request_id):
            request = replace(request, num_items=num_candidates)
        return replace(request, explained=explained)

    def _to_log(
        self, asked: Request, answer: Recommendation, recommender: Recommender, num_items: int
    ) -> LoggedAnswer | None:
        if self._answer_log is None:
            return None
        return LoggedAnswer(
            request=asked,
            answer=answer,
            bundle_id=recommender.bundle_id,
            order=recommender.bundle.settings.serving.exploration,
            num_items=num_items,
            has_features=self._answer_log.has_features(asked.request_id),
            has_candidates=self._answer_log.has_candidates(asked.request_id),
        )

    def _read_state(self, user_id: str, seconds: float) -> tuple[UserState, dict[str, str]]:
        if not user_id:
            return UserState(user_id), {}
        try:
            return self._guard.run(lambda: self._store.get(user_id), seconds), {}
        except Exception as error:  # a broken store must cost the history, never the answer
            return UserState(user_id), {"state": repr(error)}

    def _note(self, answer: Recommendation, bundle_id: str) -> None:
        self._metrics.count_answer(answer, bundle_id)
        note_facts(
            bundle=bundle_id,
            items=len(answer.items),
            dropped=answer.dropped,
            degraded=list(answer.degraded_stages),
            failures=answer.failures,
            stage_ms={
                stage: round(seconds * 1000, 3) for stage, seconds in answer.stage_seconds.items()
            },
        )
