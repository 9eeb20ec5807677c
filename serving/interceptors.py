"""What happens round every call: parsing, deadline, status of errors, metrics, one log line."""

import hashlib
import hmac
import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import grpc
import structlog
from google.protobuf.message import DecodeError, Message
from google.rpc import status_pb2
from grpc_status import rpc_status

from serving.checks import MAX_REQUEST_ID_LENGTH
from serving.metrics import Metrics
from serving.status import DeadlineError, MalformedError, status_of

PACKAGE = "/recsys.v1."
USER_HASH_BYTES = 8


class CallInterceptor(grpc.ServerInterceptor):
    """Wraps the calls of this project's services; health and reflection pass untouched.

    Args:
        metrics: Counts every call.
        logger: Gets one event a call, `call`, with what was bound to the context meanwhile.
        log_key: Secret under which user ids are hashed in the log.
    """

    def __init__(self, metrics: Metrics, logger: Any, log_key: bytes) -> None:
        self._metrics, self._logger, self._log_key = metrics, logger, log_key

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Any],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Return the handler of a call, wrapped."""
        handler = continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or not method.startswith(PACKAGE):
            return handler

        def answer(packed: bytes, context: grpc.ServicerContext) -> Message:
            return self._answer(handler, method.rpartition("/")[2], packed, context)

        # Parsing is done here, so that bytes which are no message get a status of their own.
        return grpc.unary_unary_rpc_method_handler(
            answer, request_deserializer=None, response_serializer=handler.response_serializer
        )

    def _answer(
        self, handler: Any, method: str, packed: bytes, context: grpc.ServicerContext
    ) -> Message:
        started = time.perf_counter()
        request_id = str(uuid4())
        status = None
        try:
            message = _parse(handler.request_deserializer, packed)
            # One too long is refused by the servicer, and is not repeated to anybody.
            request_id = _field(message, "request_id")[:MAX_REQUEST_ID_LENGTH] or request_id
            structlog.contextvars.bind_contextvars(user=self._hash(_field(message, "user_id")))
            _check_deadline(context)
            return handler.unary_unary(message, context)
        except Exception as error:  # the outermost: whatever it is, the caller gets a status
            status = status_of(error, request_id)
            self._log_error(error, status)
        finally:
            self._finish(method, status, request_id, time.perf_counter() - started)
        return context.abort_with_status(rpc_status.to_status(status))

    def _finish(
        self, method: str, status: status_pb2.Status | None, request_id: str, seconds: float
    ) -> None:
        code = code_name(status.code) if status else "OK"
        self._metrics.count_request(method, code, seconds)
        self._logger.info(
            "call",
            method=method,
            code=code,
            request_id=request_id,
            milliseconds=round(seconds * 1000, 3),
            **structlog.contextvars.get_contextvars(),
        )

    def _log_error(self, error: Exception, status: status_pb2.Status) -> None:
        if code_name(status.code) == "INTERNAL":
            self._logger.error("failure", exc_info=error)
        else:
            structlog.contextvars.bind_contextvars(error=status.message)

    def _hash(self, user_id: str) -> str:
        if not user_id:
            return ""
        digest = hmac.digest(self._log_key, user_id.encode(), hashlib.sha256)
        return digest[:USER_HASH_BYTES].hex()


def code_name(number: int) -> str:
    """Return the name of a status code."""
    return next(code.name for code in grpc.StatusCode if code.value[0] == number)


def _parse(deserializer: Callable[[bytes], Message], packed: bytes) -> Message:
    try:
        return deserializer(packed)
    except DecodeError as error:
        raise MalformedError("request", f"the bytes are no such message: {error}") from None


def _field(message: Message, name: str) -> str:
    return getattr(message, name) if name in message.DESCRIPTOR.fields_by_name else ""


def _check_deadline(context: grpc.ServicerContext) -> None:
    if context.time_remaining() <= 0:
        raise DeadlineError("the deadline had passed before the work began; allow more time")
