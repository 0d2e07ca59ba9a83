"""What the generators said of themselves lately, and whether anybody can be spoken for.

Replicas report into it every second; one that has been silent for some seconds counts as gone. It knows neither
Ray nor a clock.
"""

from dataclasses import dataclass
from typing import Literal

from serve_app.deployments.backend import Readiness

REPORT_PERIOD_S = 1.0
"""A replica reports this often."""

GONE_AFTER_S = 5.0
"""Silence after which a replica no longer counts; a busy machine misses one or two reports."""


@dataclass(frozen=True, slots=True)
class GeneratorStatus:
    """One replica, in its own words.

    Attributes:
        replica: its id.
        state: ``loading`` until it has spoken its warm-up sentence; ``failed`` says why in ``detail``.
        detail: what it is doing, or why it failed; empty when ready.
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


class Fleet:
    """The latest status of every replica that still reports."""

    def __init__(self) -> None:
        self._reports: dict[str, tuple[GeneratorStatus, float]] = {}

    def report(self, status: GeneratorStatus, now_s: float) -> None:
        """Take one replica's word for it."""
        self._reports[status.replica] = (status, now_s)

    def generators(self, now_s: float) -> list[GeneratorStatus]:
        """Replicas heard of lately, the oldest first."""
        gone = [replica for replica, (_, said_s) in self._reports.items() if now_s - said_s > GONE_AFTER_S]
        for replica in gone:
            del self._reports[replica]
        return [status for status, _ in self._reports.values()]

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
