"""What the engine does next: a pure function of the slots, the waiting list and the clock.

Order of service:

1. a listener who would run dry, but not if served now;
2. newcomers. Those who wait for a slot are prefilled first, so that a burst of them starts together, as long as
   nobody waits too long for a first frame. Whoever is already playing has rule 1 to be safe from them;
3. everybody else, the frames that are due for the codec first.

A listener who has run dry is past saving and counts among everybody else: at saturation all go on together, in
large batches, and between two prefills everybody gets a frame. Each step takes along whoever needs the same stage,
and nothing ever waits for a batch to fill.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from serve_app.config import EngineConfig
from serve_app.engine.costs import Costs, Stage
from serve_app.speech import FRAME_S

_SAFETY = 1.5
"""A stream counts as urgent this many times its expected need ahead: measured costs vary by about a third."""


_OVERDUE = 2.0
"""Somebody who has waited so many times the patience for a slot goes before listeners who barely keep up."""

_CLEAR_GAIN = 0.1
"""The part of a frame's cost that gathering frames for the codec must save, to be worth longer pauses."""

RIDE_ALONG_S = 0.5
"""A stream that has its lead still takes part in steps that run for others, up to this much more: streams that
pause one by one would otherwise go on one by one, and a batch costs hardly more than a single stream."""


@dataclass(frozen=True, slots=True)
class SlotView:
    """One stream in a slot, as far as a decision needs it.

    Attributes:
        slot: its index.
        stage: what its language model needs next: ``predict`` draws a frame, ``talk`` digests it; None when it has
            drawn its last frame.
        undecoded: frames drawn and not yet decoded.
        heard_until_s: clock time at which a listener who plays at once has heard all that was delivered; None
            before the first audio.
        listening: whether anybody listens as it comes.
        unconsumed_frames: frames delivered that the caller has not taken yet.
        arrived_s: when it was asked for; the oldest newcomer is served first.
    """

    slot: int
    stage: Stage | None
    undecoded: int
    heard_until_s: float | None
    listening: bool
    unconsumed_frames: int
    arrived_s: float


@dataclass(frozen=True)
class State:
    """All that a decision depends on, besides the clock.

    Attributes:
        slots: streams in slots.
        waiting_since_s: when the oldest of those who wait, and could have a slot now, arrived; None if nobody does.
        frame_since_prefill: a frame was drawn for somebody who plays since the last prefill.
        costs: measured step durations.
        settings: the engine's configuration.
        waiting_positions: what the prefill of the first who waits computes.
    """

    slots: Sequence[SlotView]
    waiting_since_s: float | None
    frame_since_prefill: bool
    costs: Costs
    settings: EngineConfig
    waiting_positions: int = 0

    @cached_property
    def frame_cost_s(self) -> float:
        """Expected seconds of one frame of everybody, codec excluded."""
        batch = max(1, len(self.slots))
        return self.costs.of("talk", batch) + self.costs.of("predict", batch)

    @cached_property
    def gains_by_gathering(self) -> bool:
        """Whether listeners had better wait for full audio chunks; asked of every stream, and the same for all.

        They had where one frame at a time never catches up with them, and a frame costs clearly less among others.
        """
        batch = max(1, len(self.slots))
        single_s = self.costs.of("decode", batch)
        alone_s = self.frame_cost_s + single_s
        if alone_s <= FRAME_S:
            return False
        gathered_s = self.costs.of_gathered(batch)
        return gathered_s is not None and single_s - gathered_s > _CLEAR_GAIN * alone_s


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do.

    Attributes:
        stage: ``prefill`` takes the first of the waiting list and has no slots.
        slots: who takes part.
        frames: frames to decode of each, for ``decode``.
    """

    stage: Stage
    slots: tuple[int, ...] = ()
    frames: int = 0


@dataclass(frozen=True, slots=True)
class Sleep:
    """Nothing to do now.

    Attributes:
        until_s: clock time at which a paused stream wants to go on; None waits for a newcomer.
    """

    until_s: float | None


def plan(state: State, now_s: float) -> Step | Sleep:
    """Decide the engine's next step.

    Args:
        state: the slots as they are.
        now_s: the clock's time, in seconds.
    """
    lead_s, patience_s = state.settings.max_lead_s, state.settings.newcomer_patience_s
    runnable = [view for view in state.slots if not _ahead(view, lead_s + RIDE_ALONG_S, now_s)]
    playing = any(view.heard_until_s is not None for view in runnable)
    may_prefill = state.waiting_since_s is not None and (state.frame_since_prefill or not playing)
    if may_prefill and now_s - (state.waiting_since_s or now_s) > _OVERDUE * patience_s:
        return Step("prefill")
    urgent = [view for view in runnable if _can_be_saved(view, state, now_s)]
    if urgent:
        return _serve(min(urgent, key=lambda view: slack_s(view, now_s)), runnable, state)
    newcomers = [view for view in runnable if view.listening and view.heard_until_s is None]
    oldest = min(newcomers, key=lambda view: view.arrived_s, default=None)
    if oldest is not None and (state.waiting_since_s is None or now_s - oldest.arrived_s > patience_s):
        return _serve(oldest, runnable, state)
    late = any(slack_s(view, now_s) <= 0 for view in runnable if view.heard_until_s is not None)
    if state.waiting_since_s is not None and (may_prefill or not late):
        return Step("prefill")
    return _everybody(runnable, state, now_s)


def _everybody(runnable: Sequence[SlotView], state: State, now_s: float) -> Step | Sleep:
    """What is due for the codec, else the next stage of whoever is not ahead, with whoever can ride along."""
    due = [view for view in runnable if _due(view, state, now_s)]
    if due:
        return _decode(max(due, key=lambda view: view.undecoded), runnable, state.settings)
    stages: tuple[Stage, Stage] = ("talk", "predict")
    for stage in stages:
        rows = [view for view in runnable if view.stage == stage]
        if any(not _ahead(view, state.settings.max_lead_s, now_s) for view in rows):
            return Step(stage, tuple(view.slot for view in rows))
    return Sleep(_wake_s(state, now_s))


def slack_s(view: SlotView, now_s: float) -> float:
    """Seconds of delivered audio that the listener still has to play; infinite when nobody listens."""
    if not view.listening:
        return math.inf
    return 0.0 if view.heard_until_s is None else view.heard_until_s - now_s


def _serve(first: SlotView, runnable: Sequence[SlotView], state: State) -> Step:
    """The next stage of one stream, with everybody who can share it."""
    if first.undecoded and not _gathers(first, state):
        return _decode(first, runnable, state.settings)
    assert first.stage is not None, "a stream without frames left or to come is no longer in its slot"
    most = state.settings.audio_chunk_max_frames
    rows = [view for view in runnable if view.stage == first.stage and view.undecoded < most]
    return Step(first.stage, tuple(view.slot for view in rows))


def _decode(first: SlotView, runnable: Sequence[SlotView], settings: EngineConfig) -> Step:
    """Decode an audio chunk of one stream, with those of everybody who has as many frames for one."""
    most = settings.audio_chunk_max_frames
    frames = min(first.undecoded, most)
    return Step("decode", tuple(view.slot for view in runnable if min(view.undecoded, most) == frames), frames)


def _need_s(view: SlotView, state: State) -> float:
    """Expected seconds until the stream's next audio chunk, served at once."""
    batch = max(1, len(state.slots))
    if _gathers(view, state):
        frames = state.settings.audio_chunk_max_frames
        return state.costs.of("decode", batch, frames) * frames + state.frame_cost_s * (frames - view.undecoded)
    frames = max(1, view.undecoded)
    need = state.costs.of("decode", batch, frames) * frames
    if view.undecoded == 0:
        need += state.costs.of("predict", batch)
        if view.stage == "talk":
            need += state.costs.of("talk", batch)
    return need


