"""A runner whose steps cost simulated seconds, and listeners who play at once: no thread, no clock, no torch."""

from dataclasses import dataclass, field

import numpy as np

from serve_app.config import EngineConfig
from serve_app.engine.engine import Engine, Stream
from serve_app.engine.interface import Frames, Prepared
from serve_app.engine.scheduler import Sleep, plan
from serve_app.speech import SAMPLES_PER_FRAME, AudioChunk, SpeechEnd, SpeechRequest

QUIET_VOICE = "v"


@dataclass
class SimulatedCosts:
    """Seconds of each step; a batch costs its base and a little per row."""

    prefill_s: float = 0.2
    predict_s: float = 0.02
    talk_s: float = 0.01
    decode_s: float = 0.004
    """Of a frame."""
    decode_call_s: float = 0.0
    """Added to every decoding step, whatever its frames."""
    per_row: float = 0.05
    character_s: float = 0.0
    """Added to a prefill for each character of a text that is prefilled whole."""


def _prefilled(request: SpeechRequest) -> int:
    """Characters of the text that are computed in the prefill."""
    return len(request.text) if request.prompt == "whole" else 0


class SimulatedRunner:
    """Codes are a function of (text, frame) alone; a text of n characters says n frames and then ends."""

    def __init__(self, slots: int = 10, costs: SimulatedCosts | None = None) -> None:
        self.slots = slots
        self.costs = costs or SimulatedCosts()
        self.now_s = 0.0
        self.texts: dict[int, str] = {}
        self.drawn: dict[int, int] = {}
        self.decoded: dict[int, int] = {}
        self.waiting_for_talk: set[int] = set()
        self.log: list[tuple[str, tuple[int, ...]]] = []
        self.broken: set[str] = set()
        self.asked: list[tuple[str, range]] = []
        self.batches: dict[str, list[int]] = {"prefill": [], "predict": [], "talk": [], "decode": []}

    def prepare(self, request: SpeechRequest, voice: object = None) -> Prepared:
        delivered = 0 if request.delivered_codes is None else len(request.delivered_codes)
        return Prepared(request, 10 + _prefilled(request) + delivered, max_frames=200, model_input=None)

    def _spend(self, stage: str, slots: tuple[int, ...], seconds: float) -> None:
        self.log.append((stage, slots))
        if stage in self.broken:
            raise RuntimeError(f"{stage} is broken")
        self.now_s += seconds * (1 + self.costs.per_row * (len(slots) - 1))
        if stage in self.batches:
            self.batches[stage].append(len(slots))

    def prefill(self, slots, prepared) -> None:
        assert not set(slots) & set(self.texts), "a slot is taken"
        characters = sum(_prefilled(each.request) for each in prepared)
        self._spend("prefill", tuple(slots), self.costs.prefill_s + self.costs.character_s * characters)
        for slot, each in zip(slots, prepared, strict=True):
            delivered = each.request.delivered_codes
            self.texts[slot] = each.request.text
            self.drawn[slot] = self.decoded[slot] = 0 if delivered is None else len(delivered)
            self.waiting_for_talk.discard(slot)

    def sample_frame(self, slots) -> Frames:
        assert not self.waiting_for_talk & set(slots), "a frame before the talker has digested the last one"
        self._spend("predict", tuple(slots), self.costs.predict_s)
        ended = np.array([self.drawn[slot] >= len(self.texts[slot]) for slot in slots])
        codes = np.stack([codes_of(self.texts[slot], self.drawn[slot]) for slot in slots])
        for slot, end in zip(slots, ended, strict=True):
            if not end:
                self.drawn[slot] += 1
                self.waiting_for_talk.add(slot)
        return Frames(codes, ended)

    def talker_step(self, slots) -> None:
        assert set(slots) <= self.waiting_for_talk
        self._spend("talk", tuple(slots), self.costs.talk_s)
        self.waiting_for_talk -= set(slots)

    def decode(self, slots, frames: int):
        self._spend("decode", tuple(slots), self.costs.decode_call_s + self.costs.decode_s * frames)
        rows = []
        for slot in slots:
            begin = self.decoded[slot]
            assert begin + frames <= self.drawn[slot], "more frames decoded than drawn"
            rows.append(pcm_of(self.texts[slot], begin, frames))
            self.decoded[slot] = begin + frames
        return np.stack(rows)

    def spoken(self, slot, prepared, frames):
        assert self.texts[slot] == prepared.request.text, "the slot is another stream's"
        assert frames.stop <= self.drawn[slot], "more frames than drawn"
        self.asked.append((prepared.request.text, frames))
        return np.arange(frames.start, frames.stop, dtype=np.int32)

    def release(self, slot: int) -> None:
        self.texts.pop(slot, None)


