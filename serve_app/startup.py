"""Decides what a starting generator waits for and how long; does no I/O and reads no clock.

Serve gives up an application after three failed starts. A generator therefore waits for things that may still arrive:
weights that are being downloaded, a hub that does not answer, memory that another replica is about to free. It fails
only if waiting cannot help.
"""

from dataclasses import dataclass
from typing import Literal

CHECK_AGAIN_S = 3.0
"""Interval between two checks for a missing file."""

SETTLE_S = 2.0
"""A file that was missing is used once it has not changed for this long."""

REMIND_S = 300.0
"""How often the log repeats the same reason for waiting."""


class NotYetError(RuntimeError):
    """Something that a generator needs is missing but may still arrive."""

    def __init__(self, what: str, why: str, hint: str = "", check_again_s: float = CHECK_AGAIN_S) -> None:
        """Describe what is missing.

        Args:
            what: the missing thing, as a noun: "the weights in /weights/model".
            why: why it cannot be used yet.
            hint: what to do if it is not going to arrive.
            check_again_s: pause before the next check; longer if a check is expensive.
        """
        super().__init__(f"cannot start without {what}: {why}{hint and f'. {hint}'}")
        self.waiting = f"waits for {what}: {why}"
        self.check_again_s = check_again_s


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether something can be used now.

    Attributes:
        state: ``ready``; ``wait`` if it may still arrive; ``never`` if only another configuration helps.
        why: the reason; empty if ready.
    """

    state: Literal["ready", "wait", "never"]
    why: str = ""


READY = Availability("ready")


@dataclass(frozen=True, slots=True)
class Pause:
    """The pause before the next check.

    Attributes:
        seconds: how long to wait.
        say: whether to log the reason for waiting.
    """

    seconds: float
    say: bool


class Patience:
    """Decides how long one generator waits and when it logs the reason.

    Attributes:
        waited: whether something was missing at least once, so that it may still be incomplete.
    """

    def __init__(self, limit_s: float, now_s: float) -> None:
        """Allow waiting for ``limit_s`` from ``now_s`` on; 0 means no waiting."""
        self._limit_s = limit_s
        self._ends_s = now_s + limit_s
        self._said = ""
        self._said_s = now_s
        self.waited = False

    def pause(self, missing: NotYetError, now_s: float) -> Pause | None:
        """Return the pause after a check that found something missing; None if the time is over."""
        left_s = self._ends_s - now_s
        if left_s <= 0:
            return None
        self.waited = True
        say = missing.waiting != self._said or now_s - self._said_s >= REMIND_S
        if say:
            self._said, self._said_s = missing.waiting, now_s
        return Pause(min(missing.check_again_s, left_s), say)

    def ended(self, missing: NotYetError) -> str:
        """Return why the generator does not start."""
        waited = f" (waited {self._limit_s:g} s, generator.startup_wait_s)" if self._limit_s else ""
        return f"{missing}{waited}"
