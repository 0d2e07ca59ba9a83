"""Simulates a fleet of generators, scaled by the same function that scales the service.

Streams share a replica's frames, replicas share a GPU, new requests wait in one bounded queue, and listeners play the
audio that they received. Time advances in ticks; a request that finds a free slot starts when it arrives, not at the
next tick.
"""

from collections import deque
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from serve_app.cluster.autoscaling import Bounds, Load, Memory, desired_replicas
from serve_app.config import ScalingConfig

FRAME_S = 0.08
TICK_S = 0.2
DECIDE_S = 1.0
"""How often the policy is called, and the age of its input: reports arrive once a second."""

WARM_UP_S = 30.0
"""The run starts with full load but an empty fleet; the policy is called once there is something to observe."""

STREAM_WEIGHT = 0.05
"""Weight of the latest stream in a replica's mean slot time; the same as in the engine."""

SETTLED_S, NEAR_UNDERRUN_S = 2.0, 0.25
"""A listener is late if they have played for at least this long and have less slack than this, as in the engine."""

ABSENT, STARTING, READY, LEAVING = range(4)


@dataclass(frozen=True)
class Machine:
    """Cost and capacity of a replica. Assumed, not measured on any GPU.

    Attributes:
        slots: streams per replica.
        per_gpu: replicas on one GPU.
        start_s: time from the order of a replica to its first stream.
        gpu_start_s: additional time if its GPU has to be started first.
        prefill_s: time of a prefill; the replica's other streams wait meanwhile.
        frame_s: time of a frame without its rows, if the replica has the GPU to itself.
        row_s: additional time of a frame per stream.
        crowding: share by which each active neighbour on the GPU increases ``frame_s``.
        max_lead_s: lead over its listener at which a stream pauses.
    """

    slots: int = 10
    per_gpu: int = 4
    start_s: float = 30.0
    gpu_start_s: float = 0.0
    prefill_s: float = 0.02
    frame_s: float = 0.02
    row_s: float = 0.0025
    crowding: float = 0.25
    max_lead_s: float = 8.0

    def frame_of(self, rows: float | NDArray, busy: float | NDArray) -> float | NDArray:
        """Seconds per frame of ``rows`` streams, while ``busy`` replicas work on the GPU."""
        return self.frame_s * (1 + self.crowding * (busy - 1)) + self.row_s * rows

    def hold_s(self, audio_s: NDArray) -> NDArray:
        """Slot time of streams with this much audio when all replicas are full."""
        made_s = audio_s * self.frame_of(self.slots, self.per_gpu) / FRAME_S
        return self.prefill_s + np.maximum(made_s, audio_s - self.max_lead_s)


@dataclass(frozen=True)
class Door:
    """The queue in front of the generators.

    Attributes:
        max_waiting: most texts that may wait.
        deadline_s: a text that would wait longer is refused at once, and one that did wait longer is refused then.
    """

    max_waiting: int = 200
    deadline_s: float = 15.0


@dataclass
class Outcome:
    """Result of a run.

    Attributes:
        waits_s: time from each request to its first audio; NaN if refused.
        replica_s, gpu_s: seconds paid for, from order to end.
        underruns: streams whose listener had at least one underrun.
        changes: how often the number of replicas changed.
        seconds, streams, ready, ordered, waiting: time series, for the plot.
    """

    waits_s: NDArray
    replica_s: float = 0.0
    gpu_s: float = 0.0
    underruns: int = 0
    changes: int = 0
    log: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    streams: list[int] = field(default_factory=list)
    ready: list[int] = field(default_factory=list)
    ordered: list[int] = field(default_factory=list)
    waiting: list[int] = field(default_factory=list)


