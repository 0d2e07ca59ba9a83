"""How many generator replicas there should be: a pure function of the load, the knobs and a small memory.

The largest of these needs counts, and the answer says which it was:

1. the streams of the last minute, with a headroom that grows with their square root, as their number varies;
2. the streams of the last seconds, and the work that waits;
3. the texts that are being asked for, carried forward to the moment at which a replica ordered now would serve;
4. listeners who are about to run dry: the replicas that there are do not carry what their slots promise.

More is ordered at once. Less is a matter of patience: the most that was needed during a whole delay stays. What has to
be remembered between two calls is a value, handed in and given back. No Ray, no clock, no torch.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

from serve_app.config import ScalingConfig

_SLACK_REPLICAS = 0.1
"""A need so little above a whole number of replicas is met by that number: the headroom covers it."""

_FELT_WAIT_S = 0.5
"""While those who wait would need so long to get a slot, no replica is taken away."""

_MOST_GROWTH = 2.0
"""Rising arrivals are carried forward to so many times what they are at most."""

_CERTAINTY = 2.0
"""Arrivals rise when they exceed their average by so many standard deviations of chance."""

_MOST_STRAIN = 4.0
"""Listeners who run dry raise the need to so many times what their number asks for at most."""

_STRAIN_MEMORY_S = 3600.0
"""How long it is remembered that replicas carry less than their slots promise; otherwise they would be ended as soon
as the listeners are well again, and missed at once."""


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked of the replicas now.

    Attributes:
        ready: replicas that serve.
        starting: replicas that were ordered and do not serve yet.
        slots: streams that one replica runs at a time.
        running: streams in slots.
        waiting: text chunks that wait for a slot, wherever they do.
        waiting_s: seconds of a slot that those will take; 0 where nobody knows.
        stream_s: seconds that a stream holds its slot, as seen lately; 0 where nobody knows.
        arrivals_hz: text chunks asked for each second, refused ones too.
        late: share of the listeners who have nearly nothing left to play, 0 to 1.
    """

    ready: int
    starting: int
    slots: int
    running: float = 0.0
    waiting: float = 0.0
    waiting_s: float = 0.0
    stream_s: float = 0.0
    arrivals_hz: float = 0.0
    late: float = 0.0


@dataclass(frozen=True, slots=True)
class Bounds:
    """Fewest and most replicas."""

    min_replicas: int
    max_replicas: int

    def hold(self, replicas: int) -> int:
        """The nearest number within them."""
        return min(max(replicas, self.min_replicas), self.max_replicas)


@dataclass(frozen=True, slots=True)
class Memory:
    """What one decision leaves for the next; the first starts from this.

    Attributes:
        at_s: when it was written; None before the first decision.
        streams: those who want a slot, averaged over ``look_back_s``.
        streams_lately: the same, over ``react_s``.
        arrivals_hz: averaged over ``look_back_s``.
        arrivals_lately_hz: the same, over ``react_s``.
        late: share of late listeners, averaged over ``react_s``.
        strain: how many times the slots are needed that the number of streams asks for; 1 where all is well.
        strained_s: when it was last raised.
        less_since_s: since when fewer replicas than there are would do; None while they would not.
        less: the most that was needed since then.
    """

    at_s: float | None = None
    streams: float = 0.0
    streams_lately: float = 0.0
    arrivals_hz: float = 0.0
    arrivals_lately_hz: float = 0.0
    late: float = 0.0
    strain: float = 1.0
    strained_s: float | None = None
    less_since_s: float | None = None
    less: int = 0


Cause = Literal["average", "lately", "arrivals", "late_listeners", "first"]
"""What asked for so many replicas: the streams of the last minute, of the last seconds, those to come; listeners who
run dry; nobody has spoken yet."""


