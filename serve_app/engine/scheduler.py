"""Decides the engine's next step: a pure function of the slots, the waiting list and the clock.

Streams are served in this order:

1. Streams whose listener avoids an underrun only if they are served now. Only a request that has waited for a slot for
   ``_OVERDUE`` times ``new_request_patience_s`` goes before them.
2. New requests. Requests that wait for a slot are prefilled first, so that a burst of them starts together. If a
   request with a slot has waited too long for its first frame, it goes before them.
3. All other streams; frames that are due for the codec come first.

A stream whose listener already has an underrun falls under rule 3. At saturation, all streams therefore advance
together in large batches, and each stream gets a frame between two prefills. A step includes every stream that needs
the same stage, and never waits for a batch to fill.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from serve_app.config import EngineConfig
from serve_app.engine.costs import Costs, Stage
from serve_app.speech import FRAME_S

_SAFETY = 1.5
"""A stream is urgent if its slack is below this many times the cost of its step and one other; costs vary."""


_OVERDUE = 2.0
"""A request that has waited for a slot for this many times ``new_request_patience_s`` goes before urgent streams."""

_MAX_POSITIONS = 2048
"""Maximum number of positions of one prefill, including padding; limits the memory that a step takes."""

_MAX_PADDING = 1.5
"""Requests are prefilled together only if their padded prompts have at most this many times the unpadded positions."""

_CLEAR_GAIN = 0.1
"""Decoding several frames at once must save this share of a frame's cost to justify longer pauses."""

RIDE_ALONG_S = 0.5
"""A stream that is ``max_lead_s`` ahead of its listener still joins steps that run for others, up to this much further
ahead. Otherwise streams that pause one by one would also resume one by one, and a batch costs hardly more than a single
stream."""


@dataclass(frozen=True, slots=True)
class SlotView:
    """What a decision needs to know about one stream in a slot.

    Attributes:
        slot: index of the slot.
        stage: the language model's next stage: ``predict`` samples a frame, ``talk`` feeds it to the talker; None after
            the last frame.
        undecoded: frames sampled but not yet decoded.
        plays_until_s: clock time at which a listener without a buffer has played all delivered audio; None before
            the first audio.
        listening: whether a listener plays the audio as it arrives.
        unconsumed_frames: delivered frames that the caller has not taken yet.
        arrived_s: when the request arrived; the oldest new request is served first.
    """

    slot: int
    stage: Stage | None
    undecoded: int
    plays_until_s: float | None
    listening: bool
    unconsumed_frames: int
    arrived_s: float


