"""Frozen rankings: pages go on where the last one ended, and a repeated request gets the same.

The first answer to a request is kept under (user, request id), with a digest of the request, for
15 minutes and within a budget of bytes. A page token is that request id, an offset and the
digest, under a seal that only this process can make: tokens do not outlive it.
"""

import base64
import binascii
import hashlib
import hmac
import secrets
import struct
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from serving.status import PageTokenError, RequestIdError
from serving.v1 import recommender_pb2

LIFETIME_SECONDS = 900
MAX_BYTES = 64 << 20
RANKED_PAGES = 5
"""Pages that one ranking holds, within the bundle's number of candidates."""
DIGEST_BYTES, SEAL_BYTES = 16, 16
OFFSET = struct.Struct(">I")
FREE_FIELDS = ("request_id", "page_size", "page_token")
"""What may differ between the pages of one ranking."""


@dataclass(frozen=True)
class _Kept:
    digest: bytes
    packed: bytes
    expires: int


def digest_request(message: Any) -> bytes:
    """Return a digest of what a RecommendItemsRequest asks, whatever the page."""
    asked = recommender_pb2.RecommendItemsRequest()
    asked.CopyFrom(message)
    for name in FREE_FIELDS:
        asked.ClearField(name)
    packed = asked.SerializeToString(deterministic=True)
    return hashlib.blake2b(packed, digest_size=DIGEST_BYTES).digest()


class Rankings:
    """Answers kept for their further pages.

    Args:
        clock: Returns microseconds since the epoch.
        max_bytes: When more is kept the oldest go first.
    """

    def __init__(self, clock: Callable[[], int], *, max_bytes: int = MAX_BYTES) -> None:
        self._clock = clock
        self._max_bytes = max_bytes
        self._kept: OrderedDict[tuple[str, str], _Kept] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        self._secret = secrets.token_bytes(32)

    def find(self, user_id: str, request_id: str, digest: bytes) -> Any | None:
        """Return the ranking kept for a request, None if there is none (any more).

        Raises:
            RequestIdError: The id was given with another request.
        """
        with self._lock:
            self._drop_expired()
            kept = self._kept.get((user_id, request_id))
        return None if kept is None else _unpack(kept, request_id, digest)

    def keep(self, user_id: str, request_id: str, digest: bytes, ranking: Any) -> Any:
        """Keep a ranking under a request id; return it, or the one kept meanwhile.

        Raises:
            RequestIdError: The id was given with another request meanwhile.
        """
        packed = ranking.SerializeToString()
        fresh = _Kept(digest, packed, self._clock() + LIFETIME_SECONDS * 1_000_000)
        with self._lock:
            kept = self._kept.setdefault((user_id, request_id), fresh)
            if kept is fresh:
                self._bytes += len(packed)
            while self._bytes > self._max_bytes:
                self._discard(next(iter(self._kept)))
        return ranking if kept is fresh else _unpack(kept, request_id, digest)

    def cut(self, ranking: Any, request_id: str, digest: bytes, offset: int, size: int) -> Any:
        """Cut a ranking down to the page from an offset on, and return it: it is changed."""
        items, end = ranking.items, offset + size
        if end < len(items):
            ranking.next_page_token = self._make_token(request_id, digest, end)
            del items[end:]
        del items[:offset]
        ranking.request_id = request_id
        return ranking

    def read_token(self, token: str, digest: bytes) -> tuple[str, int]:
        """Return the request id and offset of a page token.

        Raises:
            PageTokenError: It is not this server's, or of another request.
        """
        content = self._open(token)
        if content is None:
            raise PageTokenError(
                "page_token", "expected a token of this server; start again without one"
            )
        if content[:DIGEST_BYTES] != digest:
            raise PageTokenError(
                "page_token",
                "expected the request of the page before (only page_size may change); "
                "start again without a token",
            )
        offset = OFFSET.unpack_from(content, DIGEST_BYTES)[0]
        return content[DIGEST_BYTES + OFFSET.size :].decode(), offset

    def _make_token(self, request_id: str, digest: bytes, offset: int) -> str:
        content = digest + OFFSET.pack(offset) + request_id.encode()
        return base64.urlsafe_b64encode(self._seal(content) + content).decode()

    def _open(self, token: str) -> bytes | None:
        try:
            raw = base64.b64decode(token.encode(), altchars=b"-_", validate=True)
        except binascii.Error:
            return None
        seal, content = raw[:SEAL_BYTES], raw[SEAL_BYTES:]
        return content if hmac.compare_digest(seal, self._seal(content)) else None

    def _seal(self, content: bytes) -> bytes:
        return hmac.digest(self._secret, content, "sha256")[:SEAL_BYTES]

    def _drop_expired(self) -> None:
        # All live equally long, so the oldest expire first.
        now = self._clock()
        while self._kept and next(iter(self._kept.values())).expires <= now:
            self._discard(next(iter(self._kept)))

    def _discard(self, key: tuple[str, str]) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self._bytes -= len(kept.packed)


def _unpack(kept: _Kept, request_id: str, digest: bytes) -> Any:
    if kept.digest != digest:
        raise RequestIdError(
            "request_id",
            f"{request_id!r} was used for another request of this user; "
            f"give each request an id of its own",
        )
    return recommender_pb2.RecommendItemsResponse.FromString(kept.packed)