@dataclass(frozen=True, slots=True)
class Decision:
    """How many replicas there should be.

    Attributes:
        replicas: ready ones and starting ones together.
        cause: the same as ``reason``, for a metric.
        reason: in words, for the log.
        memory: for the next call.
    """

    replicas: int
    cause: Cause
    reason: str
    memory: Memory


@dataclass(frozen=True, slots=True)
class _Need:
    replicas: float
    cause: Cause
    reason: str


def desired_replicas(load: Load, bounds: Bounds, config: ScalingConfig, memory: Memory, now_s: float) -> Decision:
    """Decide on the number of replicas.

    Args:
        load: what there is to do.
        bounds: the answer lies within them.
        config: the knobs.
        memory: of the decision before; ``Memory()`` for the first.
        now_s: the clock's time, in seconds; calls may come at any distance from each other.
    """
    passed_s = 0.0 if memory.at_s is None else now_s - memory.at_s
    learnt = _with_strain(_with_averages(memory, load, config, now_s), load, config, now_s, passed_s)
    need = _need_of_streams(load, config, learnt)
    wanted = math.ceil(need.replicas * learnt.strain - _SLACK_REPLICAS)
    cause, reason = need.cause, need.reason
    if learnt.strain >= 1.01:
        cause, reason = "late_listeners", f"{need.reason}, times {learnt.strain:.2f} for late listeners"
    if load.running or load.waiting:
        wanted = max(1, wanted)
    if memory.at_s is None and load.ready + load.starting == 0:
        wanted, cause = max(1, wanted), "first"
        reason = "nobody has spoken yet: one replica shows that it can"
    within = bounds.hold(wanted)
    if within != wanted:
        reason = f"{reason}: {wanted}, and {bounds.min_replicas} to {bounds.max_replicas} are allowed"
    settled = _settle(Decision(within, cause, reason, learnt), load, config, now_s)
    return replace(settled, replicas=bounds.hold(settled.replicas))


def _with_averages(memory: Memory, load: Load, config: ScalingConfig, now_s: float) -> Memory:
    """Take the load into the averages; the first load is all there is."""
    streams = _streams_now(load, config)
    if memory.at_s is None:
        return Memory(now_s, streams, streams, load.arrivals_hz, load.arrivals_hz, load.late)
    # A longer silence counts as this much: after it both averages would be the present load, and no trend be seen.
    passed_s = min(now_s - memory.at_s, config.react_s)
    lately, long = -math.expm1(-passed_s / config.react_s), -math.expm1(-passed_s / config.look_back_s)
    return replace(
        memory,
        at_s=now_s,
        streams=memory.streams + long * (streams - memory.streams),
        streams_lately=memory.streams_lately + lately * (streams - memory.streams_lately),
        arrivals_hz=memory.arrivals_hz + long * (load.arrivals_hz - memory.arrivals_hz),
        arrivals_lately_hz=memory.arrivals_lately_hz + lately * (load.arrivals_hz - memory.arrivals_lately_hz),
        late=memory.late + lately * (load.late - memory.late),
    )


def _streams_now(load: Load, config: ScalingConfig) -> float:
    """Slots wanted now: those in use, and enough to be through with who waits in ``drain_s``."""
    return load.running + _backlog_s(load) / config.drain_s


def _backlog_s(load: Load) -> float:
    """Seconds of a slot that those who wait will take; a second for each is the least that is thought."""
    return max(load.waiting_s, load.waiting * max(1.0, load.stream_s))


def _need_of_streams(load: Load, config: ScalingConfig, memory: Memory) -> _Need:
    """What would do if every slot carried a stream."""
    mean = _in_full_replicas(memory.streams, load, config)
    lately = _in_full_replicas(memory.streams_lately, load, config)
    now_hz, coming_hz = memory.arrivals_lately_hz, _arrivals_to_come_hz(config, memory)
    coming = _in_full_replicas(load.stream_s * now_hz, load, config) * (coming_hz / now_hz if now_hz else 1.0)
    spare = config.headroom * math.sqrt(mean)
    needs = (
        _Need((mean + spare) / load.slots, "average", f"{mean:.1f} streams on average and {spare:.1f} to spare"),
        _Need(lately / load.slots, "lately", f"{lately:.1f} streams lately, {load.waiting:.0f} waiting"),
        _Need(coming / load.slots, "arrivals", f"{coming:.1f} streams soon, at {coming_hz:.1f} texts a second"),
    )
    return max(needs, key=lambda need: need.replicas)


