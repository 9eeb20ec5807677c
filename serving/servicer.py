"""The methods of `RecommenderService`: translate, call, translate."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import uuid4

import grpc
from structlog.contextvars import bind_contextvars

from recsys.errors import StateError
from recsys.requests import Recommendation
from recsys.state import UserState
from serving import checks, translate
from serving.metrics import Metrics
from serving.pages import RANKED_PAGES, Rankings, digest_request
from serving.reload import Bundles
from serving.status import PageTokenError
from serving.store import StateStore
from serving.v1 import recommender_pb2


class RecommenderServicer:
    """Answers a site's backend.

    Args:
        bundles: The bundle that answers.
        store: What is known of users.
        rankings: Answers kept for their next pages.
        metrics: Told what each answer took and dropped.
        clock: Returns microseconds since the epoch.
    """

    def __init__(
        self,
        bundles: Bundles,
        store: StateStore,
        rankings: Rankings,
        metrics: Metrics,
        clock: Callable[[], int],
    ) -> None:
        self._bundles, self._store, self._rankings = bundles, store, rankings
        self._metrics, self._clock = metrics, clock
        self._last_blocked: frozenset[str] = frozenset()

    def RecommendItems(self, message: Any, context: grpc.ServicerContext) -> Any:
        """Answer with a page of a ranking, kept or new."""
        user_id = checks.check_optional_id(message.user_id, "user_id")
        request_id = checks.check_request_id(message.request_id)
        digest = digest_request(message)
        offset = 0
        if message.page_token:
            request_id, offset = self._rankings.read_token(message.page_token, digest)
        size = translate.page_size(message, self._bundles.current().bundle.settings.serving)
        kept = self._rankings.find(user_id, request_id, digest) if request_id else None
        if kept is None and message.page_token:
            raise PageTokenError("page_token", "expired after 15 minutes; start again without one")
        request_id = request_id or str(uuid4())
        blocked = self._blocked_items()
        ranking = kept or self._rank(message, request_id, digest, blocked, context)
        page = self._rankings.cut(ranking, request_id, digest, offset, size)
        return translate.without_items(page, blocked)

    def FindSimilarItems(self, message: Any, context: grpc.ServicerContext) -> Any:
        """Answer with the nearest items."""
        recommender = self._bundles.current()
        settings = recommender.bundle.settings.serving
        count = checks.check_size(
            message.item_count, "item_count", settings.default_page_size, settings.max_page_size
        )
        item_id = checks.check_id(message.item_id, "item_id")
        found = recommender.similar_items(item_id, count)
        return translate.to_similar(found, recommender.bundle_id)

    def RecordEvents(self, message: Any, context: grpc.ServicerContext) -> Any:
        """Store events, durable before the answer."""
        user_id = checks.check_id(message.user_id, "user_id")
        checks.check_request_id(message.request_id)
        now = self._clock()
        history = translate.to_history(message.events, "events", now, is_recorded=True)
        recorded = self._bundles.record(
            user_id, history.events, history.searches, history.request_ids
        )
        return recommender_pb2.RecordEventsResponse(
            new_event_count=recorded.num_new, changed_event_count=recorded.num_changed
        )

    def GetBundle(self, message: Any, context: grpc.ServicerContext) -> Any:
        """Say which bundle answers."""
        recommender = self._bundles.current()
        return translate.to_bundle(recommender.bundle_id, recommender.data_until, active=True)

    def _rank(
        self,
        message: Any,
        request_id: str,
        digest: bytes,
        blocked: frozenset[str],
        context: grpc.ServicerContext,
    ) -> Any:
        recommender = self._bundles.current()
        settings = recommender.bundle.settings.serving
        started = time.perf_counter()
        state, degraded = self._read_state(message.user_id)
        state_seconds = time.perf_counter() - started
        request = translate.to_request(message, state, settings, now=self._clock(), blocked=blocked)
        num_items = min(request.num_items * RANKED_PAGES, settings.num_candidates)
        answer = recommender.recommend(
            [replace(request, num_items=num_items, request_id=request_id)],
            time_remaining=context.time_remaining,
        )[0]
        answer = replace(
            answer,
            degraded_stages=(*degraded, *answer.degraded_stages),
            stage_seconds={"state": state_seconds, **answer.stage_seconds},
        )
        self._note(answer, recommender.bundle_id)
        ranking = translate.to_response(answer, recommender.bundle_id)
        return self._rankings.keep(message.user_id, request_id, digest, ranking)

    def _read_state(self, user_id: str) -> tuple[UserState, tuple[str, ...]]:
        try:
            return self._store.get(user_id), ()
        except StateError:
            return UserState(user_id), ("state",)

    def _blocked_items(self) -> frozenset[str]:
        # With a broken store the blocks last known hold.
        with contextlib.suppress(StateError):
            self._last_blocked = self._store.blocked_items()
        return self._last_blocked

    def _note(self, answer: Recommendation, bundle_id: str) -> None:
        self._metrics.count_answer(answer, bundle_id)
        bind_contextvars(
            bundle=bundle_id,
            items=len(answer.items),
            dropped=answer.dropped,
            degraded=list(answer.degraded_stages),
            failures=answer.failures,
            stage_ms={
                stage: round(seconds * 1000, 3) for stage, seconds in answer.stage_seconds.items()
            },
        )
