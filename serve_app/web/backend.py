"""The seam between the web application and the cluster: what an ingress asks of whatever speaks.

The Starlette application is written against this protocol, so that it is tested without Ray; the Ray ingress
implements it with deployment handles.
"""

from collections.abc import AsyncGenerator
from typing import Protocol

from serve_app.cluster.admission import Backlog
from serve_app.cluster.registry import Readiness
from serve_app.speech import SpeechEvent, SpeechRequest
from serve_app.voices.voice import VoiceManifest, VoiceStatus


class Backend(Protocol):
    """Speaks text chunks, lists voices, knows whether it is ready."""

    def speak(self, request: SpeechRequest) -> AsyncGenerator[SpeechEvent, None]:
        """Start one stream; audio chunks come while it is generated, one :class:`SpeechEnd` last.

        Closing the generator (``aclose``) cancels the stream and frees its slot; the caller always closes it.

        A stream whose replica is lost goes on elsewhere, so that its audio comes later and complete.

        Raises:
            SpeechError: while iterating: capacity, no generator, unknown voice, replicas lost again and again. What the
                generator itself says of a failure after the first audio comes as a :class:`SpeechEnd` with
                ``finish_reason="error"``.
        """
        ...

    async def share_load(self, backlog: Backlog) -> int:
        """Tell the cluster what runs and waits here, and learn how many streams may run from here at a time."""
        ...

    async def voices(self) -> list[VoiceStatus]:
        """Every voice of the store, unavailable ones with their reason."""
        ...

    async def known_voice(self, voice: str, digest: str) -> VoiceStatus | None:
        """The voice of that id if it was made from the same clip; None where it can be added.

        Raises:
            SpeechError: it cannot.
        """
        ...

    async def add_voice(self, voice: str, manifest: VoiceManifest, wav: bytes) -> VoiceStatus:
        """Keep a voice for good; it is encoded by whichever generator has time, or when somebody speaks with it.

        Raises:
            SpeechError: the id is taken, there are too many, the disk takes no more.
        """
        ...

    async def remove_voice(self, voice: str) -> None:
        """Forget an uploaded voice; those who are speaking with it finish.

        Raises:
            SpeechError: there is none, or it is not an uploaded one.
        """
        ...

    async def voice_wav(self, voice: str) -> bytes:
        """The clip of a voice as a WAV file.

        Raises:
            VoiceNotFoundError: there is none.
        """
        ...

    async def readiness(self) -> Readiness:
        """The present state; cheap enough for a probe."""
        ...