def _in_full_replicas(streams: float, load: Load, config: ScalingConfig) -> float:
    """How many streams there would be at a time if those who carry them were full: each would then take longer."""
    slots = load.ready * load.slots
    fill = min(1.0, streams / slots) if slots else 1.0
    return streams * (1.0 + config.crowding) / (1.0 + config.crowding * fill)


def _arrivals_to_come_hz(config: ScalingConfig, memory: Memory) -> float:
    """Arrivals at the time when a replica ordered now would serve, if they go on rising as they do.

    What independent arrivals vary by alone is no rise: a mean over ``react_s`` has a variance of rate / (2 react_s).
    """
    lately_hz = memory.arrivals_lately_hz
    chance_hz = _CERTAINTY * math.sqrt(lately_hz / (2 * config.react_s))
    rise_hz = max(0.0, lately_hz - memory.arrivals_hz - chance_hz)
    ahead = (config.react_s + config.cold_start_s) / (config.look_back_s - config.react_s)
    return min(lately_hz + rise_hz * ahead, _MOST_GROWTH * lately_hz)


def _with_strain(learnt: Memory, load: Load, config: ScalingConfig, now_s: float, passed_s: float) -> Memory:
    """How much more than the number of streams says is needed, for listeners who are about to run dry.

    Half as many more replicas as listeners are late; again when the last ones serve and had time to show.
    """
    strain = 1.0 + (learnt.strain - 1.0) * math.exp(-passed_s / _STRAIN_MEMORY_S)
    ordered_s = learnt.strained_s
    seen = load.starting == 0 and (ordered_s is None or now_s - ordered_s > config.cold_start_s + 2 * config.react_s)
    if learnt.late <= config.late_share or not seen:
        return replace(learnt, strain=strain)
    need = _need_of_streams(load, config, learnt).replicas
    wanted = load.ready * (1.0 + learnt.late / 2)
    strain = max(strain, min(wanted / need, _MOST_STRAIN)) if need > 0 else strain
    return replace(learnt, strain=strain, strained_s=now_s)


def _settle(wanted: Decision, load: Load, config: ScalingConfig, now_s: float) -> Decision:
    """More is taken at once; less when it would have done for the whole delay, and never below what it took then.

    The last replica stays for a delay of its own, and until it serves: what was ordered is seen to work.
    """
    present, memory = load.ready + load.starting, wanted.memory
    if wanted.replicas < present and _backlog_s(load) > _FELT_WAIT_S * load.ready * load.slots:
        wanted = replace(wanted, replicas=present, reason=f"{load.waiting:.0f} wait: {wanted.reason}")
    if wanted.replicas >= present:
        return replace(wanted, memory=replace(memory, less_since_s=None, less=0))
    since_s = now_s if memory.less_since_s is None else memory.less_since_s
    most = min(max(wanted.replicas, memory.less), present)
    delay_s = config.downscale_to_zero_delay_s if present == 1 else config.downscale_delay_s
    if now_s - since_s < delay_s:
        reason = f"{most} would do for {now_s - since_s:.0f} s of {delay_s:g} s: {wanted.reason}"
        return Decision(present, wanted.cause, reason, replace(memory, less_since_s=since_s, less=most))
    last = present > 1 or load.ready == 0
    kept = replace(memory, less_since_s=now_s, less=wanted.replicas)
    return replace(wanted, replicas=max(most, int(last)), memory=kept)
