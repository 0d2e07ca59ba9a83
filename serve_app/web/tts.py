"""``POST /api/tts``: one request makes one session and returns one WAV file."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NoReturn

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive

from serve_app.audio.pcm import SILENT_ANSWER_SAMPLES, wav_file
from serve_app.errors import InvalidMessageError, SpeechError, SynthesisError, error_of_code
from serve_app.protocol.messages import (
    AudioMessage,
    Complete,
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
from serve_app.web.responses import error_response, speech_headers
from serve_app.web.session_runner import ConnectionLostError


class BufferedAudio:
    """The connection of a session with one utterance, whose audio is buffered for a response.

    Attributes:
        sent_bytes: see :class:`serve_app.web.session_runner.Connection`.
        audio: the complete audio in the utterance's encoding; None until it is generated.
        complete: the end of the utterance; None until then.
        error: why there is no audio.
    """

    def __init__(self, gone: Callable[[], Awaitable[NoReturn]]) -> None:
        """Wait for the client's end with ``gone``, which raises :class:`ConnectionLostError`."""
        self.sent_bytes = 0
        self.audio: bytes | None = None
        self.complete: Complete | None = None
        self.error: SpeechError | None = None
        self._gone = gone

    async def receive(self) -> FullMessage | Refusal:
        """Wait until the client disconnects, since it sends nothing more."""
        return await self._gone()

    async def answer(self, messages: AsyncIterator[Send]) -> None:
        """Keep the audio or the error for the response."""
        async for item in messages:
            match item.message:
                case AudioMessage():
                    self.audio = item.payload or b""
                    self.sent_bytes += len(self.audio)
                case Complete() as complete:
                    self.complete = complete
                case ErrorMessage() as error if self.error is None:
                    self.error = error_of_code(error.code, error.message, error.retry_after_ms)
                case _:
                    pass

    async def close(self, last: Close) -> None:
        """Do nothing: the response follows."""

    def result(self) -> tuple[bytes, Complete]:
        """Return the audio, which is empty if there was nothing to pronounce, and the end of the utterance.

        Raises:
            SpeechError: there is no audio.
        """
        if self.error is not None:
            raise self.error
        if self.audio is None or self.complete is None:
            raise SynthesisError("the request was interrupted")
        return self.audio, self.complete


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
        answer = BufferedAudio(lambda: until_disconnected(request.receive))
        runner = await self._context.runner(answer, caller, request.headers, dialect="http", encoding="wav")
        speak = SpeakBuffered(text=asked.text, voice=voice, language=asked.language)
        await runner.run([speak, Stop()])
        try:
            pcm16, _ = answer.result()
        except SpeechError as error:  # the session has counted it
            return error_response(error)
        wav = wav_file(pcm16 or bytes(2 * SILENT_ANSWER_SAMPLES))
        return Response(wav, media_type="audio/wav", headers=speech_headers(voice))


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
