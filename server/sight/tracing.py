"""OpenTelemetry traces: a span a call, the child of the caller's where it sent a `traceparent`.

Needs the extra `tracing`. Where spans go, and how many, is set by OpenTelemetry's own variables, such as
OTEL_EXPORTER_OTLP_ENDPOINT.
"""

import os

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from server import __version__
from server.sight.ledger import Entry

# An attribute's name under OpenTelemetry's conventions for generative models, where they have one.
_NAMES = {"prompt_tokens": "gen_ai.usage.input_tokens", "reason": "gen_ai.response.finish_reasons"}
# Statuses that are the caller's own doing, not a fault of the server.
_FAULTS = {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}


# Seconds; a collector that is gone must not hold up the end of the server for the usual ten.
os.environ.setdefault("OTEL_EXPORTER_OTLP_TIMEOUT", "2")


def described() -> Resource:
    """What sends spans and metrics, OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME included."""
    return Resource.create({SERVICE_NAME: "thermostat", SERVICE_VERSION: __version__})


def exporting() -> TracerProvider:
    """Spans that are sent in batches by OTLP over gRPC."""
    provider = TracerProvider(resource=described())
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


class Tracing:
    """A Book of spans. Comes before the log, so that its line has the trace's id."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("thermostat", __version__)
        self._spans: dict[int, trace.Span] = {}

    def open(self, entry: Entry) -> None:
        """Begin the span."""
        service, method = entry.method[1:].split("/")
        parent = TraceContextTextMapPropagator().extract(entry.trace)
        attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method, "client.address": entry.peer}
        span = self._tracer.start_span(f"{service}/{method}", parent, trace.SpanKind.SERVER, attributes)
        self._spans[id(entry)] = span
        entry.figures["trace"] = trace.format_trace_id(span.get_span_context().trace_id)

    def close(self, entry: Entry) -> None:
        """End it, with what came of the call."""
        span = self._spans.pop(id(entry))
        span.set_attribute("rpc.response.status_code", entry.code)
        span.set_attribute("enduser.id", entry.caller)
        span.set_attribute("gen_ai.usage.output_tokens", entry.output_tokens)
        for name, value in entry.figures.items():
            if name != "trace":
                span.set_attribute(_NAMES.get(name, f"thermostat.{name}"), value)
        if entry.code in _FAULTS:
            span.set_status(trace.StatusCode.ERROR, entry.code)
        span.end()

    def end(self) -> None:
        """Send what has not been sent. Blocks."""
        self._provider.shutdown()