def _can_be_saved(view: SlotView, state: State, now_s: float) -> bool:
    """Whether a listener would run dry if something else came first, but not if the stream is served now.

    What may come first is one step that cannot be interrupted: a prefill if somebody waits for one.
    """
    if not view.listening or view.heard_until_s is None:
        return False
    need_s = _need_s(view, state)
    if state.waiting_since_s is None:
        other_s = state.costs.of("predict", max(1, len(state.slots)))
    else:
        other_s = state.costs.of("prefill", state.waiting_positions)
    return need_s <= slack_s(view, now_s) < _SAFETY * (need_s + other_s)


def _due(view: SlotView, state: State, now_s: float) -> bool:
    """Whether a stream's frames should be decoded now instead of gathering more.

    The first audio chunk is one frame; later ones grow while the slack pays for the frames they wait for, and
    where single frames would only lose it.
    """
    if view.undecoded == 0 or _gathers(view, state):
        return False
    if view.stage is None or view.undecoded >= state.settings.audio_chunk_max_frames:
        return True
    if view.listening and view.heard_until_s is None:
        return True
    return slack_s(view, now_s) < _SAFETY * (_need_s(view, state) + state.frame_cost_s)


def _gathers(view: SlotView, state: State) -> bool:
    """Whether a stream's next audio chunk is a full one, whatever its listener has left to play."""
    if view.stage is None or view.undecoded >= state.settings.audio_chunk_max_frames:
        return False
    if view.listening and view.heard_until_s is None:
        return False
    return state.gains_by_gathering


def _ahead(view: SlotView, lead_s: float, now_s: float) -> bool:
    """Whether a stream is so far ahead that it should draw no more; what it has drawn is still decoded."""
    if view.undecoded:
        return False
    if view.unconsumed_frames * FRAME_S > lead_s:
        return True
    return view.listening and slack_s(view, now_s) > lead_s


def _wake_s(state: State, now_s: float) -> float | None:
    """When the first paused stream falls back below the lead; streams that wait for their caller have no time."""
    ends = [
        view.heard_until_s - state.settings.max_lead_s
        for view in state.slots
        if view.listening
        and view.heard_until_s is not None
        and view.unconsumed_frames * FRAME_S <= state.settings.max_lead_s
    ]
    return max(now_s, min(ends)) if ends else None
