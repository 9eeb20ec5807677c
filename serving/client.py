"""A client in Python: one object, one method a call, deadlines and retries set up.

    with RecommenderClient("127.0.0.1:50051") as client:
        for item in client.recommend_items("user-1").items:
            print(item.item_id)

Events and contexts are messages of `serving.v1.recommender_pb2`; `impression`, `watch` and
`search` make the common ones.
"""

import json
from collections.abc import Sequence
from types import TracebackType
from typing import Any
from uuid import uuid4

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from serving.addresses import is_loopback
from serving.v1 import recommender_pb2, recommender_pb2_grpc

MAX_MESSAGE_BYTES = 16 << 20
# Only UNAVAILABLE is retried (AIP-194): every call here is idempotent, and one that was too late
# or refused will be so again.
SERVICE_CONFIG = {
    "methodConfig": [
        {
            "name": [{"service": "recsys.v1.RecommenderService"}],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.1s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}


class RecommenderClient:
    """Calls one server; safe to share between threads, best kept for the process's life.

    Args:
        target: `host:port`.
        timeout_seconds: Deadline of each call, its retries included.
        tls: For a server with TLS, see `serving.tls.channel_credentials`.
        token: For a server that asks for one. Without TLS it goes to this machine only: on a
            network anybody on the way could read it.

    Raises:
        ValueError: A token would be sent unencrypted to another machine.
    """

    def __init__(
        self,
        target: str,
        *,
        timeout_seconds: float = 1.0,
        tls: grpc.ChannelCredentials | None = None,
        token: str = "",
    ) -> None:
        if token and tls is None and not is_loopback(target.rpartition(":")[0]):
            raise ValueError(f"expected TLS to send a token to {target}, which is another machine")
        header = (("authorization", f"Bearer {token}"),) if token else ()
        self._options: dict[str, Any] = {"timeout": timeout_seconds, "metadata": header}
        self._channel = open_channel(target, tls)
        self._stub = recommender_pb2_grpc.RecommenderServiceStub(self._channel)

    def __enter__(self) -> "RecommenderClient":
        """Return the client."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connection."""
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def wait_until_connected(self, timeout_seconds: float) -> None:
        """Wait for the server to listen.

        Raises:
            grpc.FutureTimeoutError: It did not in time.
        """
        grpc.channel_ready_future(self._channel).result(timeout=timeout_seconds)

    def recommend_items(self, user_id: str = "", **fields: Any) -> Any:
        """Return a `RecommendItemsResponse`.

        Args:
            user_id: Empty for a visitor of whom only the context is known.
            fields: Further fields of `RecommendItemsRequest`: page_size, context, filter, ...
                Without a `request_id` the call gets one, so that a retry is the same call.

        Raises:
            grpc.RpcError: Its `code()` and `details()` say why.
        """
        fields.setdefault("request_id", str(uuid4()))
        message = recommender_pb2.RecommendItemsRequest(user_id=user_id, **fields)
        return self._stub.RecommendItems(message, **self._options)

    def find_similar_items(self, item_id: str, item_count: int = 0) -> Any:
        """Return a `FindSimilarItemsResponse`; 0 items takes the server's default."""
        message = recommender_pb2.FindSimilarItemsRequest(item_id=item_id, item_count=item_count)
        return self._stub.FindSimilarItems(message, **self._options)

    def record_events(self, user_id: str, events: Sequence[Any]) -> Any:
        """Store events of a user, durably; return a `RecordEventsResponse`."""
        message = recommender_pb2.RecordEventsRequest(
            request_id=str(uuid4()), user_id=user_id, events=events
        )
        return self._stub.RecordEvents(message, **self._options)

    def get_bundle(self) -> Any:
        """Return the `Bundle` that answers now."""
        return self._stub.GetBundle(recommender_pb2.GetBundleRequest(), **self._options)


def open_channel(target: str, tls: grpc.ChannelCredentials | None = None) -> grpc.Channel:
    """Return a channel as `RecommenderClient` uses one: with its retries and limits."""
    options = [
        ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ]
    if tls is None:
        return grpc.insecure_channel(target, options=options)
    return grpc.secure_channel(target, tls, options=options)


def impression(item_id: str, *, event_id: str = "", moment: int | None = None) -> Any:
    """Return the event that an item was shown; `moment` in microseconds since the epoch."""
    return _event(event_id, moment, impression=recommender_pb2.Impression(item_id=item_id))


def watch(
    item_id: str,
    watch_ms: int | None = None,
    *,
    event_id: str = "",
    moment: int | None = None,
) -> Any:
    """Return the event that an item was watched, for so long."""
    message = recommender_pb2.Watch(item_id=item_id)
    if watch_ms is not None:
        duration = Duration()
        duration.FromMilliseconds(watch_ms)
        message.outcome.watch_duration.CopyFrom(duration)
    return _event(event_id, moment, watch=message)


def search(query: str, *, event_id: str = "", moment: int | None = None) -> Any:
    """Return the event that the user searched."""
    return _event(event_id, moment, search=recommender_pb2.Search(query=query))


def _event(event_id: str, moment: int | None, **kind: Any) -> Any:
    event = recommender_pb2.Event(event_id=event_id, **kind)
    if moment is not None:
        event_time = Timestamp()
        event_time.FromMicroseconds(moment)
        event.event_time.CopyFrom(event_time)
    return event
