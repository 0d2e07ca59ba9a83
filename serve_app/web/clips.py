"""Clips from clients of one ingress replica: decoded one at a time in a separate process, checked and counted."""

import asyncio
import base64
from collections.abc import Generator
from contextlib import contextmanager

from serve_app.audio.pcm import pcm16_of
from serve_app.config import Language, VoicesConfig
from serve_app.errors import CapacityError
from serve_app.protocol.messages import Start
from serve_app.speech import VoiceClip
from serve_app.voices.decoding import decode_apart
from serve_app.voices.voice import Reference, digest_of, make_reference

MAX_CLIPS = 8
"""Maximum number of clips that are being read or decoded, or that wait to be decoded."""

_RETRY_MS = 2000


class Clips:
    """The clips of one ingress replica, on its event loop."""

    def __init__(self, config: VoicesConfig) -> None:
        """Set the limits."""
        self._max_held_bytes = config.max_inline_bytes
        self._held_bytes = 0
        self._coming = 0
        self._decoding = asyncio.Lock()

    @contextmanager
    def coming(self) -> Generator[None]:
        """Count one clip while the context manager is open: from before its bytes are read until it is decoded.

        Raises:
            CapacityError: too many clips are being read.
        """
        if self._coming >= MAX_CLIPS:
            raise CapacityError(f"{MAX_CLIPS} clips are being read, which is the limit", retry_after_ms=_RETRY_MS)
        self._coming += 1
        try:
            yield
        finally:
            self._coming -= 1

    async def reference(self, voice: str, audio: bytes, transcript: str | None, language: Language) -> Reference:
        """Decode and check a clip; a malicious clip cannot harm this process.

        Raises:
            VoiceInvalidError: the clip is unreadable or refused.
        """

        def read() -> Reference:
            digest = digest_of(audio, transcript)
            return make_reference(voice, decode_apart(audio), digest, transcript, language)

        await self._decoding.acquire()
        decoding = asyncio.create_task(asyncio.to_thread(read))
        decoding.add_done_callback(self._decoded)
        return await asyncio.shield(decoding)  # if the client leaves, the process that decodes still runs to its end

    def _decoded(self, decoding: "asyncio.Task[Reference]") -> None:
        """Let the next clip be decoded; the error of a clip whose client has left is not reported."""
        self._decoding.release()
        if not decoding.cancelled():
            decoding.exception()

    async def own(self, start: Start) -> VoiceClip:
        """Return the inline voice of a ``start``; the caller must :meth:`release` it at the end.

        Raises:
            VoiceInvalidError: the clip is unreadable or refused.
            CapacityError: too many clips are being read, or the sessions' clips exceed the limit in bytes.
        """
        audio = base64.b64decode(start.voice_audio or "", validate=True)  # a Start has nothing but base64
        with self.coming():
            reference = await self.reference("inline", audio, start.voice_transcript, start.language or "auto")
        clip = VoiceClip(pcm16_of(reference.pcm), reference.transcript, reference.digest)
        if self._held_bytes + clip.pcm16.nbytes > self._max_held_bytes:
            most = (
                f"sessions of this server hold {self._held_bytes} bytes of clips; the limit is {self._max_held_bytes}"
            )
            raise CapacityError(most, retry_after_ms=_RETRY_MS)
        self._held_bytes += clip.pcm16.nbytes
        return clip

    def release(self, clip: VoiceClip) -> None:
        """Release a clip at the end of its session."""
        self._held_bytes -= clip.pcm16.nbytes
