"""``POST /api/tts``: one request makes one session and returns one WAV file."""

from collections.abc import AsyncIterator
from typing import NoReturn

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive

from serve_app.audio.pcm import SILENT_ANSWER_SAMPLES, wav_file
from serve_app.errors import InvalidMessageError, SpeechError, SynthesisError, error_of_code
from serve_app.protocol.messages import (
    AudioMessage,
    ErrorMessage,
    FullMessage,
    Refusal,
    SpeakBuffered,
    Stop,
    read_research,
)
from serve_app.protocol.outbox import Close, Send
from serve_app.web.auth import Caller
from serve_app.web.context import IngressContext, forbidden_origin
from serve_app.web.responses import error_response, voice_header
from serve_app.web.session_runner import ConnectionLostError


class BufferedResponse:
    """The connection of one HTTP request: the audio is buffered for the response.

    Attributes:
        sent_bytes: see :class:`serve_app.web.session_runner.Connection`.
        pcm16: the complete audio; None until it is generated.
        error: why there is no audio.
    """

    def __init__(self, request: Request, voice: str) -> None:
        """Answer a request with the voice of this id."""
        self.sent_bytes = 0
        self.pcm16: bytes | None = None
        self.error: SpeechError | None = None
        self._request = request
        self._voice = voice

    async def receive(self) -> FullMessage | Refusal:
        """Wait until the client disconnects, since it sends nothing more."""
        return await until_disconnected(self._request.receive)

    async def answer(self, messages: AsyncIterator[Send]) -> None:
        """Keep the audio or the error for the response."""
        async for item in messages:
            match item.message:
                case AudioMessage():
                    self.pcm16 = item.payload or b""
                    self.sent_bytes += len(self.pcm16)
                case ErrorMessage() as error if self.error is None:
                    self.error = error_of_code(error.code, error.message, error.retry_after_ms)
                case _:
                    pass

    async def close(self, last: Close) -> None:
        """Do nothing: the response follows."""

    def response(self) -> Response:
        """Return the response."""
        if self.error is not None:
            return error_response(self.error)
        if self.pcm16 is None:
            return error_response(SynthesisError("the request was interrupted"))
        pcm16 = self.pcm16 or bytes(2 * SILENT_ANSWER_SAMPLES)
        return Response(wav_file(pcm16), media_type="audio/wav", headers=voice_header(self._voice))


class BufferedSpeech:
    """The route of ``POST /api/tts``."""

    def __init__(self, context: IngressContext) -> None:
        self._context = context

    async def post(self, request: Request) -> Response:
        """Return a WAV file, or an error's status with its code and message as JSON."""
        if not self._context.allows_origin(request.headers):
            return forbidden_origin()
        try:
            with self._context.admit(request) as caller, self._context.count_session():
                return await self._speak(request, caller)
        except SpeechError as error:
            self._context.metrics.refused(error)
            return error_response(error)
        except ClientDisconnect:
            return Response(status_code=400)

    async def _speak(self, request: Request, caller: Caller) -> Response:
        body = await bounded_body(request, self._context.config.session.max_message_bytes)
        asked = read_research(body)
        if isinstance(asked, Refusal):
            raise asked.error
        voice = await self._context.voice(asked.voice)
        answer = BufferedResponse(request, voice)
        runner = await self._context.runner(answer, caller, request.headers, dialect="http", encoding="wav")
        speak = SpeakBuffered(text=asked.text, voice=voice, language=asked.language)
        await runner.run([speak, Stop()])
        return answer.response()


async def bounded_body(request: Request, limit_bytes: int) -> str:
    """Return the body as text, for any content type; a body that is too large is refused as soon as possible.

    Raises:
        InvalidMessageError: the body is compressed, too large or not UTF-8.
    """
    coding = request.headers.get("content-encoding", "identity")
    if coding.strip().lower() not in ("", "identity"):
        raise InvalidMessageError(f"the body has content-encoding {coding[:40]!r}; allowed: none")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit_bytes:
            raise InvalidMessageError(f"the body is too large; allowed: {limit_bytes} bytes")
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise InvalidMessageError(f"the body is not valid UTF-8: {error.reason} at byte {error.start}") from error


async def until_disconnected(receive: Receive) -> NoReturn:
    """Wait until the client of an HTTP request disconnects.

    Raises:
        ConnectionLostError: always.
    """
    while (await receive())["type"] != "http.disconnect":
        pass
    raise ConnectionLostError
