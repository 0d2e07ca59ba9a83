"""The engine: one thread that plans steps, runs them on a runner's fixed slots, and delivers audio.

Callers on other threads submit and cancel streams and report what they have consumed. Audio is delivered through a
callback on the engine's thread. This module does not import torch or Ray, and does not handle text.
"""

import bisect
import itertools
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from serve_app.audio.silence import SilenceFilter
from serve_app.config import SAMPLE_RATE_HZ, EngineConfig
from serve_app.engine.costs import Costs, Stage
from serve_app.engine.interface import Prepared, Runner
from serve_app.engine.scheduler import SlotView, State, Step, plan
from serve_app.engine.stall import StallGuard
from serve_app.errors import CapacityError, SpeechError, SynthesisError, TtsUnavailableError
from serve_app.speech import FRAME_S, SAMPLES_PER_FRAME, AudioChunk, FinishReason, SpeechEnd, SpeechEvent

log = logging.getLogger(__name__)

_STREAM_IDS = itertools.count(1)

_SETTLED_S = 2.0
"""A listener counts as settled after this much playback; every listener has little slack at the start."""

_NEAR_UNDERRUN_S = 0.25
"""A settled listener with less slack than this is late; a stream that keeps up has about a second by then."""

_STEPS_KEPT = 8192
"""Maximum number of steps kept until metrics collect them, once a second; no device runs this many in a second."""

_LONG_STEP_S = 5.0
"""New streams go to other generators while a step takes longer than this, long before the step counts as stuck. A
prefill takes some seconds on a CPU. An ingress learns of it within about two seconds."""

_STREAM_WEIGHT = 0.05
"""Weight of the latest stream in the mean slot time; the mean covers about the last forty streams."""


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """How full an engine is.

    Attributes:
        running: streams in slots.
        waiting: streams that wait for a slot.
    """

    running: int
    waiting: int


@dataclass(frozen=True, slots=True)
class PlaybackStats:
    """How far the listeners of an engine are from an underrun.

    Attributes:
        listeners: listeners past the first seconds of playback.
        late: how many of them are close to an underrun.
        slack_s: the smallest slack among them, in seconds; 0 if there are no listeners.
    """

    listeners: int
    late: int
    slack_s: float


@dataclass(frozen=True, slots=True)
class StepSeen:
    """One step that the engine ran.

    Attributes:
        stage: what the step did.
        streams: how many streams shared it.
        seconds: how long it took; per frame for a decode.
        failed: whether it raised.
    """

    stage: Stage
    streams: int
    seconds: float
    failed: bool = False


@dataclass(slots=True, eq=False)
class Stream:
    """One stream from its submission to its end; callers use only :meth:`cancel` and :meth:`consumed`."""

    prepared: Prepared
    deliver: Callable[[SpeechEvent], None]
    arrived_s: float
    wake: Callable[[], None]
    id: int = field(default_factory=lambda: next(_STREAM_IDS))
    slot: int = -1
    stage: Stage | None = "predict"
    frames: int = 0
    """Frames sampled, including frames that the caller already held."""
    delivered: int = 0
    """Frames delivered, including frames that the caller already held."""
    codes: list[NDArray[np.int16]] = field(default_factory=list[NDArray[np.int16]])
    """Codes of frames that are sampled but not yet decoded."""
    silence: SilenceFilter | None = None
    held: list[NDArray[np.int16]] = field(default_factory=list[NDArray[np.int16]])
    """Codes of frames that are decoded but not delivered, because their samples are silence that is held back."""
    plays_until_s: float | None = None
    finish_reason: FinishReason = "eos"
    cancelled: bool = False
    ended: bool = False
    paused_since_s: float | None = None
    """When the stream paused because it was far ahead of its listener; None if it is not paused."""
    consumed_frames: int = 0
    guard: StallGuard | None = None
    timings_s: dict[str, float] = field(default_factory=dict[str, float])

    def cancel(self) -> None:
        """Stop after the current step; the stream then ends with ``cancelled``. Safe on any thread."""
        self.cancelled = True
        self.wake()

    def consumed(self, frames: int) -> None:
        """Report that the caller took ``frames`` frames out of its queue. Call from one thread at a time."""
        self.consumed_frames += frames
        self.wake()


