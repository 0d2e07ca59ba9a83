"""What the package would write into a replica's log while a test runs."""

import contextlib
import io
import json
import logging
from logging.handlers import MemoryHandler

from serve_app.config import LogsConfig
from serve_app.observability.logging import join_serve_log


@contextlib.contextmanager
def written(level=logging.INFO, log_format="json", **place):
    """Stand for Serve's log file, as in its mode for throughput; yields a function that reads the lines so far."""
    ours, serves = logging.getLogger("serve_app"), logging.getLogger("ray.serve")
    exporter = logging.getLogger("opentelemetry.exporter.otlp")
    before = ours.handlers[:], ours.propagate, ours.level, serves.handlers[:]
    file = logging.StreamHandler(io.StringIO())
    serves.handlers[:] = [MemoryHandler(1000, target=file)]
    ours.handlers[:] = []
    try:
        join_serve_log(LogsConfig(format=log_format, level=logging.getLevelName(level)), **place)

        def lines():
            text = file.stream.getvalue().splitlines()
            return [json.loads(line) for line in text] if log_format == "json" else text

        yield lines
    finally:
        ours.handlers[:], ours.propagate, ours.level, serves.handlers[:] = before
        exporter.handlers[:], exporter.propagate, exporter.level = [], True, logging.NOTSET
