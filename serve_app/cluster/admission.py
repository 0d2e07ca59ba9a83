"""Decides which text chunks may start a stream, which wait, and which are refused at once. No I/O, no clock.

An ingress asks this module before it calls a generator. The order is *earliest deadline first*: a new text is needed
immediately, and a later text chunk when its listener's audio runs out. A priority shifts that moment by a fixed number
of seconds, so no text waits forever. A session never has more than one stream at a time. The configuration may limit
the streams of an API key.

Texts of a batch have no listener. They come after all other texts, leave some streams free, and wait as long as their
client does. They never make another text wait in the queue, or be refused.
"""

import heapq
import math
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

from serve_app.config import AdmissionConfig
from serve_app.errors import CapacityError

RETRY_MIN_S = 0.5
"""Shortest time after which a client is told to retry."""

_OVERDUE_SHARE = 0.1
"""A stream that has run for longer than the mean is expected to run for this share of the mean from now on."""

_LATEST_WEIGHT = 0.1
"""Weight of the latest stream in the mean duration of streams."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """One text chunk that requests a stream.

    Attributes:
        number: a unique number; later requests have higher numbers.
        key: the caller's API key, hashed; empty for callers without one, who have no limit per key.
        priority: steps by which its deadline is moved back (1) or forward (-1).
        asked_s: when it was requested.
        needed_by_s: when its listener has nothing more to play; not before ``asked_s``.
        begun: its utterance is being spoken already, so it is not refused and may wait longer.
        batch: it has no listener: see the module.
    """

    number: int
    key: str
    priority: int
    asked_s: float
    needed_by_s: float
    begun: bool
    batch: bool = False


@dataclass(frozen=True, slots=True)
class Backlog:
    """The current load of an ingress.

    Attributes:
        running: streams that were admitted and have not ended.
        waiting: text chunks that wait for a slot.
        waiting_s: slot seconds that these text chunks will take; 0 until a stream has ended.
        asked: total number of text chunks that requested a stream, including refused ones.
        blocked: text chunks that wait only because their API key has its maximum number of streams.
    """

    running: int
    waiting: int
    waiting_s: float
    asked: int = 0
    blocked: int = 0


class Admission:
    """The admission queue of one ingress replica.

    Attributes:
        capacity: number of streams that may run at a time; if it shrinks, running streams continue.
    """

    def __init__(self, config: AdmissionConfig, capacity: int) -> None:
        """Start with an empty queue."""
        self.capacity = capacity
        self._config = config
        self._waiting: dict[int, Ticket] = {}
        self._running: dict[int, tuple[Ticket, float]] = {}
        self._stream_s = 0.0
        self._asked = 0

    @property
    def backlog(self) -> Backlog:
        """The current load."""
        of_keys, running = Counter(ticket.key for ticket in self._waiting.values()), self._running_by_key
        waiting = sum(min(count, max(0, self._limit_of(key) - running[key])) for key, count in of_keys.items())
        blocked = len(self._waiting) - waiting
        return Backlog(len(self._running), waiting, waiting * self._stream_s, self._asked, blocked)

    @property
    def _running_by_key(self) -> Counter[str]:
        return Counter(ticket.key for ticket, _ in self._running.values())

    def _limit_of(self, key: str) -> int:
        """Return how many streams a key may have; callers without a key are not limited."""
        limit = self._config.max_streams_per_key
        return limit if limit is not None and key else sys.maxsize

    @property
    def batch_capacity(self) -> int:
        """Number of streams that may run when a text of a batch starts, including its own; at least 1."""
        return max(1, self.capacity - self._config.reserved_streams)

    def ask(self, ticket: Ticket, now_s: float) -> None:
        """Queue a text chunk; :meth:`admit` returns it when it may start.

        Raises:
            CapacityError: too many texts of its kind wait, or the text chunk would not start before its deadline. Text
                chunks of an utterance that has begun are always queued: there is at most one per session.
        """
        self._asked += 1
        most = self._config.max_waiting
        waiting = sum(other.batch == ticket.batch for other in self._waiting.values())
        if not ticket.begun and waiting >= most + max(0, self._capacity_for(ticket) - len(self._running)):
            raise self.refusal(ticket, f"{waiting} texts wait on this server; the limit is {most}", now_s)
        wait_s = self.expected_start_s(ticket, now_s) - now_s
        if not ticket.begun and not ticket.batch and wait_s > self._config.start_deadline_s:
            took = f"all streams are busy for about {wait_s:.0f} s"
            raise self.refusal(ticket, f"{took}; a text waits at most {self._config.start_deadline_s:g} s", now_s)
        self._waiting[ticket.number] = ticket

    def admit(self, now_s: float) -> list[Ticket]:
        """Return the tickets that may start now, in order; they count as running until :meth:`leave`."""
        admitted: list[Ticket] = []
        for ticket in sorted(self._waiting.values(), key=self._order):
            if len(self._running) >= self.capacity:
                break
            if len(self._running) < self._capacity_for(ticket) and not self._key_is_full(ticket.key):
                del self._waiting[ticket.number]
                self._running[ticket.number] = (ticket, now_s)
                admitted.append(ticket)
        return admitted

    def leave(self, ticket: Ticket, now_s: float, *, spoken: bool = False) -> None:
        """Remove a ticket that no longer waits or runs.

        Args:
            ticket: a ticket passed to :meth:`ask`.
            now_s: the time.
            spoken: whether its stream ran to its end; if so, its duration updates the mean.
        """
        self._waiting.pop(ticket.number, None)
        started = self._running.pop(ticket.number, None)
        if spoken and started is not None:
            weight = _LATEST_WEIGHT if self._stream_s else 1.0
            self._stream_s += (now_s - started[1] - self._stream_s) * weight

    def deadline_s(self, ticket: Ticket) -> float:
        """Return the time at which a waiting ticket is refused; infinite for a text of a batch."""
        if ticket.batch:
            return math.inf
        return ticket.needed_by_s + self._config.patience_s(begun=ticket.begun)

    def refusal(self, ticket: Ticket, reason: str, now_s: float) -> CapacityError:
        """Return the error for a ticket that cannot be admitted, with the time after which to retry."""
        wait_s = self.expected_start_s(ticket, now_s) - now_s - self._config.start_deadline_s
        return CapacityError(reason, retry_after_ms=round(1000 * max(RETRY_MIN_S, wait_s)))

    def expected_start_s(self, ticket: Ticket, now_s: float) -> float:
        """Estimate when a ticket would start if no new request arrived; ``now_s`` if no stream has ended yet."""
        order, limit = self._order(ticket), self._config.max_streams_per_key
        ahead = Counter(other.key for other in self._waiting.values() if self._order(other) < order)
        slots = self._capacity_for(ticket)
        if limit is None or limit >= slots:
            return self._free_s(list(self._running.values()), ahead.total(), slots, now_s)
        # Texts beyond the limit of their key wait for streams of that key, not for a slot that others could have.
        competing = sum(min(count, limit) if key else count for key, count in ahead.items())
        free_s = self._free_s(list(self._running.values()), competing, slots, now_s)
        if not ticket.key:
            return free_s
        own = [(other, started_s) for other, started_s in self._running.values() if other.key == ticket.key]
        return max(free_s, self._free_s(own, ahead[ticket.key], limit, now_s))

    def _free_s(self, running: list[tuple[Ticket, float]], ahead: int, slots: int, now_s: float) -> float:
        """Estimate when one of ``slots`` is free, which ``running`` use and ``ahead`` texts will use before."""
        overdue_s = now_s + _OVERDUE_SHARE * self._stream_s
        ends_s = [max(started_s + self._stream_s, overdue_s) for _, started_s in running]
        return max(now_s, next_free_s(ends_s, [self._stream_s] * ahead, slots, now_s))

    def _capacity_for(self, ticket: Ticket) -> int:
        return self.batch_capacity if ticket.batch else self.capacity

    def _order(self, ticket: Ticket) -> tuple[bool, float, int]:
        deadline_s = ticket.needed_by_s + ticket.priority * self._config.priority_step_s
        return ticket.batch, deadline_s, ticket.number

    def _key_is_full(self, key: str) -> bool:
        return self._running_by_key[key] >= self._limit_of(key)


def next_free_s(ends_s: Iterable[float], ahead_s: Sequence[float], slots: int, now_s: float) -> float:
    """Return when one of ``slots`` slots is free for a new request at the end of the queue.

    Args:
        ends_s: when the running streams end; there may be more of them than slots.
        ahead_s: the duration in seconds of each request ahead in the queue, in order.
        slots: number of slots.
        now_s: unoccupied slots are free from this time on.
    """
    if slots <= 0:
        return float("inf")
    free_s = sorted(ends_s)
    surplus = max(0, len(free_s) - slots)
    slots_s = list(chain(free_s[surplus:], [now_s] * (slots - len(free_s))))
    heapq.heapify(slots_s)
    for seconds in ahead_s:
        heapq.heapreplace(slots_s, slots_s[0] + seconds)
    return slots_s[0]