def codes_of(text: str, frame: int) -> np.ndarray:
    return ((np.arange(16) * 7 + frame * 131 + sum(text.encode())) % 2048).astype(np.int16)


def pcm_of(text: str, begin: int, frames: int) -> np.ndarray:
    """A frame has a value of its own; an underscore is silence."""
    frames = range(begin, begin + frames)
    values = [0.0 if text[frame] == "_" else codes_of(text, frame)[0] / 2048 + 0.01 for frame in frames]
    return np.repeat(np.array(values, dtype=np.float32), SAMPLES_PER_FRAME)


@dataclass
class Listener:
    """Plays what comes at once and counts when it runs dry."""

    text: str
    arrived_s: float
    listening: bool = True
    speed: float = 1.0
    stream: Stream | None = None
    chunks: list[AudioChunk] = field(default_factory=list)
    end: SpeechEnd | None = None
    first_audio_s: float | None = None
    plays_until_s: float = 0.0
    underruns: int = 0

    def hear(self, event, now_s: float) -> None:
        if isinstance(event, SpeechEnd):
            assert self.end is None, "a stream ends once"
            self.end = event
            return
        assert self.end is None, "audio after the end"
        if self.first_audio_s is None:
            self.first_audio_s = self.plays_until_s = now_s
        elif now_s > self.plays_until_s + 1e-9:
            self.underruns += 1
        self.plays_until_s = max(self.plays_until_s, now_s) + len(event.pcm) / 24_000 / self.speed
        self.chunks.append(event)
        self.stream.consumed(len(event.codes))

    @property
    def ttfa_s(self) -> float:
        assert self.first_audio_s is not None, "never heard anything"
        return self.first_audio_s - self.arrived_s

    @property
    def codes(self) -> np.ndarray:
        return np.concatenate([chunk.codes for chunk in self.chunks])

    @property
    def pcm(self) -> np.ndarray:
        return np.concatenate([chunk.pcm for chunk in self.chunks])


class Simulation:
    """An engine under simulated time."""

    def __init__(self, runner: SimulatedRunner | None = None, **settings) -> None:
        self.runner = runner or SimulatedRunner()
        self.settings = EngineConfig(slots=self.runner.slots, stall_guard_s=None, **settings)
        self.engine = Engine(self.runner, self.settings, clock=lambda: self.runner.now_s)
        self.listeners: list[Listener] = []

    def speak(self, text: str, *, listening: bool = True, delivered=None, **fields) -> Listener:
        """Submit a stream now; ``fields`` are those of its request."""
        request = SpeechRequest(text, QUIET_VOICE, listening=listening, delivered_codes=delivered, **fields)
        listener = Listener(text, self.runner.now_s, listening, request.speed)
        self.listeners.append(listener)
        listener.stream = self.engine.submit(
            self.runner.prepare(request), lambda event: listener.hear(event, self.runner.now_s)
        )
        return listener

    def run(self, arrivals: list[tuple[float, str]] = (), until_s: float = 1e9) -> None:
        """Run until everybody is done, or the time is over, submitting each arrival when its time has come."""
        pending = sorted(arrivals)
        while self.runner.now_s < until_s:
            while pending and pending[0][0] <= self.runner.now_s:
                self.speak(pending.pop(0)[1])
            if self.engine.step():
                continue
            action = plan(self.engine._state(), self.runner.now_s)
            assert isinstance(action, Sleep)
            wakes = [time for time in (action.until_s, pending[0][0] if pending else None) if time is not None]
            if not wakes:
                return
            self.runner.now_s = max(self.runner.now_s + 1e-6, min(wakes))
