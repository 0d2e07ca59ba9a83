"""Decides how many generator replicas there should be: a pure function of load, configuration and previous state.

It computes several needs and takes the largest. The decision says which one it was:

1. the streams of the last minute, with a headroom that grows with their square root, because their number varies;
2. the streams of the last seconds, and the work that waits;
3. the rate of new texts, extrapolated to the time at which a replica ordered now would serve;
4. listeners close to an underrun, which show that the replicas cannot sustain as many streams as they have slots.

Scaling up is immediate. Scaling down waits for a delay, and keeps the largest need during that delay. The state between
two calls is a value that is passed in and returned. This module does not import Ray or torch, and has no clock.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

from serve_app.config import ScalingConfig

_SLACK_REPLICAS = 0.1
"""A need that exceeds a whole number of replicas by no more than this is rounded down: the headroom covers it."""

_FELT_WAIT_S = 0.5
"""No replica is removed while waiting text chunks would need this long to get a slot."""

_MAX_GROWTH = 2.0
"""Rising arrivals are extrapolated to at most this multiple of the present rate."""

_CERTAINTY = 2.0
"""Arrivals count as rising if they exceed their average by this many standard deviations."""

_MAX_STRAIN = 4.0
"""Listeners close to an underrun raise the need to at most this multiple."""

_STRAIN_MEMORY_S = 3600.0
"""Time constant with which the strain decays. Without this memory, the extra replicas would be removed as soon as the
listeners recover, and would be needed again at once."""


@dataclass(frozen=True, slots=True)
class Load:
    """The present load of the replicas.

    Attributes:
        ready: replicas that serve.
        starting: replicas that were ordered and do not serve yet.
        slots: streams that one replica runs at a time.
        running: streams in slots.
        waiting: text chunks that wait for a slot, in all queues.
        waiting_s: slot seconds that they will take; 0 if unknown.
        stream_s: seconds that recent streams held their slots; 0 if unknown.
        arrivals_hz: requested text chunks per second, including refused ones.
        late: share of listeners with almost no audio left to play, 0 to 1.
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
    """Minimum and maximum number of replicas."""

    min_replicas: int
    max_replicas: int

    def hold(self, replicas: int) -> int:
        """Return the nearest number within the bounds."""
        return min(max(replicas, self.min_replicas), self.max_replicas)


