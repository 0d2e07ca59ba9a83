"""What a server may say, dialect by dialect: every message of a known type, every error of a known code, in order."""

import base64
import json

from serve_app.errors import SpeechError
from serve_app.protocol.deepgram_messages import Cleared, Failed, Flushed, Metadata, Warned
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
    Words,
)
from serve_app.protocol.stream_messages import (
    AudioDone,
    AudioPart,
    AudioStart,
    InputCommitted,
    SessionConfigured,
    SessionDone,
    StreamError,
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
        code = getattr(message, "code", None)
        if code is not None:
            assert code in CODES, frame[:300]
            assert 0 < len(getattr(message, "message", None) or message.description) < 1000, frame[:300]
            assert code != "SYNTHESIS_ERROR", frame[:300]
        self.take_message(message)
        self.kinds.append(code or message.type)
        return message

    def take_audio(self, payload):
        raise NotImplementedError

    def take_message(self, message):
        raise NotImplementedError


class FullAnswers(Answers):
    """Dialect B: payloads follow their announcement, and an utterance's chunks are counted from 0 without gaps."""

    models = (Ready, Segment, AudioMessage, Words, Complete, Cancelled, Stopped, ErrorMessage)

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


class StreamAnswers(Answers):
    """The speech stream: audio between its start and its end, and answers to flushes in their order."""

    models = (SessionConfigured, AudioStart, AudioPart, AudioDone, SessionDone, InputCommitted, StreamError)

    def __init__(self):
        super().__init__()
        self.sentence = None
        self.bytes = 0
        self.answered = -1

    def take_audio(self, payload):
        assert payload
        assert self.sentence is not None, "audio that nothing announced"
        self.bytes += len(payload)

    def take_message(self, message):
        match message:
            case AudioStart():
                assert self.sentence is None, "a sentence within a sentence"
                self.sentence, self.bytes = (message.utterance_index, message.sentence_index), 0
            case AudioPart():
                assert self.sentence == (message.utterance_index, message.sentence_index)
                self.bytes += len(base64.b64decode(message.audio_b64))
            case AudioDone():
                assert self.sentence == (message.utterance_index, message.sentence_index)
                assert message.total_bytes == self.bytes
                self.sentence = None
            case SessionDone() | InputCommitted():
                number = message.utterance_index if message.type == "session.done" else message.segment_index
                assert self.sentence is None, "an answer within a sentence"
                assert number > self.answered
                self.answered = number
            case _:
                pass


class DeepgramAnswers(Answers):
    """Deepgram's: the metadata first, and answers that are counted without gaps."""

    models = (Metadata, Flushed, Cleared, Warned, Failed)

    def __init__(self):
        super().__init__()
        self.answered = 0

    def take_audio(self, payload):
        assert payload

    def take_message(self, message):
        assert (message.type == "Metadata") == (not self.kinds)
        if message.type in ("Flushed", "Cleared"):
            assert message.sequence_id == self.answered
            self.answered += 1


ANSWERS = {
    "full": FullAnswers,
    "raw": RawAnswers,
    "research": ResearchAnswers,
    "stream": StreamAnswers,
    "deepgram": DeepgramAnswers,
}
