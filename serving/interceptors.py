"""What happens round every call: who may, parsing, deadline, status of errors, and what is left
behind: metrics, a span, one log line."""

import hashlib
import hmac
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from math import ceil
from typing import Any
from uuid import uuid4

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import status_pb2
from grpc_status import rpc_status

from serving.access import Access
from serving.call_facts import begin_facts, note_facts
from serving.call_pool import refusable
from serving.checks import MAX_REQUEST_ID_LENGTH
from serving.metrics import Metrics
from serving.status import (
    DeadlineError,
    MalformedError,
    NotReadyError,
    OverloadError,
    reason_of,
    status_of,
)
from serving.tracing import CallSpan, Tracing, trace_headers, trace_id_of

PACKAGE = "/recsys.v1."
ADMIN = "recsys.v1.AdminService/"
REFLECTION = "/grpc.reflection."
USER_HASH_BYTES = 8
RETRY_STEP_SECONDS = 0.01
"""To which the wait told to who is refused is rounded up: so there are few such statuses."""
MAX_REFUSALS = 1024
OVERLOADED = reason_of(OverloadError(0.0))
CODE_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}


@dataclass
class _Call:
    """One call while it is answered."""

    method: str
    trace_id: str
    span: CallSpan | None
    facts: dict[str, Any] = field(default_factory=begin_facts)
    request_id: str = ""
    started: float = field(default_factory=time.perf_counter)

    def named(self) -> str:
        """Return the request's id: the caller's, that of the answer, or one for this call."""
        if not self.request_id:
            self.request_id = self.facts.get("request_id") or str(uuid4())
        return self.request_id


