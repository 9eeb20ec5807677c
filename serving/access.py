"""Who calls, whether they may, and how often: asked before a byte of a request is parsed."""

from collections.abc import Callable
from datetime import UTC, datetime

import grpc

from recsys.errors import RecsysError
from serving.addresses import network_of
from serving.rate_limit import RateLimiter
from serving.status import (
    PermissionDeniedError,
    RateLimitError,
    TokenExpiredError,
    TokenMissingError,
    TokenUnknownError,
)
from serving.tokens import Token, Tokens

AUTHORIZATION = "authorization"
SCHEME = "bearer"


class Access:
    """Admits callers.

    Args:
        tokens: Who may call what; None asks nobody for a token.
        limiter: How often each may; None does not count.
        clock: Returns microseconds since the epoch.
    """

    def __init__(
        self, tokens: Tokens | None, limiter: RateLimiter | None, clock: Callable[[], int]
    ) -> None:
        self._tokens, self._limiter, self._clock = tokens, limiter, clock

    def admit(self, method: str, context: grpc.ServicerContext) -> str:
        """Return the name of who calls a method: of their token, certificate or address.

        Args:
            method: Its plain name; empty for what any token allows.
            context: Of the call.

        Raises:
            TokenMissingError, TokenUnknownError, TokenExpiredError: They do not say who they are.
            RateLimitError: They call too often; also if they do not say who they are.
            PermissionDeniedError: Their token is not for this method.
        """
        token, refusal = self._authenticate(context)
        kind, caller = ("token", token.name) if token else _peer(context)
        self._take(kind, caller)
        if refusal is not None:
            raise refusal
        if token is not None and method and method not in token.methods:
            raise PermissionDeniedError(
                f"the token {token.name!r} is not for {method}; use one that is, or have it added "
                f"to the server's tokens file"
            )
        return caller

    def _authenticate(
        self, context: grpc.ServicerContext
    ) -> tuple[Token | None, RecsysError | None]:
        if self._tokens is None:
            return None, None
        headers = [value for key, value in context.invocation_metadata() if key == AUTHORIZATION]
        scheme, _, presented = str(headers[0]).partition(" ") if len(headers) == 1 else ("", "", "")
        if scheme.lower() != SCHEME:
            return None, TokenMissingError(
                "expected one 'authorization: Bearer TOKEN' in the call's metadata, got "
                f"{len(headers)} of that name; send the token that this site was given"
            )
        token = self._tokens.find(presented)
        if token is None:
            return None, TokenUnknownError(
                "the token is not one of this server's; look for a line break at its end, or "
                "have a new one made"
            )
        if token.expires is not None and _date(self._clock()) >= token.expires:
            return None, TokenExpiredError(
                f"the token {token.name!r} was valid until {token.expires.isoformat()}; have a "
                f"new one made"
            )
        return token, None

    def _take(self, kind: str, caller: str) -> None:
        if self._limiter is None:
            return
        seconds = self._limiter.take(f"{kind} {caller}")
        if seconds > 0:
            raise RateLimitError(f"too many calls by {caller}; slow down", seconds)


def _peer(context: grpc.ServicerContext) -> tuple[str, str]:
    """Return how a caller without a token is known, and as whom."""
    identities = context.peer_identities()
    if identities:
        return "certificate", next(iter(identities)).decode("utf-8", "replace")
    return "address", network_of(context.peer())


def _date(microseconds: int) -> datetime:
    return datetime.fromtimestamp(microseconds / 1e6, UTC)