class Streams:
    """Streams in slots, as columns."""

    def __init__(self, most: int) -> None:
        self.count = 0
        self.replica = np.zeros(most, np.int64)
        self.length_s = np.zeros(most)
        self.made_s = np.zeros(most)
        self.heard_from_s = np.zeros(most)
        self.began_s = np.zeros(most)
        self.dry = np.zeros(most, bool)

    def add(self, replica: NDArray, length_s: NDArray, began_s: NDArray, heard_from_s: NDArray) -> None:
        """Start streams."""
        new = slice(self.count, self.count + len(replica))
        self.replica[new], self.length_s[new], self.began_s[new] = replica, length_s, began_s
        self.made_s[new], self.heard_from_s[new], self.dry[new] = FRAME_S, heard_from_s, False
        self.count = new.stop

    def keep(self, kept: NDArray) -> None:
        """Drop all streams but these."""
        old, self.count = self.count, int(kept.sum())
        for column in (self.replica, self.length_s, self.made_s, self.heard_from_s, self.began_s, self.dry):
            column[: self.count] = column[:old][kept]


class Fleet:
    """Replicas and their streams, scaled by the policy."""

    def __init__(self, machine: Machine, door: Door, config: ScalingConfig, bounds: Bounds, *, start: int) -> None:
        self.machine, self.door, self.config, self.bounds = machine, door, config, bounds
        most = 2 * bounds.max_replicas + 8
        self.state = np.zeros(most, np.int64)
        self.ready_s = np.zeros(most)
        self.gpu = np.zeros(most, np.int64)
        self.load = np.zeros(most, np.int64)
        self.starting_streams = np.zeros(most)
        self.streams = Streams(most * machine.slots)
        self.queue: deque[int] = deque()
        self.stream_s = 0.0
        self.memory = Memory()
        self.asked = deque([0] * 4, maxlen=4)
        self.state[:start] = READY
        self.gpu[:start] = np.arange(start) // machine.per_gpu
        self.seen = self._observe(0.0)

    def run(self, arrive_s: NDArray, length_s: NDArray, until_s: float, picture_s: float = 10.0) -> Outcome:
        """Serve all requests, in the order of ``arrive_s``."""
        self.arrive_s, self.length_s = arrive_s, length_s
        self.out = Outcome(np.full(len(arrive_s), np.nan, np.float32))
        ticks = round(until_s / TICK_S)
        come = np.searchsorted(arrive_s, TICK_S * np.arange(1, ticks + 1))
        per_decision, per_point = round(DECIDE_S / TICK_S), round(picture_s / TICK_S)
        before = 0
        for tick, now_asked in enumerate(come.tolist(), 1):
            now_s = tick * TICK_S
            self._advance(now_s)
            self._admit(before, now_asked, now_s)
            before = now_asked
            if tick % per_decision == 0:
                self.asked.append(now_asked)
                self._decide(now_s)
            if tick % per_point == 0:
                self._note(now_s)
        return self.out

    def _advance(self, now_s: float) -> None:
        """Compute all frames of one tick; finished streams leave."""
        machine, streams = self.machine, self.streams
        n = streams.count
        if n == 0:
            return
        replica, made_s, heard_from_s = streams.replica[:n], streams.made_s[:n], streams.heard_from_s[:n]
        lead_s = made_s - np.maximum(0.0, now_s - TICK_S - heard_from_s)
        going = lead_s < machine.max_lead_s
        rows = np.bincount(replica[going], minlength=len(self.load))
        busy = np.bincount(self.gpu[rows > 0], minlength=len(self.load))[self.gpu]
        frame_s = machine.frame_of(rows, np.maximum(1, busy))
        speed = FRAME_S / frame_s
        # Between two prefills, the engine draws a frame for playing listeners.
        free = np.maximum(
            1.0 - self.starting_streams * machine.prefill_s / TICK_S, frame_s / (frame_s + machine.prefill_s)
        )
        heard_s = np.clip(now_s - heard_from_s, 0.0, TICK_S)  # a stream that just started is past the prefills
        made_s += speed[replica] * np.where(heard_s < TICK_S, heard_s, TICK_S * free[replica]) * going
        behind_s = now_s - heard_from_s - np.minimum(made_s, streams.length_s[:n])
        if behind_s.max() > 0:
            dry = (behind_s > 0) & (made_s < streams.length_s[:n])
            heard_from_s[dry] += behind_s[dry]
            self.out.underruns += int((dry & ~streams.dry[:n]).sum())
            streams.dry[:n] |= dry
        through = made_s >= streams.length_s[:n]
        if through.any():
            held_s = now_s - streams.began_s[:n][through]
            self.load -= np.bincount(replica[through], minlength=len(self.load))
            weight = 1 - (1 - STREAM_WEIGHT / max(1, int((self.state == READY).sum()))) ** len(held_s)
            self.stream_s += (float(held_s.mean()) - self.stream_s) * (weight if self.stream_s else 1.0)
            streams.keep(~through)

    def _admit(self, first: int, last: int, now_s: float) -> None:
        """Assign slots to waiting requests, then to those of this tick; queue or refuse the rest."""
        queue = self.queue
        while queue and self.arrive_s[queue[0]] < now_s - self.door.deadline_s:
            queue.popleft()
        open_ = np.flatnonzero(self.state == READY)
        self.starting_streams[:] = 0
        room = int(len(open_) * self.machine.slots - self.load[open_].sum())
        if room > 0 and (queue or last > first):
            waited = [queue.popleft() for _ in range(min(room, len(queue)))]
            came = min(room - len(waited), last - first)
            who = np.concatenate([np.array(waited, np.int64), np.arange(first, first + came)])
            began_s = np.concatenate([np.full(len(waited), now_s), self.arrive_s[first : first + came]])
            self._start(who, began_s, open_)
            first += came
        if first < last:
            through_s = max(1, len(open_)) * self.machine.slots / max(0.1, self.stream_s)
            most = min(self.door.max_waiting, int(self.door.deadline_s * through_s))
            queue.extend(range(first, min(last, first + max(0, most - len(queue)))))

    def _start(self, who: NDArray, began_s: NDArray, open_: NDArray) -> None:
        """Assign streams to the replicas with the fewest streams."""
        machine = self.machine
        levels = self.load[open_][:, None] + np.arange(1, machine.slots + 1)
        levels[levels > machine.slots] = 1 << 30
        flat = levels.ravel()
        seats = np.argpartition(flat, len(who) - 1)[: len(who)] if len(who) < len(flat) else np.arange(len(flat))
        chosen = np.sort(open_[seats // machine.slots])
        together = np.bincount(chosen, minlength=len(self.load))
        self.starting_streams = together.astype(float)
        self.load += together
        # The engine prefills requests that arrive together one by one, and then draws their first frames together.
        first_s = together[chosen] * machine.prefill_s + machine.frame_of(self.load[chosen], machine.per_gpu)
        self.out.waits_s[who] = began_s + first_s - self.arrive_s[who]
        self.streams.add(chosen, self.length_s[who], began_s, began_s + first_s)

    def _observe(self, now_s: float) -> Load:
        streams, n = self.streams, self.streams.count
        played_s = now_s - streams.heard_from_s[:n]
        lead_s = streams.made_s[:n] - played_s
        late = (played_s > SETTLED_S) & (lead_s < NEAR_UNDERRUN_S)
        waiting = len(self.queue)
        return Load(
            ready=0,
            starting=0,
            slots=self.machine.slots,
            running=int(self.load[self.state == READY].sum()),
            waiting=waiting,
            waiting_s=waiting * self.stream_s,
            stream_s=self.stream_s,
            arrivals_hz=(self.asked[-1] - self.asked[0]) / (3 * DECIDE_S),
            late=float(late.mean()) if n else 0.0,
        )

    def _decide(self, now_s: float) -> None:
        arrived = (self.state == STARTING) & (self.ready_s <= now_s)
        self.state[arrived] = READY
        self.state[(self.state == LEAVING) & (self.load == 0)] = ABSENT
        there = self.state != ABSENT
        self.out.replica_s += DECIDE_S * int(there.sum())
        self.out.gpu_s += DECIDE_S * len(np.unique(self.gpu[there]))
        ready, starting = int((self.state == READY).sum()), int((self.state == STARTING).sum())
        seen, self.seen = self.seen, self._observe(now_s)
        if now_s < WARM_UP_S:
            return
        load = replace(seen, ready=ready, starting=starting)
        decision = desired_replicas(load, self.bounds, self.config, self.memory, now_s)
        self.memory = decision.memory
        more = decision.replicas - ready - starting
        if more:
            self.out.changes += 1
            self.out.log.append(f"{now_s:.0f} s: {ready + starting} -> {decision.replicas}: {decision.reason}")
        for _ in range(more):
            self._order(now_s)
        for _ in range(-more):
            self._end()

    def _order(self, now_s: float) -> None:
        there = self.state != ABSENT
        shares = np.bincount(self.gpu[there], minlength=len(self.state))
        partly = np.flatnonzero((shares > 0) & (shares < self.machine.per_gpu))
        gpu = int(partly[0]) if len(partly) else int(np.flatnonzero(shares == 0)[0])
        one = int(np.flatnonzero(~there)[0])
        self.state[one], self.gpu[one], self.load[one] = STARTING, gpu, 0
        self.ready_s[one] = now_s + self.machine.start_s + (0.0 if len(partly) else self.machine.gpu_start_s)

    def _end(self) -> None:
        """Remove replicas as Serve does: starting ones first, then those on the emptiest GPU; streams do not count."""
        starting = np.flatnonzero(self.state == STARTING)
        if len(starting):
            self.state[starting[np.argmax(self.ready_s[starting])]] = ABSENT
            return
        ready = np.flatnonzero(self.state == READY)
        shares = np.bincount(self.gpu[self.state != ABSENT], minlength=len(self.state))
        self.state[ready[np.argmin(shares[self.gpu[ready]])]] = LEAVING

    def _note(self, now_s: float) -> None:
        out = self.out
        out.seconds.append(now_s)
        out.streams.append(self.streams.count)
        out.ready.append(int((self.state == READY).sum()))
        out.ordered.append(int(((self.state == READY) | (self.state == STARTING)).sum()))
        out.waiting.append(len(self.queue))


def clairvoyant(
    arrive_s: NDArray, length_s: NDArray, until_s: float, machine: Machine, bounds: Bounds
) -> tuple[float, NDArray]:
    """The fewest replica-seconds with which 95 of 100 requests in every minute find a free slot; knows all arrivals.

    Streams take as long as in replicas that are as full as these are. A replica is paid from ``start_s`` before it is
    needed, and kept during pauses that are shorter than ``start_s``; for each level by itself this is optimal.

    Returns:
        Replica-seconds, and the replicas needed in each minute.
    """
    ends_s = np.sort(arrive_s + machine.hold_s(length_s))
    seconds = np.arange(0.5, until_s, 1.0)
    streams = np.searchsorted(arrive_s, seconds) - np.searchsorted(ends_s, seconds)
    by_minute = streams[: len(seconds) // 60 * 60].reshape(-1, 60)
    needed = _replicas_needed(by_minute.mean(axis=1), np.quantile(by_minute, 0.95, axis=1), machine, bounds)
    total_s = 0.0
    for level in range(1, int(needed.max(initial=0)) + 1):
        on = np.flatnonzero(np.diff(np.concatenate([[False], needed >= level, [False]]).astype(int)))
        starts_s, stops_s = on[::2] * 60.0, on[1::2] * 60.0
        pauses_s = starts_s[1:] - stops_s[:-1]
        starts = int(starts_s[0] > 0) + int((pauses_s > machine.start_s).sum())
        total_s += (stops_s - starts_s).sum() + pauses_s[pauses_s <= machine.start_s].sum() + starts * machine.start_s
    return total_s, needed


def _replicas_needed(mean: NDArray, peak: NDArray, machine: Machine, bounds: Bounds) -> NDArray:
    """For each minute, the fewest replicas that can hold its peak.

    ``mean`` and ``peak`` count streams that take as long as in full replicas on a full GPU. In emptier replicas,
    streams are faster and fewer are active at a time: ``n = mean * frame(n / replicas) / frame(slots)``.
    """
    full_s = machine.frame_of(machine.slots, machine.per_gpu)
    needed = np.full(len(mean), bounds.max_replicas)
    for replicas in range(bounds.max_replicas, max(1, bounds.min_replicas) - 1, -1):
        base_s = machine.frame_of(0, min(replicas, machine.per_gpu))
        spare_s = full_s - mean * machine.row_s / replicas
        share = np.where(spare_s > 0, base_s / np.maximum(spare_s, 1e-9), np.inf)
        needed[peak * np.minimum(1.0, share) <= replicas * machine.slots] = replicas
    needed[peak == 0] = max(bounds.min_replicas, 0)
    return np.maximum(needed, bounds.min_replicas)