class CallInterceptor(grpc.ServerInterceptor):
    """Wraps the calls of this project's services. Reflection is only asked who calls; health
    passes untouched, so that probes need no token.

    Args:
        metrics: Counts every call.
        logger: Gets one event a call, `call`, with what was bound to the context meanwhile.
        log_key: Secret under which user ids are hashed in the log; None leaves them out.
        access: Says who may call.
        tracing: Gets a span of every call; None for no spans.
        refused_wait_seconds: Says how long the call of this thread would have waited, None if it
            is to be answered (`serving.call_pool`).
    """

    def __init__(
        self,
        metrics: Metrics,
        logger: Any,
        log_key: bytes | None,
        access: Access,
        tracing: Tracing | None = None,
        refused_wait_seconds: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._metrics, self._logger, self._log_key = metrics, logger, log_key
        self._access, self._tracing = access, tracing
        self._refused_wait_seconds = refused_wait_seconds
        self._is_stopping = False
        self._wrapped: dict[str, grpc.RpcMethodHandler] = {}

    def stop_admitting(self) -> None:
        """Tell all further calls that the server stops; those that are being answered go on."""
        self._is_stopping = True

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Any],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Return the handler of a call, wrapped: once for all calls of a method."""
        wrapped = self._wrapped.get(handler_call_details.method)
        if wrapped is not None:
            return wrapped
        handler = continuation(handler_call_details)
        method = handler_call_details.method
        if handler is not None and method.startswith(REFLECTION):
            return self._admitted_stream(handler)
        if handler is None or not method.startswith(PACKAGE):
            return handler

        def answer(requests: Iterator[bytes], context: grpc.ServicerContext) -> Message:
            return self._answer(handler, method.removeprefix("/"), requests, context)

        # A stream of the one message, which is the same on the wire: who is refused need not have
        # been read. Parsing is done here too, so that bytes which are no message get a status of
        # their own.
        self._wrapped[method] = grpc.stream_unary_rpc_method_handler(
            # The operator mends an overload, and is let through.
            answer if method.startswith(f"/{ADMIN}") else refusable(answer),
            request_deserializer=None,
            response_serializer=handler.response_serializer,
        )
        return self._wrapped[method]

    def _answer(
        self, handler: Any, path: str, requests: Iterator[bytes], context: grpc.ServicerContext
    ) -> Message:
        wait_seconds = self._refused_wait_seconds()
        if wait_seconds is not None:
            return self._refuse(path, wait_seconds, context)
        call = self._begin(path, context)
        status = None
        try:
            if self._is_stopping:
                raise NotReadyError("the server is stopping; call another")
            _check_deadline(context)
            caller = self._access.identify(context)
            note_facts(client=caller.name)
            self._access.admit(caller, call.method)
            message = _parse(handler.request_deserializer, requests)
            # One too long is refused by the servicer, and is not repeated to anybody.
            call.request_id = _field(message, "request_id")[:MAX_REQUEST_ID_LENGTH]
            self._bind_user(_field(message, "user_id"))
            return handler.unary_unary(message, context)
        except Exception as error:  # the outermost: whatever it is, the caller gets a status
            status = status_of(error, call.named())
            self._note_error(call, error, status)
        finally:
            self._finish(call, code_name(status.code) if status else "OK")
        return context.abort_with_status(rpc_status.to_status(status))

    def _refuse(self, path: str, wait_seconds: float, context: grpc.ServicerContext) -> Message:
        """Refuse a call for want of time: counted, but without a line or a span, to cost little."""
        refusal = _refusal(ceil(wait_seconds / RETRY_STEP_SECONDS))
        self._metrics.count_refused(path.rpartition("/")[2], refusal.code.name, OVERLOADED)
        return context.abort_with_status(refusal)

    def _begin(self, path: str, context: grpc.ServicerContext) -> _Call:
        headers = trace_headers(context.invocation_metadata() or ())
        span = self._tracing.start(path, headers) if self._tracing else None
        trace_id = span.trace_id if span else trace_id_of(headers)
        call = _Call(path.rpartition("/")[2], trace_id, span)
        self._metrics.begin_request(call.method)
        return call

    def _finish(self, call: _Call, code: str) -> None:
        seconds = time.perf_counter() - call.started
        self._metrics.count_request(call.method, code, seconds)
        facts = call.facts | {"request_id": call.named()}
        if call.trace_id:
            facts["trace_id"] = call.trace_id
        self._logger.info(
            "call", method=call.method, code=code, milliseconds=round(seconds * 1000, 3), **facts
        )
        if call.span is not None:
            call.span.end(code, facts)

    def _note_error(self, call: _Call, error: Exception, status: status_pb2.Status) -> None:
        reason = reason_of(error)
        self._metrics.count_error(call.method, reason)
        note_facts(reason=reason)
        if code_name(status.code) == "INTERNAL":
            self._logger.error("failure", request_id=call.named(), exc_info=error)
        else:
            note_facts(error=status.message)

    def _admitted_stream(self, handler: Any) -> Any:
        def answer(requests: Iterator[Message], context: grpc.ServicerContext) -> Iterator[Message]:
            try:
                self._access.admit(self._access.identify(context))
            except Exception as error:  # as above
                status = status_of(error, str(uuid4()))
                context.abort_with_status(rpc_status.to_status(status))
            yield from handler.stream_stream(requests, context)

        return grpc.stream_stream_rpc_method_handler(
            answer, handler.request_deserializer, handler.response_serializer
        )

    def _bind_user(self, user_id: str) -> None:
        if self._log_key is None:
            return
        digest = hmac.digest(self._log_key, user_id.encode(), hashlib.sha256)
        hashed = digest[:USER_HASH_BYTES].hex() if user_id else ""
        note_facts(user=hashed)


def code_name(number: int) -> str:
    """Return the name of a status code."""
    return CODE_NAMES[number]


@lru_cache(maxsize=MAX_REFUSALS)
def _refusal(steps: int) -> grpc.Status:
    """Return the status of a call refused for want of time; no more is known than the wait."""
    return rpc_status.to_status(status_of(OverloadError(steps * RETRY_STEP_SECONDS), ""))


def _parse(deserializer: Callable[[bytes], Message], requests: Iterator[bytes]) -> Message:
    try:
        return deserializer(next(requests))
    except StopIteration:
        raise MalformedError("request", "expected a message, got none") from None
    except DecodeError as error:
        raise MalformedError("request", f"the bytes are no such message: {error}") from None


def _field(message: Message, name: str) -> str:
    return getattr(message, name) if name in message.DESCRIPTOR.fields_by_name else ""


def _check_deadline(context: grpc.ServicerContext) -> None:
    if context.time_remaining() <= 0:
        raise DeadlineError("the deadline had passed before the work began; allow more time")
