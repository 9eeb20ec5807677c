"""The methods of `AdminService`, for the operator: translate, call, translate."""

from collections.abc import Sequence
from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty

from recsys.recommender import Recommender
from serving import checks, translate
from serving.answer_log import AnswerLog
from serving.reload import Bundles
from serving.store import StateStore
from serving.trials import user_split
from serving.v1 import admin_pb2

MAX_BLOCKED_AT_ONCE = 1000
DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE = 100, 1000


class AdminServicer:
    """Does what the operator asks.

    Args:
        bundles: The bundles of this server.
        store: Users' state and the blocked items.
        answer_log: Where answers are written; None for nowhere.
    """

    def __init__(
        self, bundles: Bundles, store: StateStore, answer_log: AnswerLog | None = None
    ) -> None:
        self._bundles, self._store, self._answer_log = bundles, store, answer_log

    def ActivateBundle(self, message: Any, context: grpc.ServicerContext) -> Any:
        """Swap a bundle in."""
        bundle_id = checks.check_id(message.bundle_id, "bundle_id")
        return self._show(self._bundles.activate(bundle_id))

    def RollbackBundle(self, message: Any, context: grpc.ServicerContext) -> Any:
        """Go back to the bundle before."""
        return self._show(self._bundles.roll_back())

    def StartCanary(self, message: Any, context: grpc.ServicerContext) -> Any:
        """Let a second bundle answer a share of the users."""
        bundle_id = checks.check_id(message.bundle_id, "bundle_id")
        salt = checks.check_id(message.salt, "salt")
        split = user_split(salt, checks.check_share(message.user_share, "user_share"))
        return self._show(self._bundles.start_canary_of(bundle_id, split))

    def StopCanary(self, message: Any, context: grpc.ServicerContext) -> Any:
        """Let the active bundle answer all."""
        return self._show(self._bundles.stop_canary())

    def PromoteCanary(self, message: Any, context: grpc.ServicerContext) -> Any:
        """Make the canary the active bundle."""
        return self._show(self._bundles.promote_canary())

    def StartShadow(self, message: Any, context: grpc.ServicerContext) -> Any:
        """Let a second bundle compute a share of the answers again."""
        bundle_id = checks.check_id(message.bundle_id, "bundle_id")
        split = user_split("shadow", checks.check_share(message.request_share, "request_share"))
        return self._show(self._bundles.start_shadow_of(bundle_id, split))

    def StopShadow(self, message: Any, context: grpc.ServicerContext) -> Any:
        """Let nothing be computed twice."""
        return self._show(self._bundles.stop_shadow())

    def ListBundles(self, message: Any, context: grpc.ServicerContext) -> Any:
        """List the bundles from a page token on: the id after which the page starts."""
        size = checks.check_size(message.page_size, "page_size", DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)
        after = checks.check_optional_id(message.page_token, "page_token")
        roles = self._bundles.roles()
        found = [(name, until) for name, until in self._bundles.listing() if name > after]
        page = [translate.to_bundle(*each, roles) for each in found[:size]]
        token = found[size - 1][0] if len(found) > size else ""
        return admin_pb2.ListBundlesResponse(bundles=page, next_page_token=token)

    def BlockItems(self, message: Any, context: grpc.ServicerContext) -> Any:
        """Block items."""
        count = self._store.block_items(_item_ids(message.item_ids))
        return admin_pb2.BlockItemsResponse(blocked_item_count=count)

    def UnblockItems(self, message: Any, context: grpc.ServicerContext) -> Any:
        """Take blocks back."""
        count = self._store.unblock_items(_item_ids(message.item_ids))
        return admin_pb2.UnblockItemsResponse(blocked_item_count=count)

    def DeleteUser(self, message: Any, context: grpc.ServicerContext) -> Any:
        """Forget a user."""
        user_id = checks.check_id(message.user_id, "user_id")
        if self._answer_log is not None:
            self._answer_log.forget_user(user_id)
        self._bundles.delete_user(user_id)
        return Empty()

    def _show(self, recommender: Recommender) -> Any:
        roles = self._bundles.roles()
        return translate.to_bundle(recommender.bundle_id, recommender.data_until, roles)


def _item_ids(item_ids: Sequence[str]) -> list[str]:
    checks.check_count(item_ids, "item_ids", MAX_BLOCKED_AT_ONCE, minimum=1)
    return [
        checks.check_id(item_id, f"item_ids[{position}]")
        for position, item_id in enumerate(item_ids)
    ]
