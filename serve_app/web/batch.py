"""``POST /v1/audio/speech/batch``: speaks up to 64 texts that nobody is waiting to hear, and answers each separately.

The format is that of vLLM-Omni. Each text is a session with one utterance, like a request of its own: it has its own
limits, metrics, trace and error. The texts have low priority, leave streams free for listeners
(:mod:`serve_app.cluster.admission`), and only a few of them run at a time.
"""

import asyncio
import base64
import logging
import uuid
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope, Send

from serve_app.audio.encoders import CONTENT_TYPES, encoder_for
from serve_app.audio.mark import DISCLOSURE, DISCLOSURE_HEADER
from serve_app.audio.pcm import SILENT_ANSWER_SAMPLES, wav_file
from serve_app.errors import SlowClientError, SpeechError
from serve_app.protocol.messages import (
    BatchError,
    BatchSuccess,
    FullMessage,
    Refusal,
    SpeechBody,
    Start,
    Stop,
    read_batch,
    read_batch_item,
    usage_of,
)
from serve_app.session.session import INLINE_VOICE, InlineVoice
from serve_app.speech import VoiceClip
from serve_app.web.context import IngressContext, forbidden_origin
from serve_app.web.responses import openai_error_response
from serve_app.web.session_runner import ConnectionLostError
from serve_app.web.tts import BufferedAudio, bounded_body, until_disconnected

log = logging.getLogger(__name__)

MAX_AT_ONCE = 8
"""Maximum number of texts of one batch that are spoken at the same time."""

HEADERS = {
    "content-type": "application/json",
    "cache-control": "no-store",
    "x-accel-buffering": "no",
    DISCLOSURE_HEADER: DISCLOSURE,
}
"""Headers of a response. Proxies that buffer it would hold back the results that are ready."""

KEEP_ALIVE_S = 1.0
"""How often white space is sent while no result is ready. Proxies and clients see that the server works, and a proxy
that does not watch for disconnected clients notices a disconnect when it writes."""

PART_BYTES = 3 << 14
"""Audio is sent in parts of this size: each is base64 without padding, and a client that reads makes progress."""

_AUDIO = '"audio_data":"'


@dataclass(frozen=True, slots=True)
class _Result:
    """The result of one text.

    Attributes:
        message: what the response says about it, without the audio.
        audio: the audio; None if the text was not spoken.
    """

    message: BatchSuccess | BatchError
    audio: bytes | None = None


class SpeechBatch:
    """The ASGI application of the route."""

    def __init__(self, context: IngressContext) -> None:
        self._context = context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        request = Request(scope, receive)
        if not self._context.allows_origin(request.headers):
            await forbidden_origin()(scope, receive, send)
            return
        try:
            with self._context.admit(request) as caller, self._context.count_session():
                body = await bounded_body(request, self._context.config.session.max_message_bytes)
            items = read_batch(body)
            if isinstance(items, Refusal):
                raise items.error
        except SpeechError as error:
            self._context.metrics.refused(error)
            await openai_error_response(error)(scope, receive, send)
            return
        except ClientDisconnect:
            return
        at_once = min(MAX_AT_ONCE, self._context.batch_capacity, caller.max_sessions or MAX_AT_ONCE)
        with suppress(ConnectionLostError):
            await _Batch(self._context, request, max(1, at_once)).answer(items, send)


