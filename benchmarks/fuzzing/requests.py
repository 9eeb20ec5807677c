"""Any bytes for any method, and what must hold of the answer: it is a valid message, or a refusal
of the caller's with the details that the API promises.

Bytes come in three kinds: arbitrary ones; messages of the right type whose every field may hold
anything of its type; and such messages with bits flipped, cut, doubled or spliced.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from hypothesis import strategies as st

from serving.v1 import admin_pb2, recommender_pb2

MAX_DEPTH = 4
TIMEOUT_SECONDS = 10.0
REFUSALS = frozenset(
    {"INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "UNAUTHENTICATED"}
    | {"PERMISSION_DENIED", "RESOURCE_EXHAUSTED"}
)
"""Statuses that say that the caller has to mend something."""
TEXTS = ["", "\0", "i1", "item-7", "user-1", "x" * 129, "\u202e", "\U0010ffff", "é" * 64, "../../x"]
TAME_TEXTS = ["i1", "i7", "i48", "item-7", "user-1", "home"]
UNTAME = frozenset(
    {"page_token", "topics", "channel_ids", "languages", "outcome_time", "diversity"}
)
"""Fields of which few values have a meaning."""
NUMBERS = [
    0,
    1,
    -1,
    7,
    100,
    2**31 - 1,
    -(2**31),
    2**63 - 1,
    -(2**63),
    253_402_300_799,
    1_790_000_000,
]
METADATA = st.lists(
    st.tuples(
        st.sampled_from(["traceparent", "tracestate", "authorization", "x-other"]),
        st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=80),
    ),
    max_size=3,
)


@dataclass(frozen=True)
class Method:
    """One method of the API.

    Args:
        path: As gRPC calls it.
        request, response: Types of its messages.
    """

    path: str
    request: type[Message]
    response: type[Message]


def _methods() -> list[Method]:
    services = [
        service
        for file in (recommender_pb2, admin_pb2)
        for service in file.DESCRIPTOR.services_by_name.values()
    ]
    return [
        Method(
            f"/{service.full_name}/{method.name}",
            message_factory.GetMessageClass(method.input_type),
            message_factory.GetMessageClass(method.output_type),
        )
        for service in services
        for method in service.methods
    ]


METHODS = _methods()


@st.composite
def calls(draw: st.DrawFn) -> tuple[Method, bytes, list[tuple[str, str]]]:
    """Draw a method, the bytes of a request, and metadata."""
    method = draw(st.sampled_from(METHODS))
    kind = draw(st.sampled_from(["typed", "typed", "mutated", "mutated", "arbitrary"]))
    if kind == "arbitrary":
        return method, draw(st.binary(max_size=300)), draw(METADATA)
    message = draw(messages(method.request.DESCRIPTOR, tame=draw(st.booleans())))
    packed = message.SerializeToString()
    if kind == "mutated":
        packed = draw(mutated(packed))
    return method, packed, draw(METADATA)


@st.composite
def messages(draw: st.DrawFn, descriptor: Descriptor, *, tame: bool, depth: int = 0) -> Message:
    """Draw a message of a type.

    Args:
        draw: Of hypothesis.
        descriptor: The type.
        tame: Whether its values look like a caller's, and it is mostly answered; otherwise any
            field may hold anything of its type.
        depth: Of the message in others.
    """
    message = message_factory.GetMessageClass(descriptor)()
    if depth > MAX_DEPTH or not descriptor.fields:
        return message
    fields = st.sampled_from(list(descriptor.fields))
    chosen = draw(st.lists(fields, unique_by=_name, max_size=6))
    if tame:
        ids = [field for field in descriptor.fields if field.name.endswith("_id")]
        kinds = [oneof.fields[-2:] for oneof in descriptor.oneofs if oneof.name == "kind"]
        chosen = [field for field in chosen if field.name not in UNTAME] + ids
        chosen += [draw(st.sampled_from(list(kind))) for kind in kinds]
    for field in chosen:
        value = _values(field, depth, tame)
        if field.is_repeated:
            getattr(message, field.name).extend(draw(st.lists(value, max_size=4)))
        else:
            _set(message, field, draw(value))
    return message


@st.composite
def mutated(draw: st.DrawFn, packed: bytes) -> bytes:
    """Draw bytes that were a message before something happened to them."""
    place = draw(st.integers(0, len(packed)))
    head, tail = packed[:place], packed[place:]
    noise = draw(st.binary(min_size=1, max_size=8))
    kind = draw(st.sampled_from(["flip", "cut", "double", "splice", "drop", "append"]))
    if kind == "flip" and tail:
        return head + bytes([tail[0] ^ (noise[0] or 1)]) + tail[1:]
    return {
        "cut": head,
        "double": packed + packed,
        "splice": head + noise + tail,
        "drop": head + tail[len(noise) :],
    }.get(kind, packed + noise)


def call(channel: grpc.Channel, method: Method, packed: bytes, metadata: Sequence[Any] = ()) -> str:
    """Call a method, check what must hold, and return the name of the status.

    Raises:
        AssertionError: The answer is none that the API promises.
    """
    try:
        answer = channel.unary_unary(method.path)(
            packed, timeout=TIMEOUT_SECONDS, metadata=[*metadata]
        )
    except grpc.RpcError as error:
        _check_refusal(error)
        return error.code().name
    message = method.response.FromString(answer)
    _expect(not list(getattr(message, "degraded_stages", ())), f"degraded: {message}")
    return "OK"


def _check_refusal(error: Any) -> None:
    name, status = error.code().name, rpc_status.from_call(error)
    _expect(name in REFUSALS, f"{name}: {error.details()}")
    _expect(status is not None, f"{name} without details: {error.details()}")
    found = {packed.type_url.rpartition(".")[2]: packed for packed in status.details}
    info = error_details_pb2.ErrorInfo()
    found["ErrorInfo"].Unpack(info)
    _expect(info.domain == "recsys" and bool(info.reason), f"{name} without a reason")
    _expect("RequestInfo" in found, f"{name} without a request id")
    if name == "INVALID_ARGUMENT":
        _expect("BadRequest" in found, f"{info.reason} without the field")


def _expect(holds: bool, what: str) -> None:
    if not holds:
        raise AssertionError(what)


def _values(field: FieldDescriptor, depth: int, tame: bool) -> st.SearchStrategy[Any]:
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        return messages(field.message_type, tame=tame, depth=depth + 1)
    bits = 64 if field.cpp_type == FieldDescriptor.CPPTYPE_INT64 else 32
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    edges = [number for number in NUMBERS if low <= number <= high]
    texts = st.sampled_from(TEXTS) | st.text(max_size=40)
    return {
        FieldDescriptor.CPPTYPE_STRING: st.sampled_from(TAME_TEXTS) if tame else texts,
        FieldDescriptor.CPPTYPE_BOOL: st.booleans(),
        FieldDescriptor.CPPTYPE_DOUBLE: st.floats(),
    }.get(
        field.cpp_type,
        st.integers(0, 100) if tame else st.integers(low, high) | st.sampled_from(edges),
    )


def _name(field: FieldDescriptor) -> str:
    return field.name


def _set(message: Message, field: FieldDescriptor, value: Any) -> None:
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        getattr(message, field.name).CopyFrom(value)
    else:
        setattr(message, field.name, value)
