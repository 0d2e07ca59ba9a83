"""Clips that strangers send to one ingress replica: decoded one at a time in a process apart, checked, and counted."""

import asyncio
import base64
from collections.abc import Generator
from contextlib import contextmanager

import numpy as np

from serve_app.config import Language, VoicesConfig
from serve_app.errors import CapacityError
from serve_app.protocol.messages import Start
from serve_app.speech import VoiceClip
from serve_app.voices.decoding import decode_apart
from serve_app.voices.voice import Reference, digest_of, make_reference

MAX_CLIPS = 8
"""Clips that may be read, decoded or wait for it at a time."""

_RETRY_MS = 2000


class Clips:
    """One per ingress replica; lives on its event loop."""

    def __init__(self, config: VoicesConfig) -> None:
        """Take the bounds."""
        self._max_held_bytes = config.max_inline_bytes
        self._held_bytes = 0
        self._coming = 0
        self._decoding = asyncio.Lock()

    @contextmanager
    def coming(self) -> Generator[None]:
        """Count one clip from before its bytes are read until it is decoded.

        Raises:
            CapacityError: as many come as may.
        """
        if self._coming >= MAX_CLIPS:
            raise CapacityError(f"{MAX_CLIPS} clips are being read, which is the limit", retry_after_ms=_RETRY_MS)
        self._coming += 1
        try:
            yield
        finally:
            self._coming -= 1

    async def reference(self, voice: str, audio: bytes, transcript: str | None, language: Language) -> Reference:
        """Decode and check a clip; nothing it holds can harm this process.

        Raises:
            VoiceInvalidError: unreadable or refused.
        """

        def read() -> Reference:
            digest = digest_of(audio, transcript)
            return make_reference(voice, decode_apart(audio), digest, transcript, language)

        async with self._decoding:
            return await asyncio.to_thread(read)

    async def own(self, start: Start) -> VoiceClip:
        """The voice that a session brings in a ``start``; :meth:`release` comes when it is not needed any more.

        Raises:
            VoiceInvalidError: unreadable or refused.
            CapacityError: as many come as may, or sessions have brought as many bytes as may be held.
        """
        audio = base64.b64decode(start.voice_audio or "", validate=True)  # a Start has nothing but base64
        with self.coming():
            reference = await self.reference("inline", audio, start.voice_transcript, start.language or "auto")
        pcm16 = np.rint(np.clip(reference.pcm, -1, 32767 / 32768) * 32768).astype(np.int16)
        clip = VoiceClip(pcm16, reference.transcript, reference.digest)
        if self._held_bytes + clip.pcm16.nbytes > self._max_held_bytes:
            most = f"sessions of this server hold {self._held_bytes} bytes of clips; {self._max_held_bytes} are allowed"
            raise CapacityError(most, retry_after_ms=_RETRY_MS)
        self._held_bytes += clip.pcm16.nbytes
        return clip

    def release(self, clip: VoiceClip) -> None:
        """A session that brought a clip is over."""
        self._held_bytes -= clip.pcm16.nbytes