@dataclass(frozen=True, slots=True)
class Memory:
    """The state that one decision passes to the next; the defaults are the initial state.

    Attributes:
        at_s: time of the last decision; None before the first.
        streams: streams that want a slot, averaged over ``look_back_s``.
        streams_lately: the same, averaged over ``react_s``.
        arrivals_hz: arrivals, averaged over ``look_back_s``.
        arrivals_lately_hz: the same, averaged over ``react_s``.
        late: share of late listeners, averaged over ``react_s``.
        strain: factor by which late listeners increase the need; 1 without late listeners.
        strained_s: when ``strain`` was last raised.
        less_since_s: time since which fewer replicas would have sufficed; None if all are needed.
        less: the largest need since then.
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
"""What determined the number of replicas: the streams of the last minute, those of the last seconds, the expected
streams, late listeners, or the very first start."""


@dataclass(frozen=True, slots=True)
class Decision:
    """How many replicas there should be.

    Attributes:
        replicas: number of replicas, including those that are starting.
        cause: the cause, for a metric.
        reason: the cause in words, for the log.
        memory: the state for the next call.
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
        load: the present load.
        bounds: the limits of the result.
        config: the settings of the policy.
        memory: the state from the previous decision; ``Memory()`` for the first.
        now_s: the time in seconds; the interval between calls may vary.
    """
    passed_s = 0.0 if memory.at_s is None else max(0.0, now_s - memory.at_s)  # the machine's clock may be set back
    averaged = _with_strain(_with_averages(memory, load, config, now_s), load, config, now_s, passed_s)
    need = _need_of_streams(load, config, averaged)
    wanted = math.ceil(need.replicas * averaged.strain - _SLACK_REPLICAS)
    cause, reason = need.cause, need.reason
    if averaged.strain >= 1.01:
        cause, reason = "late_listeners", f"{need.reason}, times {averaged.strain:.2f} for late listeners"
    if load.running or load.waiting:
        wanted = max(1, wanted)
    if memory.at_s is None and load.ready + load.starting == 0:
        wanted, cause = max(1, wanted), "first"
        reason = "first start: one replica to show that speech works"
    within = bounds.hold(wanted)
    if within != wanted:
        reason = f"{reason}: {wanted}, and {bounds.min_replicas} to {bounds.max_replicas} are allowed"
    settled = _settle(Decision(within, cause, reason, averaged), load, config, now_s)
    return replace(settled, replicas=bounds.hold(settled.replicas))


def _with_averages(memory: Memory, load: Load, config: ScalingConfig, now_s: float) -> Memory:
    """Update the averages with the load; the first load initializes them."""
    streams = _streams_now(load, config)
    if memory.at_s is None:
        return Memory(now_s, streams, streams, load.arrivals_hz, load.arrivals_hz, load.late)
    # The interval is capped: after a long one both averages would equal the present load and show no trend.
    passed_s = min(max(0.0, now_s - memory.at_s), config.react_s)
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
    """Return the slots wanted now: those in use, and enough to work off the queue in ``drain_s``."""
    return load.running + _backlog_s(load) / config.drain_s


def _backlog_s(load: Load) -> float:
    """Return the slot seconds that the waiting text chunks will take, at least one second for each."""
    return max(load.waiting_s, load.waiting * max(1.0, load.stream_s))


def _need_of_streams(load: Load, config: ScalingConfig, memory: Memory) -> _Need:
    """Return the largest of the first three needs, assuming that every slot can sustain a stream."""
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
    """Return how many concurrent streams the load would mean on full replicas, where each stream takes longer."""
    slots = load.ready * load.slots
    fill = min(1.0, streams / slots) if slots else 1.0
    return streams * (1.0 + config.crowding) / (1.0 + config.crowding * fill)


def _arrivals_to_come_hz(config: ScalingConfig, memory: Memory) -> float:
    """Extrapolate the arrivals to the time when a replica ordered now would serve.

    Random variation does not count as a rise: the mean over ``react_s`` of independent arrivals has a variance of
    rate / (2 react_s).
    """
    lately_hz = memory.arrivals_lately_hz
    chance_hz = _CERTAINTY * math.sqrt(lately_hz / (2 * config.react_s))
    rise_hz = max(0.0, lately_hz - memory.arrivals_hz - chance_hz)
    ahead = (config.react_s + config.cold_start_s) / (config.look_back_s - config.react_s)
    return min(lately_hz + rise_hz * ahead, _MAX_GROWTH * lately_hz)


def _with_strain(averaged: Memory, load: Load, config: ScalingConfig, now_s: float, passed_s: float) -> Memory:
    """Raise the strain, the factor on the need, if too many listeners are close to an underrun.

    If a share of the listeners is late, half that share is added to the replicas. The strain is raised again only when
    the new replicas serve and have had time to take effect.
    """
    strain = 1.0 + (averaged.strain - 1.0) * math.exp(-passed_s / _STRAIN_MEMORY_S)
    ordered_s = averaged.strained_s
    seen = load.starting == 0 and (ordered_s is None or now_s - ordered_s > config.cold_start_s + 2 * config.react_s)
    if averaged.late <= config.late_share or not seen:
        return replace(averaged, strain=strain)
    need = _need_of_streams(load, config, averaged).replicas
    wanted = load.ready * (1.0 + averaged.late / 2)
    strain = max(strain, min(wanted / need, _MAX_STRAIN)) if need > 0 else strain
    return replace(averaged, strain=strain, strained_s=now_s)


def _settle(wanted: Decision, load: Load, config: ScalingConfig, now_s: float) -> Decision:
    """Scale up at once, and down only if fewer replicas have sufficed for the whole delay.

    Scaling down keeps the largest number that was needed in that time. The last replica has its own delay, and it
    also stays until it is ready.
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
        reason = f"{most} have sufficed for {now_s - since_s:.0f} s of {delay_s:g} s: {wanted.reason}"
        return Decision(present, wanted.cause, reason, replace(memory, less_since_s=since_s, less=most))
    last = present > 1 or load.ready == 0
    kept = replace(memory, less_since_s=now_s, less=wanted.replicas)
    return replace(wanted, replicas=max(most, int(last)), memory=kept)
