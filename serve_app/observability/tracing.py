"""The tracing interface: spans with children, events and stages, recorded by a tracer.

This module does not import OpenTelemetry. :mod:`serve_app.observability.otel` does, and is imported only if an endpoint
is configured. Attributes are ids, counts and codes, never text.
"""

from typing import Protocol

from serve_app.config import TracingConfig
from serve_app.speech import TraceContext

Value = str | int | float | bool | None
"""Value of an attribute; None omits it."""


class Span(Protocol):
    """An operation with a duration; end it exactly once."""

    @property
    def context(self) -> TraceContext:
        """Parent context for child spans in other processes."""
        ...

    def child(self, name: str, *, ago_s: float = 0.0, **attributes: Value) -> "Span":
        """A span within this one, which began ``ago_s`` seconds ago."""
        ...

    def stage(self, name: str, begin_s: float, end_s: float) -> None:
        """A finished span within this one; times are seconds after this span's start."""
        ...

    def event(self, name: str, **attributes: Value) -> None:
        """Something that happens now, at this point of the span."""
        ...

    def end(self, *, failed: str | None = None, **attributes: Value) -> None:
        """End the span; ``failed`` is the code of the error, if there was one."""
        ...


class Tracer(Protocol):
    """Records spans. Safe on any thread; never raises, and only ``close`` blocks."""

    def span(self, name: str, parent: TraceContext, **attributes: Value) -> Span:
        """Begin a span whose parent is in another process, or which has no parent."""
        ...

    def close(self) -> None:
        """Flush finished spans; waits ten seconds at most."""
        ...


class NoSpan:
    """Records nothing, but passes on its context, so that logs on both sides name the caller's trace."""

    def __init__(self, context: TraceContext) -> None:
        self._context = context

    @property
    def context(self) -> TraceContext:
        """The context of the caller, unchanged."""
        return self._context

    def child(self, name: str, *, ago_s: float = 0.0, **attributes: Value) -> Span:
        """Return this span, which stands for its children too."""
        del name, ago_s, attributes
        return self

    def stage(self, name: str, begin_s: float, end_s: float) -> None:
        """Record nothing."""

    def event(self, name: str, **attributes: Value) -> None:
        """Record nothing."""

    def end(self, *, failed: str | None = None, **attributes: Value) -> None:
        """Record nothing."""


class NoTracer:
    """Used if no endpoint is configured."""

    def span(self, name: str, parent: TraceContext, **attributes: Value) -> Span:
        """Return a span that records nothing and has the context of ``parent``."""
        del name, attributes
        return NoSpan(parent)

    def close(self) -> None:
        """Return at once: there is nothing to flush."""


def tracer_of(config: TracingConfig, deployment: str, replica: str) -> Tracer:
    """The tracer that the configuration selects.

    Raises:
        RuntimeError: the configuration names an endpoint, but the packages are not installed.
    """
    if config.endpoint is None:
        return NoTracer()
    try:
        from serve_app.observability.otel import otlp_tracer  # noqa: PLC0415 - optional
    except ImportError as error:
        raise RuntimeError(
            f"tracing.endpoint is set, but a package that it needs is missing ({error.name}): install"
            " qwen3-tts-serve[tracing], or remove tracing.endpoint"
        ) from error
    return otlp_tracer(config, deployment, replica)