class _Batch:
    """One request, from its first text to the end of its response."""

    def __init__(self, context: IngressContext, request: Request, at_once: int) -> None:
        self._context = context
        self._request = request
        self._at_once = asyncio.Semaphore(at_once)
        self._gone = asyncio.Event()
        self._audio_s: dict[int, float] = {}
        self._clips: dict[Start, asyncio.Task[VoiceClip]] = {}

    async def answer(self, items: Sequence[object], send: Send) -> None:
        """Speak the texts and send their results in order, each as soon as it and those before it are ready.

        If the client disconnects or does not read, everything ends.

        Raises:
            ConnectionLostError: the client has disconnected, or did not read.
        """
        speaking = [asyncio.create_task(self._result(index, item)) for index, item in enumerate(items)]
        sending = asyncio.create_task(self._send_all(speaking, send))
        watching = asyncio.create_task(until_disconnected(self._request.receive))
        try:
            done, _ = await asyncio.wait([sending, watching], return_when=asyncio.FIRST_COMPLETED)
        finally:
            # Sessions that run see this as a disconnected client; after a complete response there are none.
            self._gone.set()
            sending.cancel()
            watching.cancel()
            with self._released():
                await asyncio.gather(sending, watching, *speaking, return_exceptions=True)
        done.pop().result()

    async def _send_all(self, speaking: Sequence[asyncio.Task[_Result]], send: Send) -> None:
        headers = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._send(f'{{"id":"speech-batch-{uuid.uuid4().hex}","results":['.encode(), send)
        succeeded = 0
        for index, task in enumerate(speaking):
            while not (await asyncio.wait([task], timeout=KEEP_ALIVE_S))[0]:
                await self._send(b"\n", send)
            result = task.result()
            await self._send(b"," * (index > 0), send)
            await self._send_result(result, send)
            succeeded += result.audio is not None
        total = len(speaking)
        counts = f'],"total":{total},"succeeded":{succeeded},"failed":{total - succeeded}}}'
        await self._send(counts.encode(), send)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_result(self, result: _Result, send: Send) -> None:
        """Send one result; base64 of minutes of audio at once would hold up the event loop."""
        before, _, after = result.message.to_json().partition(_AUDIO)
        if result.audio is not None:
            await self._send(f"{before}{_AUDIO}".encode(), send)
            for start in range(0, len(result.audio), PART_BYTES):
                await self._send(base64.b64encode(result.audio[start : start + PART_BYTES]), send)
            before = after
        await self._send(before.encode(), send)

    async def _send(self, part: bytes, send: Send) -> None:
        """Send a part of the response.

        Raises:
            ConnectionLostError: the client does not read.
        """
        try:
            async with asyncio.timeout(self._context.config.session.slow_client_timeout_s):
                await send({"type": "http.response.body", "body": part, "more_body": True})
        except TimeoutError:
            self._context.metrics.refused(SlowClientError("a client did not read the response to its batch"))
            log.info("an HTTP response was cut off: %s", SlowClientError.code)
            raise ConnectionLostError from None

    async def _result(self, index: int, item: object) -> _Result:
        """Speak one text when it is its turn; never raises a :class:`SpeechError`."""
        async with self._at_once:
            if self._gone.is_set():
                raise ConnectionLostError
            try:
                asked = read_batch_item(item)
                if isinstance(asked, Refusal):
                    raise asked.error
                with self._context.admit(self._request) as caller, self._context.count_session():
                    answer = BufferedAudio(self._until_gone)
                    async with self._opening(asked) as (voice, opening):
                        runner = await self._context.runner(
                            answer,
                            caller,
                            self._request.headers,
                            dialect="batch",
                            encoding=asked.response_format,
                            response_s=lambda own_s: self._response_s(index, own_s),
                        )
                        await runner.run([*opening, asked.speak_in_batch(voice), Stop()])
            except SpeechError as error:
                self._context.metrics.refused(error)
                return _failed(index, error)
            try:
                return _spoken(index, asked, answer)
            except SpeechError as error:  # the session has counted it
                self._audio_s.pop(index, None)
                return _failed(index, error)

    def _response_s(self, index: int, own_s: float) -> float:
        """Return the seconds of audio of all texts, after this one has buffered ``own_s``."""
        self._audio_s[index] = own_s
        return sum(self._audio_s.values())

    async def _until_gone(self) -> NoReturn:
        await self._gone.wait()
        raise ConnectionLostError

    @asynccontextmanager
    async def _opening(self, asked: SpeechBody) -> AsyncGenerator[tuple[str, list[FullMessage | InlineVoice]]]:
        """Return the id of a text's voice, and the messages before the text.

        Raises:
            SpeechError: the reference clip is refused.
        """
        reference = asked.reference()
        if reference is None:
            yield await self._context.voice(asked.voice), []
            return
        if reference not in self._clips:  # texts with the same clip share it
            self._clips[reference] = asyncio.create_task(self._context.clips.own(reference))
        yield INLINE_VOICE, [InlineVoice(reference, await asyncio.shield(self._clips[reference]))]

    @contextmanager
    def _released(self) -> Generator[None]:
        """Release all clips at the end."""
        try:
            yield
        finally:
            for task in self._clips.values():
                if not task.cancel() and not task.cancelled() and task.exception() is None:
                    self._context.clips.release(task.result())


def _spoken(index: int, asked: SpeechBody, answer: BufferedAudio) -> _Result:
    audio, complete = answer.result()
    if not complete.duration_ms:
        encoder = encoder_for(asked.speak_in_batch(complete.voice).encoding or "", asked.sample_rate)
        audio = encoder.push(np.zeros(SILENT_ANSWER_SAMPLES, dtype=np.float32)) + encoder.flush()
    if asked.response_format == "wav":
        audio = wav_file(audio, asked.sample_rate)
    message = BatchSuccess(
        index=index,
        media_type=CONTENT_TYPES[asked.response_format],
        usage=usage_of(complete),
        duration_ms=complete.duration_ms,
        finish_reason=complete.finish_reason,
        seed=complete.seed,
        voice=complete.voice,
    )
    return _Result(message, audio)


def _failed(index: int, error: SpeechError) -> _Result:
    return _Result(BatchError(index=index, error=error.message, code=error.code, retry_after_ms=error.retry_after_ms))
