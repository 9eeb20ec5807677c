"""The errors of the edge, and the one table from errors to gRPC statuses (AIP-193)."""

from collections.abc import Mapping
from math import ceil

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from recsys.errors import ArtefactError, BundleError, RecsysError, RequestError, StateError

DOMAIN = "recsys"
RETRY_SECONDS = 1


class NotFoundError(RecsysError):
    """What a request names does not exist here."""


class TokenMissingError(RecsysError):
    """A call came without a token where one is asked for."""


class TokenUnknownError(RecsysError):
    """A call came with a token that nobody was given."""


class TokenExpiredError(RecsysError):
    """A call came with a token whose time is over."""


class PermissionDeniedError(RecsysError):
    """Who calls is known, but may not call this."""


class RateLimitError(RecsysError):
    """A caller calls too often.

    Args:
        message: What is wrong.
        retry_seconds: When the next call will be taken.
    """

    def __init__(self, message: str, retry_seconds: float) -> None:
        super().__init__(f"{message}, the next call in {retry_seconds:.3f} s")
        self.retry_seconds = retry_seconds


class OverloadError(RecsysError):
    """A call would have waited too long.

    Args:
        wait_seconds: How long.
    """

    def __init__(self, wait_seconds: float) -> None:
        super().__init__(
            f"too many calls wait: this one would wait {wait_seconds:.3f} s; call again then, "
            f"elsewhere, or allow more time"
        )
        self.retry_seconds = wait_seconds


class DeadlineError(RecsysError):
    """The caller had stopped waiting before the work began."""


class NotReadyError(RecsysError):
    """No bundle is loaded yet."""


class PreconditionError(RecsysError):
    """The server is not in a state in which this can be done."""


class MalformedError(RequestError):
    """The bytes are no message of the expected type."""


class PageTokenError(RequestError):
    """A page token is not this server's, too old, or of another request."""


class RequestIdError(RequestError):
    """A request id was used before, for another request."""


# The first class that fits decides: leaves before their bases.
STATUSES: Mapping[type[RecsysError], tuple[grpc.StatusCode, str]] = {
    MalformedError: (grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_MESSAGE"),
    PageTokenError: (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN"),
    RequestIdError: (grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_ID_REUSED"),
    RequestError: (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"),
    TokenMissingError: (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_MISSING"),
    TokenUnknownError: (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_UNKNOWN"),
    TokenExpiredError: (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_EXPIRED"),
    PermissionDeniedError: (grpc.StatusCode.PERMISSION_DENIED, "METHOD_NOT_ALLOWED"),
    RateLimitError: (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_CALLS"),
    OverloadError: (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED"),
    NotFoundError: (grpc.StatusCode.NOT_FOUND, "NOT_FOUND"),
    DeadlineError: (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_PAST"),
    NotReadyError: (grpc.StatusCode.UNAVAILABLE, "NOT_READY"),
    StateError: (grpc.StatusCode.UNAVAILABLE, "STATE_UNAVAILABLE"),
    PreconditionError: (grpc.StatusCode.FAILED_PRECONDITION, "PRECONDITION_FAILED"),
    BundleError: (grpc.StatusCode.FAILED_PRECONDITION, "BUNDLE_REFUSED"),
    ArtefactError: (grpc.StatusCode.FAILED_PRECONDITION, "ARTEFACT_REFUSED"),
    RecsysError: (grpc.StatusCode.INTERNAL, "INTERNAL"),
}
INTERNAL_MESSAGE = "internal error: the server's log has the details under this request id"


def status_of(error: Exception, request_id: str) -> status_pb2.Status:
    """Return the status of an error, with its details.

    Args:
        error: An error on purpose is told to the caller; of any other only that there was one.
        request_id: Of the caller, or the server's own; empty for none.
    """
    code, reason = _classify(error)
    is_told = isinstance(error, RecsysError) and code is not grpc.StatusCode.INTERNAL
    status = status_pb2.Status(
        code=code.value[0], message=str(error) if is_told else INTERNAL_MESSAGE
    )
    for detail in _details(error, code, reason, request_id):
        packed = AnyMessage()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def reason_of(error: Exception) -> str:
    """Return the reason of an error's status, one of few: good for a label."""
    return _classify(error)[1]


def _classify(error: Exception) -> tuple[grpc.StatusCode, str]:
    for kind, status in STATUSES.items():
        if isinstance(error, kind):
            return status
    return grpc.StatusCode.INTERNAL, "INTERNAL"


def _details(
    error: Exception, code: grpc.StatusCode, reason: str, request_id: str
) -> list[Message]:
    info = error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN)
    details: list[Message] = [info]
    if request_id:
        details.append(error_details_pb2.RequestInfo(request_id=request_id))
    if isinstance(error, RequestError):
        info.metadata["field"] = error.field
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=error.field, description=error.description, reason=reason
        )
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    delay = Duration()
    if code is grpc.StatusCode.UNAVAILABLE:
        delay.FromSeconds(RETRY_SECONDS)
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    elif isinstance(error, (RateLimitError, OverloadError)):
        delay.FromMicroseconds(ceil(error.retry_seconds * 1e6))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    return details
