"""OpenTelemetry traces, where ``telemetry.otlp_endpoint`` is set; the packages are imported only then.

Attributes have the names of the GenAI semantic conventions, and hold what a log line does: no prompts, no answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from proxy.errors import StartupError
from proxy.exchange import Action
from proxy.notes import Notes

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

SERVICE = "rass-proxy"
_FLUSH_LIMIT_MS = 5_000


class ExchangeSpan:
    """The span of one exchange."""

    def __init__(self, span: Span) -> None:
        self._span = span

    def headers(self) -> dict[str, str]:
        """Return the trace context to send upstream, so that its spans are children of this one."""
        from opentelemetry.trace import set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        carrier: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(carrier, set_span_in_context(self._span))
        return carrier

    def end(self, notes: Notes, status: int, first_byte_s: float | None) -> None:
        """Write down how the exchange ended; ``status`` is 0 where it ended before there was one."""
        from opentelemetry.trace import Status, StatusCode

        span = self._span
        if notes.model:
            span.update_name(f"chat {notes.model}")
            span.set_attribute("gen_ai.operation.name", "chat")
            # What the conventions call the flavour of the telemetry; whose model it is, a proxy cannot know.
            span.set_attribute("gen_ai.provider.name", "openai")
            span.set_attribute("gen_ai.request.model", notes.model)
            span.set_attribute("gen_ai.request.stream", notes.stream)
        if notes.stream and first_byte_s is not None:
            span.set_attribute("gen_ai.response.time_to_first_chunk", first_byte_s)
        own = {
            "key": notes.key_id,
            "mode": notes.mode,
            "action": notes.action,
            "zone": notes.zone,
            "language": notes.language,
        }
        for name, value in own.items():
            if value:
                span.set_attribute(f"rass.{name}", value)
        span.set_attribute("rass.attempts", notes.attempts)
        if status:
            span.set_attribute("http.response.status_code", status)
        if status >= 500 or status == 0 or notes.action in (Action.FAILED, Action.CLIENT_GONE):
            span.set_attribute("error.type", str(status) if status >= 500 else notes.action or "aborted")
            span.set_status(Status(StatusCode.ERROR))
        span.end()


class ExchangeTracer:
    """Begins a span for each exchange, below the one that the client's ``traceparent`` names."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer(SERVICE)

    def begin(self, headers: Mapping[str, str]) -> ExchangeSpan:
        """Begin the span of a request with these headers."""
        from opentelemetry.context import Context
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        context = TraceContextTextMapPropagator().extract(headers, Context())
        return ExchangeSpan(self._tracer.start_span("exchange", context, SpanKind.SERVER))

    def close(self) -> None:
        """Send what is left, for a bounded time."""
        self._provider.force_flush(_FLUSH_LIMIT_MS)
        self._provider.shutdown()


def open_tracer(endpoint: str | None) -> ExchangeTracer | None:
    """Return a tracer that sends to ``endpoint`` (OTLP over HTTP), or ``None`` without one.

    Raises ``StartupError`` where the extra ``otel`` is not installed.
    """
    if endpoint is None:
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise StartupError(
            f"telemetry.otlp_endpoint is set, and {error.name} is not installed; install rass-proxy[otel], or unset it"
        ) from error
    provider = TracerProvider(resource=Resource.create({"service.name": SERVICE}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
    return ExchangeTracer(provider)
