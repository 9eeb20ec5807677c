"""Who calls, whether they may, and how often: asked before a byte of a request is parsed."""

from collections.abc import Callable
from dataclasses import dataclass
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
from serving.tokens import Token

AUTHORIZATION = "authorization"
SCHEME = "bearer"
FindToken = Callable[[str], Token | None]


@dataclass(frozen=True)
class Caller:
    """Who calls, before it is asked whether they may.

    Args:
        kind: How they are known: by `token`, `certificate` or `address`.
        name: Of the token, of the certificate, or the address.
        token: None where none is asked for, or none was found.
        refusal: Why they are not let in, whatever they call.
    """

    kind: str
    name: str
    token: Token | None = None
    refusal: RecsysError | None = None


class Access:
    """Admits callers.

    Args:
        find_token: Returns the token that a caller presents, None if nobody was given it; None
            asks nobody for a token.
        limiter: How often each may; None does not count.
        clock: Returns microseconds since the epoch.
        has_certificates: Whether callers show certificates. To ask gRPC for one costs a tenth of
            a call.
    """

    def __init__(
        self,
        find_token: FindToken | None,
        limiter: RateLimiter | None,
        clock: Callable[[], int],
        *,
        has_certificates: bool,
    ) -> None:
        self._find_token, self._limiter, self._clock = find_token, limiter, clock
        self._has_certificates = has_certificates

    def identify(self, context: grpc.ServicerContext) -> Caller:
        """Return who makes a call."""
        if self._find_token is None:
            return Caller(*self._peer(context))
        try:
            token = self._read_token(self._find_token, context)
        except RecsysError as refusal:
            return Caller(*self._peer(context), refusal=refusal)
        return Caller("token", token.name, token)

    def admit(self, caller: Caller, method: str = "") -> None:
        """Refuse a caller who may not call a method, or not now.

        Args:
            caller: As `identify` gave them.
            method: Its plain name; empty for what any token allows.

        Raises:
            RateLimitError: They call too often, known or not.
            TokenMissingError, TokenUnknownError, TokenExpiredError: They do not say who they are.
            PermissionDeniedError: Their token is not for this method.
        """
        self._take(caller)
        if caller.refusal is not None:
            raise caller.refusal
        token = caller.token
        if token is not None and method and method not in token.methods:
            raise PermissionDeniedError(
                f"the token {token.name!r} is not for {method}; use one that is, or have it added "
                f"to the server's tokens file"
            )

    def _read_token(self, find_token: FindToken, context: grpc.ServicerContext) -> Token:
        headers = [value for key, value in context.invocation_metadata() if key == AUTHORIZATION]
        scheme, _, presented = str(headers[0]).partition(" ") if len(headers) == 1 else ("", "", "")
        if scheme.lower() != SCHEME:
            raise TokenMissingError(
                "expected one 'authorization: Bearer TOKEN' in the call's metadata, got "
                f"{len(headers)} of that name; send the token that this site was given"
            )
        token = find_token(presented)
        if token is None:
            raise TokenUnknownError(
                "the token is not one of this server's; look for a line break at its end, or "
                "have a new one made"
            )
        if token.expires is not None and _date(self._clock()) >= token.expires:
            raise TokenExpiredError(
                f"the token {token.name!r} was valid until {token.expires.isoformat()}; have a "
                f"new one made"
            )
        return token

    def _peer(self, context: grpc.ServicerContext) -> tuple[str, str]:
        """Return how a caller without a token is known, and as whom."""
        identities = context.peer_identities() if self._has_certificates else None
        if identities:
            return "certificate", next(iter(identities)).decode("utf-8", "replace")
        return "address", network_of(context.peer())

    def _take(self, caller: Caller) -> None:
        if self._limiter is None:
            return
        seconds = self._limiter.take(f"{caller.kind} {caller.name}")
        if seconds > 0:
            raise RateLimitError(f"too many calls by {caller.name}; slow down", seconds)


def _date(microseconds: int) -> datetime:
    return datetime.fromtimestamp(microseconds / 1e6, UTC)
