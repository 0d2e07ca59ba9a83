"""A TTS service of Pipecat: ``Qwen3TTSService("http://127.0.0.1:8000", settings=…)`` in a pipeline."""

# pyright: reportMissingImports=false
# Pipecat is not installed with the project.

import asyncio
import re
from collections.abc import AsyncGenerator
from typing import Any

from pipecat.frames.frames import (
    CancelFrame,
    Frame,
    InterruptionFrame,
    TTSAudioRawFrame,
    TTSStoppedFrame,
)
from pipecat.processors.frame_processor import FrameDirection
from pipecat.services.settings import TTSSettings
from pipecat.services.tts_service import TextAggregationMode, TTSService
from pipecat.utils.tracing.service_decorators import traced_tts
from websockets.exceptions import WebSocketException

from qwen3_tts_client.captions import Timed
from qwen3_tts_client.utterance import DEFAULT_URL, Server, ServiceError, Utterance

LONGEST_WAIT_S = 75.0
"""Longest wait between two messages of an utterance, when a generator is replaced (docs/protocol.md)."""

_WORD = re.compile(r"[\u3040-\u9fff]\W*|[^\s\u3040-\u9fff]+\s*")
"""A word and the white space after it; in Chinese and Japanese a character. Pipecat finds sentences word by word."""


class Qwen3TTSService(TTSService):
    """Streams text, interrupts, resumes after a lost connection, and times words.

    Each audio context is an utterance. They are spoken one after the other, so that a pipeline uses one stream of the
    service. Without word times, the words of a caption all have the time of its beginning.
    """

    Settings = TTSSettings

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        api_key: str | None = None,
        words: bool = False,
        fields: dict[str, Any] | None = None,
        text_aggregation_mode: TextAggregationMode = TextAggregationMode.TOKEN,
        settings: TTSSettings | None = None,
        **options: Any,  # noqa: ANN401 - Pipecat's own
    ) -> None:
        """Set the service and the fields of each utterance.

        Args:
            url: address of the service, with its route prefix if it has one.
            api_key: None reads ``TTS_API_KEY``.
            words: time words instead of captions, if the service has word times for its checkpoint.
            fields: other fields of ``speak`` (docs/protocol.md), such as ``speed`` and ``lexicon``.
            text_aggregation_mode: tokens by default, because the service finds the sentences itself.
            settings: ``voice`` and ``language``, which may be updated while the pipeline runs.
            options: those of Pipecat's ``TTSService``.
        """
        current = TTSSettings(model=None, voice=None, language=None)
        if settings is not None:
            current.apply_update(settings)
        super().__init__(
            text_aggregation_mode=text_aggregation_mode,
            settings=current,
            **{
                "append_trailing_space": True,
                "push_start_frame": True,
                "push_text_frames": False,
                "stop_frame_timeout_s": LONGEST_WAIT_S,
                **options,
            },
        )
        self._server = Server(url, api_key)
        self._fields = {**(fields or {}), "words": words or None}
        self._speaking: dict[str, tuple[Utterance, asyncio.Task[None]]] = {}
        self._one_at_a_time = asyncio.Lock()

    def can_generate_metrics(self) -> bool:
        """Whether the time to the first byte and to the first audible sample are measured."""
        return True

    @property
    def supports_processing_metrics(self) -> bool:
        """Whether ``run_tts`` takes as long as the synthesis; it only sends the text."""
        return False

    async def on_turn_context_created(self, context_id: str) -> None:
        """Connect before there is text."""
        self._utterance(context_id)

    @traced_tts
    async def run_tts(self, text: str, context_id: str) -> AsyncGenerator[Frame | None, None]:
        """Send text; its audio arrives in ``_speak``."""
        utterance = self._utterance(context_id)
        utterance.push(text)
        if context_id != self._turn_context_id:  # text outside a turn: Pipecat reports no end
            utterance.end()
        await self.start_tts_usage_metrics(text)
        yield None

    async def on_turn_context_completed(self) -> None:
        """End the text."""
        if self._turn_context_id in self._speaking:
            self._speaking[self._turn_context_id][0].end()
        await super().on_turn_context_completed()

    async def on_audio_context_completed(self, context_id: str) -> None:
        """Forget the text if Pipecat did not wait for its end."""
        await self._interrupt(context_id)

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Process a frame; an interruption ends the utterances whose audio contexts it has dropped."""
        await super().process_frame(frame, direction)
        if isinstance(frame, InterruptionFrame):
            for context_id in [known for known in self._speaking if not self.audio_context_available(known)]:
                await self._interrupt(context_id)

    async def cancel(self, frame: CancelFrame) -> None:
        """Interrupt everything at once."""
        await super().cancel(frame)
        await self._interrupt_all()

    async def cleanup(self) -> None:
        """Interrupt what is left."""
        await super().cleanup()
        await self._interrupt_all()

    async def _interrupt_all(self) -> None:
        for context_id in list(self._speaking):
            await self._interrupt(context_id)

    async def _interrupt(self, context_id: str) -> None:
        if context_id in self._speaking:
            _, task = self._speaking.pop(context_id)
            await self.cancel_task(task)

    def _utterance(self, context_id: str) -> Utterance:
        if context_id not in self._speaking:
            fields = {"voice": self._settings.voice, "language": self._settings.language, **self._fields}
            utterance = Utterance(self._server, self.sample_rate, fields)
            self._speaking[context_id] = utterance, self.create_task(self._speak(context_id, utterance))
        return self._speaking[context_id][0]

    async def _speak(self, context_id: str, utterance: Utterance) -> None:
        async def heard(what: bytes | Timed) -> None:
            if isinstance(what, bytes):
                frame = TTSAudioRawFrame(what, self.sample_rate, 1, context_id=context_id)
                await self.append_to_audio_context(context_id, frame)
            else:
                for word in _WORD.findall(what.text):
                    # Pipecat puts a space between words unless both say that none was written.
                    times, spaces = [(word.strip(), what.start_s)], not word[-1].isspace()
                    await self.add_word_timestamps(times, context_id, includes_inter_frame_spaces=spaces)

        try:
            await utterance.speak(heard, turn=self._one_at_a_time)
        except (ServiceError, WebSocketException, OSError) as error:
            await self.push_error(error_msg=f"{self}: {error}", exception=error)
        self._speaking.pop(context_id, None)
        if self.audio_context_available(context_id):
            await self.append_to_audio_context(context_id, TTSStoppedFrame(context_id=context_id))
            await self.remove_audio_context(context_id)
