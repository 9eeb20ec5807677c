"""Spans for OpenTelemetry: one a call under its caller's span, one a stage under it.

Nothing of OpenTelemetry is imported unless spans are asked for, and it is an extra to install.
Attributes follow its conventions for RPC servers.
"""

import logging
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from recsys.errors import ConfigError
from serving.settings import TracingSettings

TRACEPARENT = "traceparent"
TRACE_HEADERS = (TRACEPARENT, "tracestate")
TRACE_ID = re.compile(r"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
SERVICE_NAME = "recsys"
LIBRARY = "opentelemetry"
EXPORT_SECONDS = 2
"""A collector on the way takes milliseconds, and a stop waits for the last batch."""
SERVER_FAULTS = frozenset(
    {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
)
"""Statuses that make a server's span an error; the others are the caller's doing."""


def trace_headers(metadata: Sequence[tuple[str, Any]]) -> dict[str, str]:
    """Return what a caller says of its trace (W3C Trace Context), by name."""
    return {name: str(value) for name, value in metadata if name in TRACE_HEADERS}


def trace_id_of(headers: Mapping[str, str]) -> str:
    """Return the id of the caller's trace in hex, empty if it names none."""
    found = TRACE_ID.fullmatch(headers.get(TRACEPARENT, ""))
    return found.group(1) if found else ""


class CallSpan:
    """The span of one call, from its making to `end`."""

    def __init__(self, tracer: Any, method: str, headers: Mapping[str, str]) -> None:
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._tracer, self._started_ns = tracer, time.time_ns()
        self._span = tracer.start_span(
            method,
            TraceContextTextMapPropagator().extract(dict(headers)),
            SpanKind.SERVER,
            {"rpc.system.name": "grpc", "rpc.method": method},
            start_time=self._started_ns,
        )

    @property
    def trace_id(self) -> str:
        """Id of the trace in hex, as the log line has it."""
        return f"{self._span.get_span_context().trace_id:032x}"

    def end(self, code: str, facts: Mapping[str, Any]) -> None:
        """End the span.

        Args:
            code: Name of the call's status.
            facts: What its log line says; `stage_ms` becomes spans of that length, laid end to
                end, since stages follow each other.
        """
        from opentelemetry.trace import Status, StatusCode, set_span_in_context

        parent = set_span_in_context(self._span)
        moment_ns = self._started_ns
        for stage, milliseconds in facts.get("stage_ms", {}).items():
            span = self._tracer.start_span(f"stage {stage}", parent, start_time=moment_ns)
            moment_ns += int(milliseconds * 1e6)
            span.end(moment_ns)
        self._span.set_attribute("rpc.response.status_code", code)
        for name in ("bundle", "request_id", "degraded"):
            if name in facts:
                self._span.set_attribute(f"recsys.{name}", facts[name])
        if code in SERVER_FAULTS:
            self._span.set_attribute("error.type", code)
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()


class ToLog(logging.Handler):
    """Puts what OpenTelemetry says of itself (no collector, spans lost) into the server's log."""

    def __init__(self, logger: Any) -> None:
        super().__init__(logging.WARNING)
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line, `tracing`."""
        self._logger.warning("tracing", error=record.getMessage())


class Tracing:
    """Where spans go.

    Args:
        provider: A tracer provider of OpenTelemetry's SDK; closed with this.
        logger: Told when spans are lost.
    """

    def __init__(self, provider: Any, logger: Any) -> None:
        self._provider = provider
        self._to_log = ToLog(logger)
        library = logging.getLogger(LIBRARY)
        library.addHandler(self._to_log)
        library.propagate = False
        self._tracer = provider.get_tracer(SERVICE_NAME)

    def start(self, method: str, headers: Mapping[str, str]) -> CallSpan:
        """Begin the span of a call.

        Args:
            method: As in `recsys.v1.RecommenderService/GetBundle`.
            headers: Of the caller's trace, as `trace_headers` gives them.
        """
        return CallSpan(self._tracer, method, headers)

    def close(self) -> None:
        """Send what is left; without a collector give up after a few seconds."""
        self._provider.shutdown()
        logging.getLogger(LIBRARY).removeHandler(self._to_log)


def new_tracing(settings: TracingSettings, logger: Any) -> Tracing:
    """Return tracing that sends spans, in batches and apart from the calls, to a collector.

    Args:
        settings: Where to, and how many.
        logger: Told when spans are lost.

    Raises:
        ConfigError: The extra is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
    except ImportError:
        raise ConfigError(
            "[tracing] needs OpenTelemetry, which is not installed; `pip install recsys[tracing]`"
        ) from None
    is_plain = settings.endpoint.startswith("http://")
    provider = TracerProvider(
        sampler=ParentBasedTraceIdRatio(settings.sample_share),
        resource=Resource.create({"service.name": SERVICE_NAME}),
        shutdown_on_exit=False,
    )
    exporter = OTLPSpanExporter(
        endpoint=settings.endpoint, insecure=is_plain, timeout=EXPORT_SECONDS
    )
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return Tracing(provider, logger)
