"""The interface between the web application and the cluster.

The Starlette application depends only on this protocol, so it can be tested without Ray. The Ray ingress implements it
with deployment handles.
"""

from collections.abc import AsyncGenerator
from typing import Protocol

from serve_app.cluster.admission import Backlog
from serve_app.cluster.registry import Readiness
from serve_app.speech import SpeechEvent, SpeechRequest
from serve_app.voices.voice import VoiceManifest, VoiceStatus


class Backend(Protocol):
    """Speaks text chunks, manages voices and reports its readiness."""

    def speak(self, request: SpeechRequest) -> AsyncGenerator[SpeechEvent, None]:
        """Start one stream; it yields audio chunks while they are generated, and one :class:`SpeechEnd` at the end.

        Closing the generator (``aclose``) cancels the stream and frees its slot; the caller always closes it.

        If a replica is lost, the stream continues on another one: its audio is delayed but complete.

        Raises:
            SpeechError: while iterating: no capacity, no generator, an unknown voice, or too many lost replicas in a
                row. A failure in the generator after the first audio is a :class:`SpeechEnd` with
                ``finish_reason="error"``.
        """
        ...

    async def share_load(self, backlog: Backlog) -> int:
        """Report this replica's load to the cluster; return how many streams it may run at a time."""
        ...

    async def voices(self) -> list[VoiceStatus]:
        """Return all voices; unavailable ones have a reason."""
        ...

    async def known_voice(self, voice: str, digest: str) -> VoiceStatus | None:
        """Return the voice with this id if it has the same clip; None if the voice can be added.

        Raises:
            SpeechError: the voice cannot be added.
        """
        ...

    async def add_voice(self, voice: str, manifest: VoiceManifest, content: bytes) -> VoiceStatus:
        """Store a voice permanently. A generator encodes it when it has time or when a request needs it.

        Args:
            voice: its id.
            manifest: its manifest, including ``upload``.
            content: of the file ``manifest.audio``: the clip that will be encoded, or an exported voice.

        Raises:
            SpeechError: the id is taken, there are too many voices, the disk is full, or the voice was exported from
                another checkpoint.
        """
        ...

    async def remove_voice(self, voice: str) -> None:
        """Delete an uploaded voice; utterances that use it can finish.

        Raises:
            SpeechError: there is no such voice, or it was not uploaded.
        """
        ...

    async def voice_wav(self, voice: str) -> bytes:
        """Return the clip of a voice as a WAV file.

        Raises:
            VoiceNotFoundError: there is no such voice.
        """
        ...

    async def exported_voice(self, voice: str) -> bytes:
        """Return a voice as a file for another service: :mod:`serve_app.voices.voice_file`.

        Raises:
            VoiceNotFoundError: there is no such voice.
            TtsUnavailableError: it has not been encoded yet.
        """
        ...

    async def readiness(self) -> Readiness:
        """Return the present state; cheap enough for a probe."""
        ...
