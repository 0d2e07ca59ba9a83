"""What a server may say, dialect by dialect: every message of a known type, every error of a known code, in order."""

import base64
import json

from serve_app.errors import SpeechError
from serve_app.protocol.messages import (
    AudioMessage,
    Cancelled,
    Complete,
    ErrorMessage,
    RawAudioEnd,
    Ready,
    ResearchAudio,
    ResearchComplete,
    ResearchError,
    Segment,
    Stopped,
)

CODES = {kind.code for kind in SpeechError.__subclasses__()}


class Answers:
    """Takes what comes over one socket, and fails at what may not come.

    Attributes:
        kinds: the type of everything that came, and the code of errors.
    """

    models: tuple = ()

    def __init__(self):
        self.kinds = []

    def take(self, frame):
        """Check one message; returns it, or None where it is bare audio."""
        if isinstance(frame, bytes):
            self.take_audio(frame)
            self.kinds.append("audio")
            return None
        fields = json.loads(frame)
        models = {model.model_fields["type"].default: model for model in self.models}
        assert fields.get("type") in models, frame[:300]
        message = models[fields["type"]].model_validate_json(frame, strict=True)
        if message.type == "error":
            assert message.code in CODES, frame[:300]
            assert 0 < len(message.message) < 1000, frame[:300]
            assert message.code != "SYNTHESIS_ERROR", frame[:300]
        self.take_message(message)
        self.kinds.append(message.code if message.type == "error" else message.type)
        return message

    def take_audio(self, payload):
        raise NotImplementedError

    def take_message(self, message):
        raise NotImplementedError


class FullAnswers(Answers):
    """Dialect B: payloads follow their announcement, and an utterance's chunks are counted from 0 without gaps."""

    models = (Ready, Segment, AudioMessage, Complete, Cancelled, Stopped, ErrorMessage)

    def __init__(self):
        super().__init__()
        self.announced = False
        self.speaking = None
        self.seq = 0

    def take_audio(self, payload):
        assert self.announced, "audio that nothing announced"
        self.announced = False

    def take_message(self, message):
        assert not self.announced, "an announcement without its audio"
        match message:
            case AudioMessage():
                if self.speaking != message.utterance_id:
                    self.speaking, self.seq = message.utterance_id, 0
                assert message.seq == self.seq
                self.seq += 1
                self.announced = message.data is None
            case Complete() | Cancelled() | ErrorMessage() if message.utterance_id == self.speaking:
                self.speaking = None
            case _:
                pass


class RawAnswers(Answers):
    """``framing=raw``: bare audio, and one word after it."""

    models = (RawAudioEnd, ErrorMessage)

    def take_audio(self, payload):
        assert payload
        assert len(payload) % 2 == 0

    def take_message(self, message):
        pass


class ResearchAnswers(Answers):
    """Dialect A: one final audio message, and ``complete`` after it."""

    models = (ResearchAudio, ResearchComplete, ResearchError)

    def __init__(self):
        super().__init__()
        self.final = False

    def take_audio(self, payload):
        raise AssertionError("dialect A has no binary frames")

    def take_message(self, message):
        match message:
            case ResearchAudio():
                assert not self.final, "audio after the final one"
                assert len(base64.b64decode(message.data, validate=True)) % 2 == 0
                self.final = message.final
            case ResearchComplete():
                assert self.final, "complete without a final audio"
                self.final = False
            case _:
                assert not self.final, "an error between the final audio and complete"


ANSWERS = {"full": FullAnswers, "raw": RawAnswers, "research": ResearchAnswers}