class Engine:
    """Continuous batching over a runner's slots."""

    def __init__(self, runner: Runner, settings: EngineConfig, clock: Callable[[], float] = time.monotonic) -> None:
        """Use a runner whose slots are all free; ``clock`` returns monotonic seconds."""
        self._runner = runner
        self._settings = settings
        self._clock = clock
        self._costs = Costs()
        self._stream_s = 0.0
        self._changed = threading.Condition()
        self._waiting: list[Stream] = []
        self._running: dict[int, Stream] = {}
        self._free = list(reversed(range(runner.slots)))
        self._frame_since_prefill = True
        self._stopping = False
        self._failed_steps: Counter[Stage] = Counter()
        self._steps_seen: deque[StepSeen] = deque(maxlen=_STEPS_KEPT)
        self._step_began_s: float | None = None
        self._thread: threading.Thread | None = None

    @property
    def healthy(self) -> bool:
        """False after several failed steps of one stage, while a step is stuck, or if the engine's thread is dead.

        An unhealthy engine does not recover; its replica must be replaced.
        """
        failed = max(self._failed_steps.values(), default=0) >= self._settings.failed_steps_until_unhealthy
        return self._alive and not failed and self._step_s <= self._settings.step_timeout_s

    @property
    def responsive(self) -> bool:
        """Whether a new stream is likely to start soon: the engine is healthy, and its current step is not too long."""
        return self.healthy and self._step_s <= _LONG_STEP_S

    @property
    def _step_s(self) -> float:
        """Seconds since the current step began; 0 between steps."""
        began_s = self._step_began_s
        return 0.0 if began_s is None else self._clock() - began_s

    @property
    def _alive(self) -> bool:
        return self._thread is None or self._thread.is_alive()

    @property
    def load(self) -> EngineLoad:
        """Number of streams in slots and of waiting streams."""
        return EngineLoad(len(self._running), len(self._waiting))

    @property
    def playback(self) -> PlaybackStats:
        """Current playback state of the listeners."""
        now_s, most_frames = self._clock(), self._settings.max_lead_s / 2 / FRAME_S
        with self._changed:
            slacks_s = [
                stream.plays_until_s - now_s
                for stream in self._running.values()
                if stream.plays_until_s is not None
                and stream.prepared.request.listening
                and _unconsumed(stream) <= most_frames  # else the caller does not take what there is
                and now_s - stream.arrived_s - stream.timings_s["first_audio"] > _SETTLED_S
            ]
        late = sum(slack_s < _NEAR_UNDERRUN_S for slack_s in slacks_s)
        return PlaybackStats(len(slacks_s), late, max(0.0, min(slacks_s, default=0.0)))

    @property
    def stream_s(self) -> float:
        """Recent average of the seconds that a stream holds its slot; 0 until one has ended."""
        return self._stream_s

    def steps_seen(self) -> list[StepSeen]:
        """Return the steps since the last call. Safe on any thread, for a single caller."""
        return [self._steps_seen.popleft() for _ in range(len(self._steps_seen))]

    @property
    def costs(self) -> Costs:
        """Measured step durations."""
        return self._costs

    def submit(self, prepared: Prepared, deliver: Callable[[SpeechEvent], None]) -> Stream:
        """Queue a stream; safe on any thread.

        Args:
            prepared: what the runner's ``prepare`` returned.
            deliver: called on the engine's thread with audio chunks and then exactly one end; must not block or raise.

        Raises:
            CapacityError: the waiting list is full.
            TtsUnavailableError: the engine's thread has ended.
        """
        stream = Stream(prepared, deliver, self._clock(), self._wake)
        with self._changed:
            free_slots = len(self._free)
            if len(self._waiting) >= self._settings.max_waiting_streams + free_slots:
                raise CapacityError(
                    f"{len(self._running)} streams run and {len(self._waiting)} wait: this replica is full",
                    retry_after_ms=1000,
                )
            if self._stopping or not self._alive:
                raise TtsUnavailableError("this replica's engine has stopped", retry_after_ms=1000)
            bisect.insort(self._waiting, stream, key=lambda waiting: (waiting.prepared.request.priority, waiting.id))
            self._changed.notify()
        return stream

    def start(self) -> None:
        """Start the engine's thread."""
        assert self._thread is None, "an engine starts once"
        self._thread = threading.Thread(target=self._loop, name="engine", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread after its current step, and end all remaining streams as cancelled."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()
        for stream in [*self._running.values(), *self._waiting]:
            self._end(stream, "cancelled")

    def step(self) -> bool:
        """Drop cancelled streams, then run the next planned step. The engine's thread calls this in a loop.

        Returns:
            False if there was nothing to do.
        """
        self._drop_cancelled()
        action = plan(self._state(), self._clock())
        if not isinstance(action, Step):
            return False
        self._step_began_s = self._clock()
        if action.stage == "prefill":
            self._prefill(action.requests)
        else:
            self._run(action)
        self._step_began_s = None
        return True

    def _loop(self) -> None:
        try:
            self._serve()
        except Exception as error:  # a fault of the engine itself: no caller may wait forever
            log.critical("the engine has stopped; this replica is unhealthy", exc_info=error)
            for stream in (*self._running.values(), *self._waiting):
                self._end(stream, "error", SynthesisError("the engine has stopped"))

    def _serve(self) -> None:
        while not self._stopping:
            if self.step():
                continue
            with self._changed:
                action = plan(self._state(), self._clock())
                if isinstance(action, Step) or self._stopping or self._any_cancelled():
                    continue
                until_s = action.until_s
                self._changed.wait(None if until_s is None else max(0.001, until_s - self._clock()))

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify()

    def _any_cancelled(self) -> bool:
        return any(stream.cancelled for stream in (*self._running.values(), *self._waiting))

    def _state(self) -> State:
        views = [
            SlotView(
                slot=slot,
                stage=stream.stage,
                undecoded=len(stream.codes),
                plays_until_s=stream.plays_until_s,
                listening=stream.prepared.request.listening,
                unconsumed_frames=_unconsumed(stream),
                arrived_s=stream.arrived_s,
            )
            for slot, stream in self._running.items()
        ]
        waiting = self._waiting[: len(self._free)]
        waiting_since_s = waiting[0].arrived_s if waiting else None
        positions = [stream.prepared.prefill_positions for stream in waiting]
        return State(views, waiting_since_s, self._frame_since_prefill, self._costs, self._settings, positions)

    def _drop_cancelled(self) -> None:
        for stream in [stream for stream in (*self._running.values(), *self._waiting) if stream.cancelled]:
            self._end(stream, "cancelled")

    def _prefill(self, requests: int) -> None:
        """Give the first waiting streams slots, and prefill them together."""
        with self._changed:
            streams, self._waiting = self._waiting[:requests], self._waiting[requests:]
            for stream in streams:
                stream.slot = self._free.pop()
                self._running[stream.slot] = stream
        self._frame_since_prefill = False
        now_s = self._clock()
        for stream in streams:
            self._begin(stream, now_s)
        self._fill(streams)

    def _fill(self, streams: list[Stream]) -> None:
        """Prefill some streams together; if that fails, one by one, so that only those that fail on their own end."""
        began_s = self._clock()
        try:
            self._runner.prefill([stream.slot for stream in streams], [stream.prepared for stream in streams])
        except Exception as error:  # noqa: BLE001 - an error in the model ends this stream, not the engine
            if len(streams) > 1:
                for stream in streams:
                    self._fill([stream])
            elif isinstance(error, SpeechError):
                self._end(streams[0], "error", error)
            else:
                self._failed(streams, "prefill", error)
        else:
            self._filled(streams, self._clock() - began_s)

    def _begin(self, stream: Stream, now_s: float) -> None:
        """Initialize a stream that was given a slot."""
        stream.timings_s["queue"] = now_s - stream.arrived_s
        stream.frames = stream.delivered = _delivered_before(stream)
        if self._settings.stall_guard_s is not None:
            stream.guard = StallGuard(max(1, round(self._settings.stall_guard_s / FRAME_S)))
            if stream.prepared.request.delivered_codes is not None:
                stream.guard.recall(stream.prepared.request.delivered_codes)
        if (silence := stream.prepared.request.silence) is not None:
            stream.silence = SilenceFilter(silence, resumed=stream.delivered > 0)

    def _filled(self, streams: list[Stream], took_s: float) -> None:
        """Record a successful prefill."""
        self._failed_steps["prefill"] = 0
        positions = len(streams) * max(stream.prepared.prefill_positions for stream in streams)
        self._costs.observe("prefill", positions, took_s)
        self._steps_seen.append(StepSeen("prefill", len(streams), took_s))
        for stream in streams:
            stream.timings_s["prefill"] = took_s
            if stream.frames >= stream.prepared.max_frames:
                self._end(stream, "length")

    def _run(self, step: Step) -> None:
        streams = [self._running[slot] for slot in step.slots]
        began_s = self._clock()
        try:
            if step.stage == "predict":
                self._frame_since_prefill |= any(stream.plays_until_s is not None for stream in streams)
                self._note_pauses(streams, began_s)
                self._sample_frames(streams, began_s)
            elif step.stage == "talk":
                self._runner.talker_step(step.slots)
                for stream in streams:
                    stream.stage = "predict"
            else:
                self._decode(streams, step.frames, began_s)
        except Exception as error:  # noqa: BLE001 - an error in the model ends these streams, not the engine
            self._failed(streams, step.stage, error)
            return
        self._failed_steps[step.stage] = 0
        frames = max(1, step.frames)
        per_frame_s = (self._clock() - began_s) / frames
        self._costs.observe(step.stage, len(streams), per_frame_s, frames)
        self._steps_seen.append(StepSeen(step.stage, len(streams), per_frame_s))

    def _note_pauses(self, streams: list[Stream], now_s: float) -> None:
        """For each stream that resumes now, record how long it was paused because it was far ahead of its listener."""
        for stream in streams:
            if stream.paused_since_s is not None:
                paused_s = now_s - stream.paused_since_s
                stream.timings_s["paused"] = stream.timings_s.get("paused", 0.0) + paused_s
                stream.paused_since_s = None

    def _sample_frames(self, streams: list[Stream], began_s: float) -> None:
        sampled = self._runner.sample_frame([stream.slot for stream in streams])
        took_s = self._clock() - began_s
        for stream, codes, ended in zip(streams, sampled.codes, sampled.ended.tolist(), strict=True):
            if ended:
                stream.stage, stream.finish_reason = None, "eos"
                if not stream.codes:
                    self._end(stream, "eos")
                continue
            if stream.plays_until_s is None:
                stream.timings_s["predictor"] = stream.timings_s.get("predictor", 0.0) + took_s
            stream.codes.append(codes)
            stream.frames += 1
            stream.stage = "talk"
            if stream.frames >= stream.prepared.max_frames:
                stream.stage, stream.finish_reason = None, "length"

    def _decode(self, streams: list[Stream], frames: int, began_s: float) -> None:
        audio = self._runner.decode([stream.slot for stream in streams], frames)
        now_s = self._clock()
        for stream, pcm in zip(streams, audio, strict=True):
            assert len(pcm) == frames * SAMPLES_PER_FRAME, "a frame has 1920 samples"
            codes = np.stack(stream.codes[:frames])
            del stream.codes[:frames]
            stream.held.append(codes)
            if stream.plays_until_s is None:
                stream.timings_s["codec"] = stream.timings_s.get("codec", 0.0) + now_s - began_s
            sound = pcm if stream.silence is None else stream.silence.push(pcm)
            if len(sound):
                self._deliver(stream, sound, now_s)
            if (
                stream.prepared.request.listening
                and stream.plays_until_s is not None
                and stream.plays_until_s - now_s > self._settings.max_lead_s
            ):
                stream.paused_since_s = now_s
            if stream.guard is not None and stream.guard.observe(codes, pcm):
                self._end(stream, "stalled")
            elif stream.stage is None and not stream.codes:
                self._end(stream, stream.finish_reason)

    def _deliver(self, stream: Stream, pcm: NDArray[np.float32], now_s: float) -> None:
        """Deliver an audio chunk: the samples, and the codes of all frames whose samples are no longer held back."""
        before_s: dict[str, float] = {}
        if stream.plays_until_s is None:
            stream.timings_s["first_audio"] = now_s - stream.arrived_s
            stream.plays_until_s = now_s
            before_s = _before_first_audio_s(stream)
        played_s = len(pcm) / SAMPLE_RATE_HZ / stream.prepared.request.speed
        stream.plays_until_s = max(stream.plays_until_s, now_s) + played_s
        codes = np.concatenate(stream.held)
        stream.held.clear()
        silent = 0
        if stream.silence is not None:
            silent, held = stream.silence.silent_samples, stream.silence.held_frames
            codes, stream.held = codes[: len(codes) - held], [codes[len(codes) - held :]]
        spoken = None
        if stream.prepared.request.words:
            frames = range(stream.delivered, stream.delivered + len(codes))
            spoken = self._runner.spoken(stream.slot, stream.prepared, frames)
        stream.deliver(AudioChunk(stream.delivered, codes, pcm, before_s, silent_samples=silent, spoken=spoken))
        stream.delivered += len(codes)

    def _failed(self, streams: list[Stream], stage: Stage, error: Exception) -> None:
        """End the streams of a step that raised; the other streams continue."""
        self._failed_steps[stage] += 1
        self._steps_seen.append(StepSeen(stage, len(streams), 0.0, failed=True))
        message = "a %s step of %d streams failed (%d in a row)"
        log.error(message, stage, len(streams), self._failed_steps[stage], exc_info=error)
        for stream in streams:
            self._end(stream, "error", SynthesisError(f"synthesis failed in stage {stage!r}; other streams continue"))

    def _end(self, stream: Stream, reason: FinishReason, error: SpeechError | None = None) -> None:
        """Free the slot or remove the stream from the waiting list, and deliver its end; idempotent."""
        if stream.ended:
            return
        stream.ended = True
        if stream.silence is not None and sum(map(len, stream.held)) and error is None and reason != "cancelled":
            try:
                self._deliver(stream, stream.silence.end(), self._clock())
            except Exception:  # the slot must be freed whatever fails here
                log.exception("the last samples of a stream were not delivered")
                reason, error = "error", SynthesisError("the last samples were not delivered")
        with self._changed:
            if stream in self._waiting:
                self._waiting.remove(stream)
            elif self._running.pop(stream.slot, None) is not None:
                self._runner.release(stream.slot)
                self._free.append(stream.slot)
                self._free.sort(reverse=True)
        stream.timings_s["total"] = self._clock() - stream.arrived_s
        if "queue" in stream.timings_s:
            held_s = stream.timings_s["total"] - stream.timings_s["queue"]
            self._stream_s += (held_s - self._stream_s) * (_STREAM_WEIGHT if self._stream_s else 1.0)
        stream.deliver(
            SpeechEnd(
                finish_reason=reason,
                frames=stream.delivered,
                code=None if error is None else error.code,
                message=None if error is None else error.message,
                retry_after_ms=None if error is None else error.retry_after_ms,
                timings_s=dict(stream.timings_s),
            )
        )


def _delivered_before(stream: Stream) -> int:
    codes = stream.prepared.request.delivered_codes
    return 0 if codes is None else len(codes)


def _unconsumed(stream: Stream) -> int:
    """Frames that were delivered and that the caller has not taken yet."""
    return stream.delivered - _delivered_before(stream) - stream.consumed_frames


def _before_first_audio_s(stream: Stream) -> dict[str, float]:
    """Time to first audio by part: the stream's own steps, and ``queue`` for the rest.

    ``queue`` covers the wait for a slot and for other streams' steps.
    """
    own_s = {part: stream.timings_s[part] for part in ("prefill", "predictor", "codec")}
    return {**own_s, "queue": max(0.0, stream.timings_s["first_audio"] - sum(own_s.values()))}
