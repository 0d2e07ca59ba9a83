"""A TTS of LiveKit Agents: ``AgentSession(tts=TTS("http://127.0.0.1:8000", voice="austen"))``."""

# pyright: reportMissingImports=false
# LiveKit Agents is not installed with the project.

import asyncio
import weakref
from typing import Any

from livekit.agents import (
    DEFAULT_API_CONNECT_OPTIONS,
    APIConnectionError,
    APIConnectOptions,
    APIError,
    APIStatusError,
    APITimeoutError,
    tts,
    utils,
)
from livekit.agents.types import TimedString
from websockets.exceptions import InvalidStatus, WebSocketException

from qwen3_tts_client.captions import Timed
from qwen3_tts_client.utterance import DEFAULT_RATE_HZ, DEFAULT_URL, Server, ServiceError, Utterance


class TTS(tts.TTS):
    """Streams text, interrupts, resumes after a lost connection, and aligns the transcript with the audio."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        api_key: str | None = None,
        sample_rate: int = DEFAULT_RATE_HZ,
        words: bool = False,
        **fields: Any,  # noqa: ANN401 - JSON
    ) -> None:
        """Set the service and the fields of each utterance.

        Args:
            url: address of the service, with its route prefix if it has one.
            api_key: None reads ``TTS_API_KEY``.
            sample_rate: in Hz; docs/protocol.md has the rates.
            words: align words instead of captions, if the service has word times for its checkpoint.
            fields: other fields of ``speak`` (docs/protocol.md), such as ``voice``, ``language`` and ``speed``.
        """
        capabilities = tts.TTSCapabilities(streaming=True, aligned_transcript=True)
        super().__init__(capabilities=capabilities, sample_rate=sample_rate, num_channels=1)
        self._server = Server(url, api_key)
        self._fields: dict[str, Any] = {}
        self._streams: weakref.WeakSet[tts.ChunkedStream | tts.SynthesizeStream] = weakref.WeakSet()
        self.update_options(words=words or None, **fields)

    @property
    def model(self) -> str:
        """Name in metrics."""
        return "qwen3-tts"

    @property
    def provider(self) -> str:
        """Name in metrics."""
        return "qwen3-tts-serve"

    def update_options(self, **fields: Any) -> None:  # noqa: ANN401 - JSON
        """Change fields of ``speak`` for later utterances; None takes the service's default.

        Raises:
            ValueError: a field is the plugin's own.
        """
        self._fields |= fields
        self.utterance()

    def utterance(self) -> Utterance:
        """Prepare an utterance with the fields that are set now."""
        return Utterance(self._server, self.sample_rate, self._fields)

    def synthesize(
        self, text: str, *, conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS
    ) -> tts.ChunkedStream:
        """Speak a whole text."""
        stream = _WholeText(tts=self, input_text=text, conn_options=conn_options)
        self._streams.add(stream)
        return stream

    def stream(self, *, conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS) -> tts.SynthesizeStream:
        """Speak a text that is still being written."""
        stream = _GrowingText(tts=self, conn_options=conn_options)
        self._streams.add(stream)
        return stream

    async def aclose(self) -> None:
        """Interrupt everything that is being spoken."""
        for stream in list(self._streams):
            await stream.aclose()


class _WholeText(tts.ChunkedStream):
    _tts: TTS

    async def _run(self, output_emitter: tts.AudioEmitter) -> None:
        utterance = self._tts.utterance()
        utterance.push(self._input_text)
        utterance.end()
        _initialize(output_emitter, utterance, self._tts, stream=False)
        await _speak(utterance, output_emitter, self._conn_options)
        output_emitter.flush()


class _GrowingText(tts.SynthesizeStream):
    _tts: TTS

    async def _run(self, output_emitter: tts.AudioEmitter) -> None:
        utterance = self._tts.utterance()
        _initialize(output_emitter, utterance, self._tts, stream=True)
        output_emitter.start_segment(segment_id=utterance.id)
        reading = asyncio.create_task(self._read(utterance))
        try:
            await _speak(utterance, output_emitter, self._conn_options)
        finally:
            await utils.aio.cancel_and_wait(reading)
        output_emitter.end_segment()

    async def _read(self, utterance: Utterance) -> None:
        """Pass on the text; a flush ends it, because a stream of LiveKit has one segment."""
        async for token in self._input_ch:
            if not isinstance(token, str):
                break
            self._mark_started()
            utterance.push(token)
        utterance.end()


def _initialize(emitter: tts.AudioEmitter, utterance: Utterance, settings: TTS, *, stream: bool) -> None:
    emitter.initialize(
        request_id=utterance.id,
        sample_rate=settings.sample_rate,
        num_channels=1,
        mime_type="audio/pcm",
        stream=stream,
    )


async def _speak(utterance: Utterance, emitter: tts.AudioEmitter, options: APIConnectOptions) -> None:
    """Speak an utterance into ``emitter``.

    Raises:
        APIError: the service refused the text, failed or could not be reached; LiveKit decides whether to try again.
    """

    async def heard(what: bytes | Timed) -> None:
        if isinstance(what, bytes):
            emitter.push(what)
        elif what.end_s is None:
            emitter.push_timed_transcript(TimedString(what.text, start_time=what.start_s))
        else:
            emitter.push_timed_transcript(TimedString(what.text, start_time=what.start_s, end_time=what.end_s))

    try:
        await utterance.speak(heard, options.timeout)
    except ServiceError as error:
        raise APIError(str(error), body=error.code, retryable=error.retry_after_s is not None) from error
    except InvalidStatus as error:
        answer = error.response
        raise APIStatusError(answer.reason_phrase, status_code=answer.status_code) from error
    except TimeoutError as error:
        raise APITimeoutError from error
    except (WebSocketException, OSError) as error:
        raise APIConnectionError from error
