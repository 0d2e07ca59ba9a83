"""Dialect C: ``POST /v1/audio/speech`` and ``GET /v1/models``, compatible with OpenAI's clients.

Deepgram's ``POST /v1/speak`` is the same request in other words.

A request is a session with one utterance, which runs like that of a WebSocket. The response is encoded while it is
sent. A client that disconnects or reads slowly is therefore handled as on a WebSocket.
"""

import base64
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import numpy as np
from numpy.typing import NDArray
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from serve_app.audio.encoders import CONTENT_TYPES, encoder_for
from serve_app.audio.pcm import SILENT_ANSWER_SAMPLES
from serve_app.errors import SpeechError, SynthesisError, error_of_code
from serve_app.protocol.deepgram_messages import read_request
from serve_app.protocol.messages import (
    AudioMessage,
    Complete,
    ErrorMessage,
    FullMessage,
    Refusal,
    ServerMessage,
    SpeechAudioDelta,
    SpeechAudioDone,
    SpeechBody,
    Stop,
    openai_error,
    read_speech,
    usage_of,
)
from serve_app.protocol.outbox import Close
from serve_app.protocol.outbox import Send as SendItem
from serve_app.session.session import INLINE_VOICE, InlineVoice
from serve_app.web.auth import Caller
from serve_app.web.context import IngressContext, Refused, forbidden_origin
from serve_app.web.middleware import HTTP10
from serve_app.web.responses import deepgram_error_response, openai_error_response, speech_headers
from serve_app.web.tts import bounded_body, until_disconnected

log = logging.getLogger(__name__)

Reader = Callable[[Sequence[tuple[str, str]], str], SpeechBody | Refusal]
"""Reads a request from its query and its body."""


class SpeechResponse:
    """The connection of one HTTP request, whose response is encoded audio.

    The status is sent with the first bytes of audio, so an earlier error gets its own status. After a later error, a
    stream of events ends with that error, and a stream of audio is cut off, which the client can detect.

    Attributes:
        sent_bytes: see :class:`serve_app.web.session_runner.Connection`.
    """

    def __init__(self, asked: SpeechBody, voice: str, receive: Receive, send: Send, refused: Refused) -> None:
        """Answer the request ``asked`` with the voice of this id, or an error in the format of ``refused``."""
        self.sent_bytes = 0
        self._asked = asked
        self._voice = voice
        self._receive = receive
        self._send = send
        self._refused = refused
        self._encoder = encoder_for(asked.response_format, asked.sample_rate)
        self._events = asked.stream_format == "sse"
        self._samples = 0
        self._started = False
        self._complete = False
        self._error: SpeechError | None = None

    async def receive(self) -> FullMessage | Refusal:
        """Wait until the client disconnects, since it sends nothing more."""
        return await until_disconnected(self._receive)

    async def answer(self, messages: AsyncIterator[SendItem]) -> None:
        """Send the audio as it is encoded, and the last event."""
        async for item in messages:
            match item.message:
                case AudioMessage() as audio:
                    pcm = np.frombuffer(item.payload or b"", dtype="<f4")
                    await self._send_audio(self._encoded(pcm, final=audio.final))
                case Complete() as done:
                    self._complete = True
                    if self._events:
                        await self._send_part(_event(_done(done)))
                case ErrorMessage() as error if self._error is None:
                    self._error = error_of_code(error.code, error.message, error.retry_after_ms)
                case _:
                    pass

    async def _send_audio(self, data: bytes) -> None:
        """Send encoded audio, unless the encoder held it back."""
        if data and self._events:
            data = _event(SpeechAudioDelta(audio=base64.b64encode(data).decode("ascii")))
        if data:
            await self._send_part(data)

    async def _send_part(self, part: bytes) -> None:
        """Send a part of the response; waits while the client does not read."""
        if not self._started:
            self._started = True
            media_type = "text/event-stream" if self._events else CONTENT_TYPES[self._asked.response_format]
            # Proxies that buffer the response would delay the audio.
            headers = {
                "content-type": media_type,
                "cache-control": "no-store",
                "x-accel-buffering": "no",
                **speech_headers(self._voice),
            }
            raw = [(name.encode(), value.encode()) for name, value in headers.items()]
            await self._send({"type": "http.response.start", "status": 200, "headers": raw})
        await self._send({"type": "http.response.body", "body": part, "more_body": True})
        self.sent_bytes += len(part)

    async def close(self, last: Close) -> None:
        """End the response: normally if it is complete, otherwise with the error."""
        del last
        if self._complete and self._started:
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})
            return
        error = self._error or SynthesisError("the response was interrupted")
        if not self._started:
            await self._refused(error)({"type": "http"}, self._receive, self._send)
        elif self._events:
            body = f"event: error\ndata: {json.dumps(openai_error(error))}\n\n".encode()
            await self._send({"type": "http.response.body", "body": body, "more_body": False})
        else:
            # Without the last, empty part of the response, the server drops the connection.
            log.info("an HTTP response was cut off: %s", error.code)

    def _encoded(self, pcm: NDArray[np.float32], *, final: bool) -> bytes:
        self._samples += len(pcm)
        if final and not self._samples:
            pcm = np.zeros(SILENT_ANSWER_SAMPLES, dtype=np.float32)
        return self._encoder.push(pcm) + (self._encoder.flush() if final else b"")


