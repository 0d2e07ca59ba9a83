"""What is traced, as far as the service knows: spans with children, events and stages, kept by whoever a tracer is.

Nothing here knows OpenTelemetry; :mod:`serve_app.observability.otel` does, and is imported only where spans go
somewhere. Attributes are ids, counts and codes, never text.
"""

from typing import Protocol

from serve_app.config import TracingConfig
from serve_app.speech import TraceContext

Value = str | int | float | bool | None
"""Of an attribute; None leaves it out."""


class Span(Protocol):
    """Something that takes a while; ended once."""

    @property
    def context(self) -> TraceContext:
        """What its children elsewhere are children of."""
        ...

    def child(self, name: str, *, ago_s: float = 0.0, **attributes: Value) -> "Span":
        """A span within this one, which began so long ago."""
        ...

    def stage(self, name: str, begin_s: float, end_s: float) -> None:
        """A span within this one that is over already; seconds after this one's beginning."""
        ...

    def event(self, name: str, **attributes: Value) -> None:
        """Something that happens now."""
        ...

    def end(self, *, failed: str | None = None, **attributes: Value) -> None:
        """It is over; ``failed`` is the code of what went wrong."""
        ...


class Tracer(Protocol):
    """Keeps spans; safe on any thread, never blocks but in ``close``, never raises."""

    def span(self, name: str, parent: TraceContext, **attributes: Value) -> Span:
        """Begin a span whose parent is elsewhere, or which has none."""
        ...

    def close(self) -> None:
        """Hand over what has ended; waits ten seconds for that at most."""
        ...


class NoSpan:
    """Hands on the context that it was given, so that logs on both sides name the caller's trace; keeps nothing."""

    def __init__(self, context: TraceContext) -> None:
        self._context = context

    @property
    def context(self) -> TraceContext:
        """See :attr:`Span.context`."""
        return self._context

    def child(self, name: str, *, ago_s: float = 0.0, **attributes: Value) -> Span:
        """See :meth:`Span.child`."""
        del name, ago_s, attributes
        return self

    def stage(self, name: str, begin_s: float, end_s: float) -> None:
        """See :meth:`Span.stage`."""

    def event(self, name: str, **attributes: Value) -> None:
        """See :meth:`Span.event`."""

    def end(self, *, failed: str | None = None, **attributes: Value) -> None:
        """See :meth:`Span.end`."""


class NoTracer:
    """Where spans go nowhere."""

    def span(self, name: str, parent: TraceContext, **attributes: Value) -> Span:
        """See :meth:`Tracer.span`."""
        del name, attributes
        return NoSpan(parent)

    def close(self) -> None:
        """See :meth:`Tracer.close`."""


def tracer_of(config: TracingConfig, deployment: str, replica: str) -> Tracer:
    """The tracer that a configuration asks for.

    Raises:
        RuntimeError: it asks for one, and the packages are not installed.
    """
    if config.endpoint is None:
        return NoTracer()
    try:
        from serve_app.observability.otel import otlp_tracer  # noqa: PLC0415 - everybody else does without
    except ImportError as error:
        raise RuntimeError(
            f"tracing.endpoint is set, and a package that it needs is missing ({error.name}): install"
            " qwen3-tts-serve[tracing], or leave tracing.endpoint out"
        ) from error
    return otlp_tracer(config, deployment, replica)
