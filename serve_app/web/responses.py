"""Errors as HTTP responses, in the service's own format, in OpenAI's and in Deepgram's."""

from starlette.responses import JSONResponse

from serve_app.audio.mark import DISCLOSURE, DISCLOSURE_HEADER
from serve_app.errors import SpeechError
from serve_app.protocol.messages import ResearchError, openai_error

VOICE_HEADER = "x-voice"
"""Header with the id of the voice in the response."""


def speech_headers(voice: str) -> dict[str, str]:
    """Return the headers of a response with speech: its voice, and that a machine made it."""
    return {VOICE_HEADER: voice.encode("ascii", "replace").decode(), DISCLOSURE_HEADER: DISCLOSURE}


def error_response(error: SpeechError) -> JSONResponse:
    """Return an error's status, ``code`` and ``message``; and ``retry-after`` in seconds if a retry may succeed."""
    body = ResearchError(code=error.code, message=error.message)
    return JSONResponse(body.model_dump(), status_code=error.http_status, headers=_headers(error))


def openai_error_response(error: SpeechError) -> JSONResponse:
    """Return an error in OpenAI's format."""
    return JSONResponse(openai_error(error), status_code=error.http_status, headers=_headers(error))


def deepgram_error_response(error: SpeechError) -> JSONResponse:
    """Return an error in Deepgram's format; a client of a WebSocket finds the reason in ``dg-error``."""
    body = {"err_code": error.code, "err_msg": error.message}
    headers = {**_headers(error), "dg-error": error.message.encode("ascii", "replace").decode()}
    return JSONResponse(body, status_code=error.http_status, headers=headers)


def _headers(error: SpeechError) -> dict[str, str]:
    headers: dict[str, str] = {}
    if error.retry_after_ms is not None:
        headers["retry-after"] = str(max(1, -(-error.retry_after_ms // 1000)))
    if error.http_status == 401:
        headers["www-authenticate"] = "Bearer"
    return headers
