"""Traces with OpenTelemetry. No other module imports it, and this one is imported only if an endpoint is configured.

The tracer provider belongs to this package and is not the global one, so traces of Serve and other libraries stay
separate. The SDK's environment variables (``OTEL_BSP_…``, ``OTEL_EXPORTER_OTLP_HEADERS``,
``OTEL_RESOURCE_ATTRIBUTES``) apply.
"""

import time

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from serve_app.config import TracingConfig
from serve_app.observability.tracing import Value
from serve_app.speech import TraceContext

SERVICE = "qwen3-tts-serve"

_NS = 1_000_000_000
_W3C = TraceContextTextMapPropagator()


class OtelTracer:
    """A :class:`serve_app.observability.tracing.Tracer` that exports spans with OpenTelemetry."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("serve_app")

    def span(self, name: str, parent: TraceContext, **attributes: Value) -> "OtelSpan":
        """Begin a server span whose parent is in another process, or which has no parent."""
        given = {"traceparent": parent.traceparent, "tracestate": parent.tracestate}
        # An empty context, not the task's: Serve's own traces are separate.
        context = _W3C.extract({name: value for name, value in given.items() if value}, Context())
        now_ns = time.time_ns()
        named = _named(attributes)
        span = self._tracer.start_span(name, context, SpanKind.SERVER, attributes=named, start_time=now_ns)
        return OtelSpan(self._tracer, span, now_ns)

    def close(self) -> None:
        """Flush finished spans; waits ten seconds at most."""
        self._provider.shutdown()


class OtelSpan:
    """A :class:`serve_app.observability.tracing.Span` that OpenTelemetry exports when it ends."""

    def __init__(self, tracer: Tracer, span: Span, began_ns: int) -> None:
        self._tracer = tracer
        self._span = span
        self._began_ns = began_ns
        self._inside = set_span_in_context(span, Context())

    @property
    def context(self) -> TraceContext:
        """Parent context for child spans in other processes, as W3C headers."""
        carrier: dict[str, str] = {}
        _W3C.inject(carrier, self._inside)
        return TraceContext(carrier.get("traceparent"), carrier.get("tracestate"))

    def child(self, name: str, *, ago_s: float = 0.0, **attributes: Value) -> "OtelSpan":
        """A span within this one, which began ``ago_s`` seconds ago."""
        began_ns = time.time_ns() - round(ago_s * _NS)
        span = self._tracer.start_span(name, self._inside, attributes=_named(attributes), start_time=began_ns)
        return OtelSpan(self._tracer, span, began_ns)

    def stage(self, name: str, begin_s: float, end_s: float) -> None:
        """A finished span within this one; times are seconds after this span's start."""
        span = self._tracer.start_span(name, self._inside, start_time=self._began_ns + round(begin_s * _NS))
        span.end(self._began_ns + round(end_s * _NS))

    def event(self, name: str, **attributes: Value) -> None:
        """Something that happens now, at this point of the span."""
        self._span.add_event(name, _named(attributes))

    def end(self, *, failed: str | None = None, **attributes: Value) -> None:
        """End the span; ``failed`` is the code of the error, if there was one, and becomes its status."""
        self._span.set_attributes(_named({**attributes, "code": failed}))
        if failed is not None:
            self._span.set_status(Status(StatusCode.ERROR, failed))
        self._span.end()


def otlp_tracer(config: TracingConfig, deployment: str, replica: str) -> OtelTracer:
    """A tracer that sends its spans to a collector, in batches and on its own thread."""
    assert config.endpoint is not None
    place = {"service.name": SERVICE, "service.instance.id": replica, "tts.deployment": deployment}
    provider = TracerProvider(
        sampler=ParentBased(TraceIdRatioBased(config.sample_ratio)),
        resource=Resource.create(place),
        span_limits=SpanLimits(max_events=64, max_attribute_length=256),
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(config.endpoint)))
    return OtelTracer(provider)


def _named(attributes: dict[str, Value]) -> dict[str, str | int | float | bool]:
    return {f"tts.{name}": value for name, value in attributes.items() if value is not None}
