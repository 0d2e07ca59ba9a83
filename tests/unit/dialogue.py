"""A client of one dialect and a session, without sockets: frames in, frames out."""

import json
from itertools import count

import numpy as np

from serve_app.config import SessionConfig, TextConfig, VoicesConfig
from serve_app.protocol.outbox import Close
from serve_app.session.session import Call, InlineVoice, Session, SessionSetup
from serve_app.session.utterance import SpeechOptions, TextPipeline
from serve_app.speech import AudioChunk, SpeechEnd, VoiceClip
from serve_app.voices.voice import VoiceStatus

FRAME_SAMPLES = 1920
VOICES = ("makima", "austen")


class Dialogue:
    """Every sentence is a text chunk.

    Attributes:
        call: the generator call that runs.
        texts: the texts of all calls.
        requests: their requests.
        clip: the digest of the clip that the next ``start`` has.
        closed: how the session closed.
    """

    def __init__(self, dialect, *, opening=(), limits=None, spend=lambda now_s: None):
        seeds = count(1000)
        text = TextConfig(first_chunk_characters=8, chunk_budget_characters=8, longest_chunk_characters=200)
        setup = SessionSetup(
            session_id="s",
            options=SpeechOptions(voice="makima"),
            limits=limits or SessionConfig(),
            voices={name: VoiceStatus(name, "ready", "", None) for name in VOICES},
            new_seed=lambda: next(seeds),
            naming=VoicesConfig(),
            text=TextPipeline(text),
            spend=spend,
            rules=dialect.rules,
        )
        self.dialect = dialect
        self.session = Session(setup, 0.0)
        self.call = None
        self.requests = []
        self.closed = None
        self.clip = "digest"
        for message in opening:
            self._perform(self.session.receive(message, 0.0))

    @property
    def texts(self):
        return [request.text for request in self.requests]

    def say(self, *frames):
        """Send frames: strings as they are, anything else as JSON."""
        for frame in frames:
            for message in self.dialect.read(frame if isinstance(frame, str | bytes) else json.dumps(frame)):
                self._perform(self.session.receive(_decoded(message, self.clip), 0.0))
        return self

    def speak(self, frames=1, calls=10**9):
        """Answer the running call, and those that follow it."""
        while self.call is not None and calls:
            calls -= 1
            self.audio(frames)
            self.end()
        return self

    def audio(self, frames=1, spoken=None):
        """Audio of some frames; ``spoken`` has the character that each of them speaks."""
        codes, pcm = np.zeros((frames, 16), np.int16), np.full(frames * FRAME_SAMPLES, 0.25, np.float32)
        chunk = AudioChunk(0, codes, pcm, spoken=None if spoken is None else np.array(spoken, np.int32))
        self._perform(self.session.event(self.call.call_id, chunk, 0.0))
        return self

    def end(self):
        self._perform(self.session.event(self.call.call_id, SpeechEnd("eos", 1), 0.0))
        return self._over()

    def fail(self, error):
        self._perform(self.session.failed(self.call.call_id, error, 0.0))
        return self._over()

    def heard(self):
        """The frames that were sent since the last time: messages as mappings, audio as bytes."""
        frames = []
        while (item := self.session.take(0.0)) is not None:
            if isinstance(item, Close):
                self.closed = item
                break
            frames += [json.loads(frame) if isinstance(frame, str) else frame for frame in self.dialect.write(item)]
            self._perform(self.session.sent(0.0))
        return frames

    def _over(self):
        call, self.call = self.call, None
        self._perform(self.session.ended(call.call_id, 0.0))
        return self

    def _perform(self, effects):
        cancelled = False
        for effect in effects:
            if isinstance(effect, Call):
                assert self.call is None
                self.call = effect
                self.requests.append(effect.request)
            else:
                cancelled = True
        if cancelled:
            self._over()


def _decoded(message, digest):
    """A ``start`` with a clip as the session receives it, with another clip than the client's."""
    if getattr(message, "voice_audio", None) is None:
        return message
    return InlineVoice(message, VoiceClip(np.zeros(24_000, np.int16), message.voice_transcript, digest))


def kinds(frames):
    """The types of messages; audio is ``audio``."""
    return ["audio" if isinstance(frame, bytes) else frame["type"] for frame in frames]
