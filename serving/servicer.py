"""The methods of `RecommenderService`: translate, call, translate."""

import contextlib
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import grpc

from recsys.errors import StateError
from serving import checks, translate
from serving.answering import Answering
from serving.call_facts import note_facts
from serving.pages import Rankings, digest_request
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
        answering: Makes new ones.
        clock: Returns microseconds since the epoch.
    """

    def __init__(
        self,
        bundles: Bundles,
        store: StateStore,
        rankings: Rankings,
        answering: Answering,
        clock: Callable[[], int],
    ) -> None:
        self._bundles, self._store, self._rankings = bundles, store, rankings
        self._answering, self._clock = answering, clock
        self._last_blocked: frozenset[str] = frozenset()

    def RecommendItems(self, message: Any, context: grpc.ServicerContext) -> Any:
        """Answer with a page of a ranking, kept or new."""
        user_id = checks.check_optional_id(message.user_id, "user_id")
        request_id = checks.check_request_id(message.request_id)
        digest = digest_request(message)
        offset = 0
        if message.page_token:
            request_id, offset = self._rankings.read_token(message.page_token, digest)
        size = translate.page_size(message, self._bundles.of_user(user_id).bundle.settings.serving)
        kept = self._rankings.find(user_id, request_id, digest) if request_id else None
        if kept is None and message.page_token:
            raise PageTokenError("page_token", "expired after 15 minutes; start again without one")
        if not request_id:
            request_id = str(uuid4())
            note_facts(request_id=request_id)
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
        return translate.to_bundle(
            recommender.bundle_id, recommender.data_until, self._bundles.roles()
        )

    def _rank(
        self,
        message: Any,
        request_id: str,
        digest: bytes,
        blocked: frozenset[str],
        context: grpc.ServicerContext,
    ) -> Any:
        answered = self._answering.answer(message, request_id, blocked, context.time_remaining)
        ranking = translate.to_response(answered.answer, answered.bundle_id)
        kept = self._rankings.keep(message.user_id, request_id, digest, ranking)
        if kept is ranking:  # and no other answer to the same request meanwhile
            self._answering.log(answered)
        return kept

    def _blocked_items(self) -> frozenset[str]:
        # With a broken store the blocks last known hold.
        with contextlib.suppress(StateError):
            self._last_blocked = self._store.blocked_items()
        return self._last_blocked