@dataclass(frozen=True)
class State:
    """Everything that a decision depends on, except the clock.

    Attributes:
        slots: streams in slots.
        waiting_since_s: when the first waiting request arrived; None if no request waits or no slot is free.
        frame_since_prefill: whether a stream with a playing listener has sampled a frame since the last prefill.
        costs: measured step durations.
        settings: the engine's configuration.
        waiting_positions: for each waiting request for which there is a free slot, in order: the positions that its
            prefill computes.
    """

    slots: Sequence[SlotView]
    waiting_since_s: float | None
    frame_since_prefill: bool
    costs: Costs
    settings: EngineConfig
    waiting_positions: Sequence[int] = ()

    @cached_property
    def frame_cost_s(self) -> float:
        """Expected seconds for one frame of every stream, without the codec."""
        batch = max(1, len(self.slots))
        return self.costs.of("talk", batch) + self.costs.of("predict", batch)

    @cached_property
    def gains_by_gathering(self) -> bool:
        """Whether to wait for full audio chunks; the same for all streams.

        True if decoding frame by frame is slower than real time, and decoding several frames at once costs clearly less
        per frame.
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
    """One step to run.

    Attributes:
        stage: what to run; ``prefill`` takes the first waiting requests and has no slots.
        slots: the slots that take part.
        frames: frames to decode for each slot, if the stage is ``decode``.
        requests: how many waiting requests to take, if the stage is ``prefill``.
    """

    stage: Stage
    slots: tuple[int, ...] = ()
    frames: int = 0
    requests: int = 1


@dataclass(frozen=True, slots=True)
class Sleep:
    """There is nothing to do now.

    Attributes:
        until_s: clock time at which a paused stream resumes; None to wait for a new request.
    """

    until_s: float | None


def plan(state: State, now_s: float) -> Step | Sleep:
    """Decide the engine's next step.

    Args:
        state: the current state of the slots and the waiting list.
        now_s: the current clock time, in seconds.
    """
    lead_s, patience_s = state.settings.max_lead_s, state.settings.new_request_patience_s
    runnable = [view for view in state.slots if not _ahead(view, lead_s + RIDE_ALONG_S, now_s)]
    playing = any(view.plays_until_s is not None for view in runnable)
    may_prefill = state.waiting_since_s is not None and (state.frame_since_prefill or not playing)
    if may_prefill and now_s - (state.waiting_since_s or now_s) > _OVERDUE * patience_s:
        return _prefill(runnable, state, now_s)
    urgent = [view for view in runnable if _can_be_saved(view, state, now_s)]
    if urgent:
        return _serve(min(urgent, key=lambda view: slack_s(view, now_s)), runnable, state)
    unheard = [view for view in runnable if view.listening and view.plays_until_s is None]
    oldest = min(unheard, key=lambda view: view.arrived_s, default=None)
    if oldest is not None and (state.waiting_since_s is None or now_s - oldest.arrived_s > patience_s):
        return _serve(oldest, runnable, state)
    # One that is paused because its caller takes nothing is not late: it would not be served instead.
    waited_for = [view for view in runnable if view.plays_until_s is not None and not _ahead(view, lead_s, now_s)]
    late = any(slack_s(view, now_s) <= 0 for view in waited_for)
    if state.waiting_since_s is not None and (may_prefill or not late):
        return _prefill(runnable, state, now_s)
    return _advance_all(runnable, state, now_s)


def _prefill(runnable: Sequence[SlotView], state: State, now_s: float) -> Step:
    """Prefill the first waiting requests together: as many as the listeners' slack allows, and at least one.

    Prompts are padded to the longest, so one that is much longer than those before it does not join them.
    """
    waiting = state.waiting_positions
    slacks_s = [slack_s(view, now_s) for view in runnable if view.listening and view.plays_until_s is not None]
    # Listeners who already have an underrun do not count.
    spare_s = min((slack for slack in slacks_s if slack > 0), default=math.inf)
    spare_s -= max((_need_s(view, state) for view in runnable), default=0.0)
    requests = 1
    for count in range(2, len(waiting) + 1):
        longest = max(waiting[:count])
        if count * longest > min(_MAX_PADDING * sum(waiting[:count]), _MAX_POSITIONS):
            break
        if _SAFETY * state.costs.of_prefills(count, longest) > spare_s:
            break
        requests = count
    return Step("prefill", requests=requests)


def _advance_all(runnable: Sequence[SlotView], state: State, now_s: float) -> Step | Sleep:
    """Decode frames that are due; otherwise run the next stage of all streams, unless all of them are too far ahead."""
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
    """Seconds of delivered audio that the listener still has to play; infinite if there is no listener."""
    if not view.listening:
        return math.inf
    return 0.0 if view.plays_until_s is None else view.plays_until_s - now_s


def _serve(first: SlotView, runnable: Sequence[SlotView], state: State) -> Step:
    """Plan the next stage of one stream, with every stream that can share it."""
    if first.undecoded and not _gathers(first, state):
        return _decode(first, runnable, state.settings)
    assert first.stage is not None, "a stream in a slot has frames to decode or to sample"
    most = state.settings.audio_chunk_max_frames
    rows = [view for view in runnable if view.stage == first.stage and view.undecoded < most]
    return Step(first.stage, tuple(view.slot for view in rows))


def _decode(first: SlotView, runnable: Sequence[SlotView], settings: EngineConfig) -> Step:
    """Decode an audio chunk of one stream, together with every stream that has the same number of frames ready."""
    most = settings.audio_chunk_max_frames
    frames = min(first.undecoded, most)
    return Step("decode", tuple(view.slot for view in runnable if min(view.undecoded, most) == frames), frames)


def _need_s(view: SlotView, state: State) -> float:
    """Expected seconds until the stream's next audio chunk, if it is served immediately."""
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
    """Whether the listener avoids an underrun only if this stream is served before anything else.

    The alternative is one other step, which cannot be interrupted: a prefill if a request waits, else sampling a frame.
    """
    if not view.listening or view.plays_until_s is None:
        return False
    need_s = _need_s(view, state)
    if state.waiting_since_s is None:
        other_s = state.costs.of("predict", max(1, len(state.slots)))
    else:
        other_s = state.costs.of("prefill", state.waiting_positions[0] if state.waiting_positions else 0)
    return need_s <= slack_s(view, now_s) < _SAFETY * (need_s + other_s)


def _due(view: SlotView, state: State, now_s: float) -> bool:
    """Whether to decode a stream's frames now, without waiting for more.

    The first audio chunk is one frame. Later audio chunks grow as long as the slack covers the wait for more frames,
    or if decoding single frames would fall behind anyway.
    """
    if view.undecoded == 0 or _gathers(view, state):
        return False
    if view.stage is None or view.undecoded >= state.settings.audio_chunk_max_frames:
        return True
    if view.listening and view.plays_until_s is None:
        return True
    return slack_s(view, now_s) < _SAFETY * (_need_s(view, state) + state.frame_cost_s)


def _gathers(view: SlotView, state: State) -> bool:
    """Whether the stream's next audio chunk waits until it is full, regardless of the listener's slack."""
    if view.stage is None or view.undecoded >= state.settings.audio_chunk_max_frames:
        return False
    if view.listening and view.plays_until_s is None:
        return False
    return state.gains_by_gathering


def _ahead(view: SlotView, lead_s: float, now_s: float) -> bool:
    """Whether a stream is too far ahead to sample more frames; frames already sampled are still decoded."""
    if view.undecoded:
        return False
    if view.unconsumed_frames * FRAME_S > lead_s:
        return True
    return view.listening and slack_s(view, now_s) > lead_s


def _wake_s(state: State, now_s: float) -> float | None:
    """When the first paused stream is no longer ``max_lead_s`` ahead; None if all of them wait for their callers."""
    ends = [
        view.plays_until_s - state.settings.max_lead_s
        for view in state.slots
        if view.listening
        and view.plays_until_s is not None
        and view.unconsumed_frames * FRAME_S <= state.settings.max_lead_s
    ]
    return max(now_s, min(ends)) if ends else None
