"""Formats a replica's log lines and writes them to the files that Serve keeps for the replica.

The task that writes a line sets the ids in it (:func:`bind`); numbers come from ``extra``. Text, API keys and
transcripts must not be logged at any level, since nothing in this module could remove them.
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
"""Ids of the request, session, utterance and trace of a line, if they are known; Serve adds the first one."""

FIGURES = (
    "route",
    "dialect",
    "close_code",
    "code",
    "finish_reason",
    "duration_ms",
    "ttfa_ms",
    "audible_ms",
    "rtf",
    "characters",
    "frames",
    "resumed_frames",
    "timings_ms",
)
"""Names that ``extra`` may have; others are dropped."""

_TRACE: ContextVar[Trace | None] = ContextVar("trace", default=None)


def bind(trace: Trace | None) -> None:
    """Set the ids for all later log lines of the running task and of the tasks and threads that it starts."""
    _TRACE.set(trace)


def add_ids(record: logging.LogRecord) -> bool:
    """A logging filter that keeps every record and adds the ids of the running task, unless the record has them."""
    trace = _TRACE.get()
    if trace is not None:
        ids = {"session_id": trace.session_id, "utterance_id": trace.utterance_id, "trace_id": trace.context.trace_id}
        for name, value in ids.items():
            if value is not None and not hasattr(record, name):
                setattr(record, name, value)
    return True


class JsonLines(logging.Formatter):
    """One JSON object per line, in ASCII; a line break in a message cannot start a new line."""

    def __init__(self, **place: str) -> None:
        """Set the fields that every line of this process carries."""
        super().__init__()
        self._place = place

    def format(self, record: logging.LogRecord) -> str:
        """Format the record as one line."""
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
    """Serve's own format, with the session and utterance ids after the message."""

    def __init__(self, serves: logging.Formatter | None) -> None:
        super().__init__()
        self._serves = serves or logging.Formatter()

    def format(self, record: logging.LogRecord) -> str:
        """Format the record as one line."""
        ids = [f"{name}={getattr(record, name)}" for name in IDS[1:] if getattr(record, name, None) is not None]
        if ids:
            record = copy.copy(record)
            record.msg, record.args = f"{record.getMessage()} ({', '.join(ids)})", None
        return self._serves.format(record)


def join_serve_log(config: LogsConfig | None = None, **place: str) -> None:
    """Send this package's log lines to the handlers of Serve's logger in this process; idempotent.

    When Serve is tuned for throughput, it buffers a thousand records before it writes them. Ours are few and are
    written at once.

    Args:
        config: level and format, including those of Serve's own lines; None keeps Serve's format.
        place: fields that every line carries.
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
        # Serve's filters add the request's id. They are added here and not to the target, because Serve buffers its own
        # records, so the target gets them while another request is running.
        at_once.filters = [*gathering.filters, add_ids]
        ours.addHandler(at_once)
    if config is not None:
        # If its collector is down, the exporter warns at each attempt. Its error is enough, which it logs when it drops
        # a batch.
        exporter = logging.getLogger("opentelemetry.exporter.otlp")
        exporter.setLevel(logging.ERROR)
        exporter.propagate = False
        exporter.handlers = ours.handlers[:]
