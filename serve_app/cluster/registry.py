"""The registry of replicas: the latest status of every generator and ingress.

Replicas report every second. A replica that has not reported for some seconds counts as gone. The registry does not
know Ray and has no clock.
"""

from dataclasses import dataclass
from typing import Literal, TypeVar

from serve_app.cluster.admission import Backlog
from serve_app.weights import Weights

S = TypeVar("S")

REPORT_PERIOD_S = 1.0
"""Interval between two reports of a replica."""

GONE_AFTER_S = 5.0
"""A replica counts as gone if it has not reported for this long; on a loaded host, one or two reports may be late."""


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether the service can speak, and with which model.

    Attributes:
        ready: a generator has spoken its warm-up sentence.
        detail: why the service is not ready; empty if it is.
        model: description of the loaded model; empty if none has been loaded.
        weights: where the model's weights come from; None if none has been loaded.
    """

    ready: bool
    detail: str = ""
    model: str = ""
    weights: Weights | None = None


@dataclass(frozen=True, slots=True)
class GeneratorStatus:
    """A generator's report about itself.

    Attributes:
        replica: its id.
        state: ``loading`` until it has spoken its warm-up sentence; if ``failed``, ``detail`` says why.
        detail: what it is doing or waiting for, or why it failed; empty if ready.
        model: description of the loaded model.
        fingerprint: identity of the model as far as voice prompts depend on it; empty until it is loaded.
        encoders: digest of the weights that make voice prompts; empty until it is loaded.
        weights: where the model's weights come from; None until it is loaded.
        slots: streams that it can run at a time.
        running: streams in slots.
        waiting: streams that wait for a slot.
        responsive: whether a new stream is likely to start soon; False if its engine may be stuck.
    """

    replica: str
    state: Literal["loading", "ready", "failed"]
    detail: str = ""
    model: str = ""
    fingerprint: str = ""
    encoders: str = ""
    weights: Weights | None = None
    slots: int = 0
    running: int = 0
    waiting: int = 0
    responsive: bool = True


@dataclass(frozen=True, slots=True)
class IngressStatus:
    """An ingress replica's report about itself.

    Attributes:
        replica: its id.
        backlog: its running streams and waiting text chunks.
    """

    replica: str
    backlog: Backlog


@dataclass(frozen=True, slots=True)
class Demand:
    """The demand of all ingresses together.

    Attributes:
        waiting: text chunks that wait at the ingresses.
        waiting_s: slot seconds that they will take.
        arrivals_hz: requested text chunks per second, including refused ones.
    """

    waiting: int = 0
    waiting_s: float = 0.0
    arrivals_hz: float = 0.0


@dataclass(frozen=True, slots=True)
class HeartbeatReply:
    """The answer to a generator's report.

    Attributes:
        demand: the demand of all ingresses.
        voices: version of the voices; it changes when the clip of an id is replaced or removed, which makes caches by
            id stale.
        encode: a voice that the generator should encode, because no replica is encoding it; None if there is no such
            voice.
    """

    demand: Demand = Demand()
    voices: str = ""
    encode: str | None = None


@dataclass(frozen=True, slots=True)
class Quota:
    """The capacity that one ingress may use.

    Attributes:
        streams: number of streams that it may run at a time; 0 while no generator is ready.
        generators: ids of the generators that reported recently and are responsive.
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
        """Store the report of one replica."""
        if isinstance(status, GeneratorStatus):
            self._generators[status.replica] = (status, now_s)
        else:
            self._arrivals_hz[status.replica] = self._rate_hz(status, now_s)
            self._ingresses[status.replica] = (status, now_s)

    def generators(self, now_s: float) -> list[GeneratorStatus]:
        """Return the generators that reported recently, oldest first."""
        return _recent(self._generators, now_s)

    def ingresses(self, now_s: float) -> list[IngressStatus]:
        """Return the ingresses with sessions that reported recently, oldest first."""
        return _recent(self._ingresses, now_s)

    def quota(self, ingress: str, now_s: float) -> Quota:
        """Return how many streams one ingress may run: what the others leave, but at least its equal share."""
        generators = [status for status in self.generators(now_s) if status.responsive]
        slots = sum(status.slots for status in generators if status.state == "ready")
        ingresses = self.ingresses(now_s)
        elsewhere = sum(status.backlog.running for status in ingresses if status.replica != ingress)
        streams = max(slots - elsewhere, -(-slots // max(1, len(ingresses))))
        return Quota(streams, frozenset(status.replica for status in generators))

    def demand(self, now_s: float) -> Demand:
        """Return the demand of all ingresses; generators pass it on to the autoscaling policy."""
        ingresses = self.ingresses(now_s)
        return Demand(
            waiting=sum(status.backlog.waiting for status in ingresses),
            waiting_s=sum(status.backlog.waiting_s for status in ingresses),
            arrivals_hz=sum(self._arrivals_hz[status.replica] for status in ingresses),
        )

    def _rate_hz(self, status: IngressStatus, now_s: float) -> float:
        """Return the texts per second since an ingress's last report; 0 if that was too long ago to tell."""
        before, said_s = self._ingresses.get(status.replica, (status, now_s))
        passed_s = now_s - said_s
        if not 0 < passed_s <= GONE_AFTER_S:
            return 0.0
        return max(0, status.backlog.asked - before.backlog.asked) / passed_s

    def readiness(self, now_s: float) -> Readiness:
        """Return whether any generator is ready; if none is, with the detail of the newest generator."""
        statuses = self.generators(now_s)
        for status in statuses:
            if status.state == "ready":
                return Readiness(ready=True, model=status.model, weights=status.weights)
        if not statuses:
            return Readiness(ready=False, detail="no generator has started yet")
        last = statuses[-1]
        return Readiness(ready=False, detail=last.detail, model=last.model, weights=last.weights)


def _recent(reports: dict[str, tuple[S, float]], now_s: float) -> list[S]:
    """Return the recent reports and forget the others."""
    for replica in [replica for replica, (_, said_s) in reports.items() if now_s - said_s > GONE_AFTER_S]:
        del reports[replica]
    return [status for status, _ in reports.values()]
