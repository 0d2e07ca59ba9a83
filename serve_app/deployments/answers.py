"""Errors as HTTP answers."""

from starlette.responses import JSONResponse

from serve_app.errors import SpeechError
from serve_app.messages import ResearchError


def error_response(error: SpeechError) -> JSONResponse:
    """Status, ``code`` and ``message`` of an error, and ``retry-after`` in whole seconds where it is worth it."""
    headers: dict[str, str] = {}
    if error.retry_after_ms is not None:
        headers["retry-after"] = str(max(1, -(-error.retry_after_ms // 1000)))
    body = ResearchError(code=error.code, message=error.message)
    return JSONResponse(body.model_dump(), status_code=error.http_status, headers=headers)
