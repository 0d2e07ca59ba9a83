"""What a replica's log lines look like, and where they go: into the files that Serve keeps for it.

Whose work a line is about comes from the task that writes it (:func:`bind`), figures from ``extra``. Text, keys and
transcripts are in no line at any level: nothing here could take them out again.
"""

import copy
import json
import logging
from contextvars import ContextVar
from datetime import UTC, datetime
from logging.handlers import MemoryHandler

from serve_app.config import LogsConfig
from serve_app.speech import Trace

IDS = ("request_id", "session_id", "utterance_id", "trace_id")
"""Whose work a line is about, where that is known; the first is Serve's own."""

FIGURES = (
    "route",
    "dialect",
    "close_code",
    "code",
    "finish_reason",
    "duration_ms",
    "ttfa_ms",
    "rtf",
    "characters",
    "frames",
    "resumed_frames",
    "timings_ms",
)
"""Names that ``extra`` may have; others are not written."""

_TRACE: ContextVar[Trace | None] = ContextVar("trace", default=None)


def bind(trace: Trace | None) -> None:
    """Say whose work the running task does from now on, and every task and thread that it starts from here."""
    _TRACE.set(trace)


def add_ids(record: logging.LogRecord) -> bool:
    """A filter that drops nothing: it notes whose work a record is about, unless the record says so itself."""
    trace = _TRACE.get()
    if trace is not None:
        ids = {"session_id": trace.session_id, "utterance_id": trace.utterance_id, "trace_id": trace.context.trace_id}
        for name, value in ids.items():
            if value is not None and not hasattr(record, name):
                setattr(record, name, value)
    return True


class JsonLines(logging.Formatter):
    """One JSON object a line, in ASCII: whatever a message holds, it ends no line and begins none."""

    def __init__(self, **place: str) -> None:
        """Take what every line of this process says of it."""
        super().__init__()
        self._place = place

    def format(self, record: logging.LogRecord) -> str:
        """The record as a line."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, object] = {
            "time": time.replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **self._place,
        }
        line |= {name: getattr(record, name) for name in (*IDS, *FIGURES) if getattr(record, name, None) is not None}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class TextLines(logging.Formatter):
    """Lines as Serve writes them, with the session and the utterance behind the message."""

    def __init__(self, serves: logging.Formatter | None) -> None:
        super().__init__()
        self._serves = serves or logging.Formatter()

    def format(self, record: logging.LogRecord) -> str:
        """The record as a line."""
        ids = [f"{name}={getattr(record, name)}" for name in IDS[1:] if getattr(record, name, None) is not None]
        if ids:
            record = copy.copy(record)
            record.msg, record.args = f"{record.getMessage()} ({', '.join(ids)})", None
        return self._serves.format(record)


def join_serve_log(config: LogsConfig | None = None, **place: str) -> None:
    """Hand this package's lines to the handlers of Serve's own logger of this process; twice changes nothing.

    Serve gathers a thousand records before it writes them when it is tuned for throughput; our few are written at once.

    Args:
        config: how they look, and Serve's lines beside them; None leaves that as Serve has it.
        place: fields of every line.
    """
    ours, serves = logging.getLogger("serve_app"), logging.getLogger("ray.serve")
    ours.setLevel("INFO" if config is None else config.level)
    ours.propagate = False
    joined = [handler.target for handler in ours.handlers if isinstance(handler, MemoryHandler)]
    for gathering in serves.handlers:
        handler = gathering.target if isinstance(gathering, MemoryHandler) else gathering
        if handler is None or handler in joined:
            continue
        if config is not None:
            handler.setFormatter(JsonLines(**place) if config.format == "json" else TextLines(handler.formatter))
        at_once = MemoryHandler(1, flushLevel=logging.NOTSET, target=handler)
        # Serve's filters add the request's id. They stand here, not at the target, where Serve's own records arrive
        # later, in the midst of somebody else's request.
        at_once.filters = [*gathering.filters, add_ids]
        ours.addHandler(at_once)
    if config is not None:
        # What sends spans warns at each attempt that its collector is away; that it gave up a batch is enough.
        exporter = logging.getLogger("opentelemetry.exporter.otlp")
        exporter.setLevel(logging.ERROR)
        exporter.propagate = False
        exporter.handlers = ours.handlers[:]
