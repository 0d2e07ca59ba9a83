"""Who may start a stream, who waits, and who is told at once that waiting is no use. No I/O, no clock.

An ingress asks here before it calls a generator. There is one order, *earliest needed first*: a new text is needed
when it is asked for, the next text chunk of one who listens when the audio he has runs out. A priority moves that
moment by a fixed number of seconds, so that nobody is overtaken for ever. A session has one stream at a time by its
nature; an API key may be held to a number of them.
"""

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

from serve_app.config import AdmissionConfig
from serve_app.errors import CapacityError

RETRY_MIN_S = 0.5
"""Least time after which trying again is worth it."""

_OVERDUE_SHARE = 0.1
"""A stream that runs longer than the mean is thought to need this share of the mean still."""

_LATEST_WEIGHT = 0.1
"""Weight of the latest stream in the mean duration of streams."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """One text chunk that wants a stream.

    Attributes:
        number: its name; never used twice, and later for those who ask later.
        key: the caller's API key, hashed; empty for callers without one, to whom no limit of a key applies.
        priority: steps by which it is needed later (1) or sooner (-1) than it is.
        asked_s: when it was asked for.
        needed_by_s: when its listener has nothing more to play; not before ``asked_s``.
        begun: its utterance is being spoken already: it is not turned away, and waits longer.
    """

    number: int
    key: str
    priority: int
    asked_s: float
    needed_by_s: float
    begun: bool


@dataclass(frozen=True, slots=True)
class Backlog:
    """What an ingress has on its hands.

    Attributes:
        running: streams that were admitted and have not ended.
        waiting: text chunks that wait.
        waiting_s: seconds of a slot that those who wait will take; 0 until a stream has ended.
        asked: text chunks that ever asked for a stream, refused ones too.
    """

    running: int
    waiting: int
    waiting_s: float
    asked: int = 0


class Admission:
    """The queue in front of the generators, of one ingress replica.

    Attributes:
        room: streams that may run at a time; where it shrinks, running ones go on.
    """

    def __init__(self, config: AdmissionConfig, room: int) -> None:
        """Start empty."""
        self.room = room
        self._config = config
        self._waiting: dict[int, Ticket] = {}
        self._running: dict[int, tuple[Ticket, float]] = {}
        self._stream_s = 0.0
        self._asked = 0

    @property
    def backlog(self) -> Backlog:
        """What there is to do now."""
        waiting_s = len(self._waiting) * self._stream_s
        return Backlog(len(self._running), len(self._waiting), waiting_s, self._asked)

    def ask(self, ticket: Ticket, now_s: float) -> None:
        """Let a text chunk wait; :meth:`admit` says when it may start.

        Raises:
            CapacityError: as many wait as may, or it would not start before its deadline. Texts that are begun are
                taken all the same: there is at most one for each session.
        """
        self._asked += 1
        most = self._config.max_waiting
        if not ticket.begun and len(self._waiting) >= most + max(0, self.room - len(self._running)):
            raise self.refusal(ticket, f"{len(self._waiting)} texts wait on this server; at most {most} may", now_s)
        wait_s = self.expected_start_s(ticket, now_s) - now_s
        if not ticket.begun and wait_s > self._config.start_deadline_s:
            took = f"all streams are taken for about {wait_s:.0f} s"
            raise self.refusal(ticket, f"{took}; a text waits at most {self._config.start_deadline_s:g} s", now_s)
        self._waiting[ticket.number] = ticket

    def admit(self, now_s: float) -> list[Ticket]:
        """Those who may start now, in order; they run until :meth:`leave`."""
        admitted: list[Ticket] = []
        for ticket in sorted(self._waiting.values(), key=self._order):
            if len(self._running) >= self.room:
                break
            if not self._key_is_full(ticket.key):
                del self._waiting[ticket.number]
                self._running[ticket.number] = (ticket, now_s)
                admitted.append(ticket)
        return admitted

    def leave(self, ticket: Ticket, now_s: float, *, spoken: bool = False) -> None:
        """A ticket waits or runs no more.

        Args:
            ticket: one that was asked for.
            now_s: the time.
            spoken: its stream ran to its end, so that its duration says how long others will take.
        """
        self._waiting.pop(ticket.number, None)
        started = self._running.pop(ticket.number, None)
        if spoken and started is not None:
            weight = _LATEST_WEIGHT if self._stream_s else 1.0
            self._stream_s += (now_s - started[1] - self._stream_s) * weight

    def deadline_s(self, ticket: Ticket) -> float:
        """When a ticket that was not admitted is given up."""
        return ticket.needed_by_s + self._config.patience_s(begun=ticket.begun)

    def refusal(self, ticket: Ticket, reason: str, now_s: float) -> CapacityError:
        """The answer to one who cannot be spoken for, with the time after which it may be otherwise."""
        wait_s = self.expected_start_s(ticket, now_s) - now_s - self._config.start_deadline_s
        return CapacityError(reason, retry_after_ms=round(1000 * max(RETRY_MIN_S, wait_s)))

    def expected_start_s(self, ticket: Ticket, now_s: float) -> float:
        """When a ticket would start if no other came; ``now_s`` at the earliest, and where nothing is known yet."""
        overdue_s = now_s + _OVERDUE_SHARE * self._stream_s
        ends_s = [max(started_s + self._stream_s, overdue_s) for _, started_s in self._running.values()]
        order = self._order(ticket)
        ahead = sum(self._order(other) < order for other in self._waiting.values())
        return max(now_s, next_free_s(ends_s, [self._stream_s] * ahead, self.room, now_s))

    def _order(self, ticket: Ticket) -> tuple[float, int]:
        return ticket.needed_by_s + ticket.priority * self._config.priority_step_s, ticket.number

    def _key_is_full(self, key: str) -> bool:
        limit = self._config.max_streams_per_key
        if limit is None or not key:
            return False
        return sum(ticket.key == key for ticket, _ in self._running.values()) >= limit


def next_free_s(ends_s: Iterable[float], ahead_s: Sequence[float], room: int, now_s: float) -> float:
    """When the first of ``room`` slots is free for one who comes after all others.

    Args:
        ends_s: when the running streams end; there may be more of them than slots.
        ahead_s: seconds that each of those before it takes, in their order.
        room: slots.
        now_s: slots that nobody holds are free from here on.
    """
    if room <= 0:
        return float("inf")
    free_s = sorted(ends_s)
    surplus = max(0, len(free_s) - room)
    slots_s = list(chain(free_s[surplus:], [now_s] * (room - len(free_s))))
    heapq.heapify(slots_s)
    for seconds in ahead_s:
        heapq.heapreplace(slots_s, slots_s[0] + seconds)
    return slots_s[0]
