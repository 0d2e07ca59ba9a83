"""Errors as HTTP responses, in the service's own format and in OpenAI's."""

from starlette.responses import JSONResponse

from serve_app.errors import SpeechError
from serve_app.protocol.messages import ResearchError, openai_error

VOICE_HEADER = "x-voice"
"""Header with the id of the voice in the response."""


def voice_header(voice: str) -> dict[str, str]:
    """Return the header that names the voice of an audio response."""
    return {VOICE_HEADER: voice.encode("ascii", "replace").decode()}


def error_response(error: SpeechError) -> JSONResponse:
    """Return an error's status, ``code`` and ``message``; and ``retry-after`` in seconds if a retry may succeed."""
    body = ResearchError(code=error.code, message=error.message)
    return JSONResponse(body.model_dump(), status_code=error.http_status, headers=_headers(error))


def openai_error_response(error: SpeechError) -> JSONResponse:
    """Return an error in OpenAI's format."""
    return JSONResponse(openai_error(error), status_code=error.http_status, headers=_headers(error))


def _headers(error: SpeechError) -> dict[str, str]:
    headers: dict[str, str] = {}
    if error.retry_after_ms is not None:
        headers["retry-after"] = str(max(1, -(-error.retry_after_ms // 1000)))
    if error.http_status == 401:
        headers["www-authenticate"] = "Bearer"
    return headers
