"""What generators and ingresses said of themselves lately: whether anybody can be spoken for, and for how many.

Replicas report into it every second; one that has been silent for some seconds counts as gone. It knows neither
Ray nor a clock.
"""

from dataclasses import dataclass
from typing import Literal, TypeVar

from serve_app.cluster.admission import Backlog

S = TypeVar("S")

REPORT_PERIOD_S = 1.0
"""A replica reports this often."""

GONE_AFTER_S = 5.0
"""Silence after which a replica no longer counts; a busy machine misses one or two reports."""


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether anybody can be spoken for, and by what.

    Attributes:
        ready: a generator has spoken its warm-up sentence.
        model: what was loaded, in words.
        random_weights: the checkpoint's weights are random: what is heard is noise, not speech.
        detail: why it is not ready; empty when it is.
    """

    ready: bool
    model: str
    random_weights: bool
    detail: str


@dataclass(frozen=True, slots=True)
class GeneratorStatus:
    """One replica, in its own words.

    Attributes:
        replica: its id.
        state: ``loading`` until it has spoken its warm-up sentence; ``failed`` says why in ``detail``.
        detail: what it is doing or waits for, or why it failed; empty when ready.
        model: what was loaded, in words.
        fingerprint: identity of the model, as far as voice prompts depend on it; empty until it is loaded.
        random_weights: the checkpoint's weights are random.
        slots: streams that it can run at a time.
        running: streams in slots.
        waiting: streams that wait for a slot.
    """

    replica: str
    state: Literal["loading", "ready", "failed"]
    detail: str = ""
    model: str = ""
    fingerprint: str = ""
    random_weights: bool = False
    slots: int = 0
    running: int = 0
    waiting: int = 0


@dataclass(frozen=True, slots=True)
class IngressStatus:
    """One ingress replica, in its own words.

    Attributes:
        replica: its id.
        backlog: streams that it has running, and text chunks that wait at it.
    """

    replica: str
    backlog: Backlog


@dataclass(frozen=True, slots=True)
class Demand:
    """What all ingresses together have for the generators.

    Attributes:
        waiting: text chunks that wait at them.
        waiting_s: seconds of a slot that those will take.
        arrivals_hz: text chunks asked for each second, refused ones too.
    """

    waiting: int = 0
    waiting_s: float = 0.0
    arrivals_hz: float = 0.0


@dataclass(frozen=True, slots=True)
class HeartbeatReply:
    """What a generator is told each time that it reports.

    Attributes:
        demand: what waits for all of them.
        voices: changes whenever a voice's id stands for another clip, or for none: what is kept by id is stale then.
        encode: a voice that waits to be encoded, and that no replica has in work; None where there is none.
    """

    demand: Demand = Demand()
    voices: str = ""
    encode: str | None = None


@dataclass(frozen=True, slots=True)
class Room:
    """What one ingress learns of the generators.

    Attributes:
        streams: that it may have running at a time; 0 while nobody is ready.
        generators: ids of those that were heard of lately.
    """

    streams: int
    generators: frozenset[str]


class Fleet:
    """The latest status of every replica that still reports."""

    def __init__(self) -> None:
        self._generators: dict[str, tuple[GeneratorStatus, float]] = {}
        self._ingresses: dict[str, tuple[IngressStatus, float]] = {}
        self._arrivals_hz: dict[str, float] = {}

    def report(self, status: GeneratorStatus | IngressStatus, now_s: float) -> None:
        """Take one replica's word for it."""
        if isinstance(status, GeneratorStatus):
            self._generators[status.replica] = (status, now_s)
        else:
            self._arrivals_hz[status.replica] = self._rate_hz(status, now_s)
            self._ingresses[status.replica] = (status, now_s)

    def generators(self, now_s: float) -> list[GeneratorStatus]:
        """Generators heard of lately, the oldest first."""
        return _lately(self._generators, now_s)

    def ingresses(self, now_s: float) -> list[IngressStatus]:
        """Ingresses with sessions that were heard of lately, the oldest first."""
        return _lately(self._ingresses, now_s)

    def room(self, ingress: str, now_s: float) -> Room:
        """What one ingress may have running: what the others leave, and never less than its equal share."""
        generators = self.generators(now_s)
        slots = sum(status.slots for status in generators if status.state == "ready")
        ingresses = self.ingresses(now_s)
        elsewhere = sum(status.backlog.running for status in ingresses if status.replica != ingress)
        streams = max(slots - elsewhere, -(-slots // max(1, len(ingresses))))
        return Room(streams, frozenset(status.replica for status in generators))

    def demand(self, now_s: float) -> Demand:
        """What waits at the ingresses and what they were asked for lately: generators pass it on to the autoscaling."""
        ingresses = self.ingresses(now_s)
        return Demand(
            waiting=sum(status.backlog.waiting for status in ingresses),
            waiting_s=sum(status.backlog.waiting_s for status in ingresses),
            arrivals_hz=sum(self._arrivals_hz[status.replica] for status in ingresses),
        )

    def _rate_hz(self, status: IngressStatus, now_s: float) -> float:
        """Texts a second since an ingress's last report; 0 after a silence, of which nothing is known."""
        before, said_s = self._ingresses.get(status.replica, (status, now_s))
        passed_s = now_s - said_s
        if not 0 < passed_s <= GONE_AFTER_S:
            return 0.0
        return max(0, status.backlog.asked - before.backlog.asked) / passed_s

    def readiness(self, now_s: float) -> Readiness:
        """Ready as soon as one replica is; otherwise what the latest one says."""
        statuses = self.generators(now_s)
        for status in statuses:
            if status.state == "ready":
                return Readiness(ready=True, model=status.model, random_weights=status.random_weights, detail="")
        if not statuses:
            return Readiness(ready=False, model="", random_weights=False, detail="no generator has started yet")
        last = statuses[-1]
        return Readiness(ready=False, model=last.model, random_weights=last.random_weights, detail=last.detail)


def _lately(reports: dict[str, tuple[S, float]], now_s: float) -> list[S]:
    """What was said in the last seconds; the rest is forgotten."""
    for replica in [replica for replica, (_, said_s) in reports.items() if now_s - said_s > GONE_AFTER_S]:
        del reports[replica]
    return [status for status, _ in reports.values()]
