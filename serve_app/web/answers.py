"""Errors as HTTP answers, in the service's own shape and in OpenAI's."""

from starlette.responses import JSONResponse

from serve_app.errors import SpeechError
from serve_app.protocol.messages import ResearchError, openai_error

VOICE_HEADER = "x-voice"
"""Names the voice that an answer is spoken with, by its id."""


def voice_header(voice: str) -> dict[str, str]:
    """What an answer of audio says of its voice."""
    return {VOICE_HEADER: voice.encode("ascii", "replace").decode()}


def error_response(error: SpeechError) -> JSONResponse:
    """Status, ``code`` and ``message`` of an error, and ``retry-after`` in whole seconds where it is worth it."""
    body = ResearchError(code=error.code, message=error.message)
    return JSONResponse(body.model_dump(), status_code=error.http_status, headers=_headers(error))


def openai_error_response(error: SpeechError) -> JSONResponse:
    """The same as OpenAI's clients read it."""
    return JSONResponse(openai_error(error), status_code=error.http_status, headers=_headers(error))


def _headers(error: SpeechError) -> dict[str, str]:
    headers: dict[str, str] = {}
    if error.retry_after_ms is not None:
        headers["retry-after"] = str(max(1, -(-error.retry_after_ms // 1000)))
    if error.http_status == 401:
        headers["www-authenticate"] = "Bearer"
    return headers