class SpeechRoute:
    """An ASGI application that answers requests for speech; it streams."""

    def __init__(self, context: IngressContext, read: Reader, refused: Refused, dialect: str) -> None:
        """Serve the requests that ``read`` reads from query and body, with errors in the format of ``refused``."""
        self._context = context
        self._read = read
        self._refused = refused
        self._dialect = dialect

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        request = Request(scope, receive)
        refusal = forbidden_origin() if not self._context.allows_origin(request.headers) else None
        try:
            if refusal is None:
                with self._context.admit(request) as caller, self._context.count_session():
                    await self._speak(request, send, caller)
        except SpeechError as error:
            self._context.metrics.refused(error)
            refusal = self._refused(error)
        except ClientDisconnect:
            return
        if refusal is not None:
            await refusal(scope, receive, send)

    async def _speak(self, request: Request, send: Send, caller: Caller) -> None:
        body = await bounded_body(request, self._context.config.session.max_message_bytes)
        asked = self._read(request.query_params.multi_items(), body)
        if isinstance(asked, Refusal):
            raise asked.error
        whole = request.scope["http_version"] == HTTP10
        async with self._opening(asked, whole=whole) as (voice, opening):
            answer = SpeechResponse(asked, voice, request.receive, send, self._refused)
            runner = await self._context.runner(
                answer, caller, request.headers, dialect=self._dialect, encoding=asked.response_format
            )
            await runner.run([*opening, Stop()])

    @asynccontextmanager
    async def _opening(
        self, asked: SpeechBody, *, whole: bool
    ) -> AsyncGenerator[tuple[str, list[FullMessage | InlineVoice]]]:
        """Return the id of the response's voice and the session's messages; hold a reference clip until the exit.

        Raises:
            SpeechError: the reference is refused.
        """
        reference = asked.reference()
        if reference is None:
            voice = await self._context.voice(asked.voice)
            yield voice, [asked.speak(voice, whole=whole)]
            return
        clip = await self._context.clips.own(reference)
        try:
            yield INLINE_VOICE, [InlineVoice(reference, clip), asked.speak(INLINE_VOICE, whole=whole)]
        finally:
            self._context.clips.release(clip)


def openai_speech(context: IngressContext) -> SpeechRoute:
    """``POST /v1/audio/speech``."""
    return SpeechRoute(context, lambda _query, body: read_speech(body), openai_error_response, "openai")


def deepgram_speech(context: IngressContext) -> SpeechRoute:
    """``POST /v1/speak``."""
    return SpeechRoute(context, read_request, deepgram_error_response, "deepgram")


class Models:
    """The routes of the served model."""

    def __init__(self, context: IngressContext) -> None:
        self._context = context

    async def models(self, request: Request) -> Response:
        """``GET /v1/models``: the served model."""
        del request
        return JSONResponse({"object": "list", "data": [self._model()]})

    async def model(self, request: Request) -> Response:
        """``GET /v1/models/{name}``."""
        name, served = request.path_params["name"], self._model()
        if name == served["id"]:
            return JSONResponse(served)
        body = {
            "message": f"model {name[:100]!r} is not served; allowed: {served['id']}",
            "type": "invalid_request_error",
        }
        return JSONResponse({"error": body | {"param": "model", "code": "model_not_found"}}, status_code=404)

    def _model(self) -> dict[str, str | int]:
        return {"id": self._context.config.model.source, "object": "model", "created": 0, "owned_by": "qwen"}


def _done(complete: Complete) -> SpeechAudioDone:
    return SpeechAudioDone(usage=usage_of(complete))


def _event(message: ServerMessage) -> bytes:
    return f"data: {message.to_json()}\n\n".encode()
