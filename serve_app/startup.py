"""What a generator that starts waits for, and for how long: decisions alone, without I/O and without a clock.

Serve gives an application up after three failed starts. So what may still come (weights that are being downloaded, a
hub that does not answer, memory that another replica is about to free) is waited for; only what can never work fails.
"""

from dataclasses import dataclass
from typing import Literal

LOOK_AGAIN_S = 3.0
"""How often a missing file is looked for."""

SETTLE_S = 2.0
"""Files that were waited for are used when they have not changed for so long."""

REMIND_S = 300.0
"""How often the log repeats what is waited for, while that stays the same."""


class NotYetError(RuntimeError):
    """Something that a generator needs is not there, and may come."""

    def __init__(self, what: str, why: str, hint: str = "", look_again_s: float = LOOK_AGAIN_S) -> None:
        """Say what is missing.

        Args:
            what: is waited for, as a noun: "the weights in /weights/model".
            why: it cannot be used yet.
            hint: what to do where nothing is on its way.
            look_again_s: pause before the next look; longer where looking costs others something.
        """
        super().__init__(f"cannot start without {what}: {why}{hint and f'. {hint}'}")
        self.waiting = f"waits for {what}: {why}"
        self.look_again_s = look_again_s


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether something can be used now.

    Attributes:
        state: ``ready``; ``wait``: it may come; ``never``: only another configuration helps.
        why: empty if ready.
    """

    state: Literal["ready", "wait", "never"]
    why: str = ""


READY = Verdict("ready")


@dataclass(frozen=True, slots=True)
class Pause:
    """What to do before the next look.

    Attributes:
        seconds: to wait.
        say: write to the log what is waited for.
    """

    seconds: float
    say: bool


class Patience:
    """How long one generator goes on waiting, and when it says for what.

    Attributes:
        waited: something was missing at least once, so that it may still be being written.
    """

    def __init__(self, limit_s: float, now_s: float) -> None:
        """Wait until ``limit_s`` after ``now_s``; 0 does not wait at all."""
        self._limit_s = limit_s
        self._ends_s = now_s + limit_s
        self._said = ""
        self._said_s = now_s
        self.waited = False

    def pause(self, missing: NotYetError, now_s: float) -> Pause | None:
        """How to go on after a look that found something missing; None: the time is over."""
        left_s = self._ends_s - now_s
        if left_s <= 0:
            return None
        self.waited = True
        say = missing.waiting != self._said or now_s - self._said_s >= REMIND_S
        if say:
            self._said, self._said_s = missing.waiting, now_s
        return Pause(min(missing.look_again_s, left_s), say)

    def ended(self, missing: NotYetError) -> str:
        """Why the generator does not start after all."""
        waited = f" (waited {self._limit_s:g} s, generator.startup_wait_s)" if self._limit_s else ""
        return f"{missing}{waited}"
