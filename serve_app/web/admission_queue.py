"""From a session to a generator: a text chunk waits here until :mod:`serve_app.cluster.admission` lets it through.

It turns tickets into waiting coroutines and back; who goes first is decided there.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from serve_app.cluster.admission import Admission, Backlog, Ticket
from serve_app.session.session import Call


class Permit:
    """One text chunk's way through the gate.

    Attributes:
        spoken: set by who holds it when the stream ran to its end.
    """

    def __init__(self) -> None:
        self.spoken = False


class AdmissionQueue:
    """One per ingress replica; lives on its event loop."""

    def __init__(self, admission: Admission, clock: Callable[[], float]) -> None:
        self._admission = admission
        self._clock = clock
        self._asked = 0
        self._doors: dict[int, asyncio.Future[None]] = {}

    @property
    def backlog(self) -> Backlog:
        """What runs and waits."""
        return self._admission.backlog

    def resize(self, room: int) -> None:
        """Let ``room`` streams run at a time from now on."""
        self._admission.room = room
        self._open_doors()

    @asynccontextmanager
    async def passage(self, call: Call, key: str) -> AsyncGenerator[Permit]:
        """Wait until a call may start, and hold its place while it runs.

        Raises:
            CapacityError: it will not start before its deadline, or did not.
        """
        now_s = self._clock()
        self._asked += 1
        ticket = Ticket(
            number=self._asked,
            key=key,
            priority=call.request.priority,
            asked_s=now_s,
            needed_by_s=max(now_s, call.needed_by_s),
            begun=call.request.begun,
        )
        passage = Permit()
        self._admission.ask(ticket, now_s)
        try:
            await self._wait(ticket)
            yield passage
        finally:
            self._doors.pop(ticket.number, None)
            self._admission.leave(ticket, self._clock(), spoken=passage.spoken)
            self._open_doors()

    async def _wait(self, ticket: Ticket) -> None:
        door = self._doors[ticket.number] = asyncio.get_running_loop().create_future()
        self._open_doors()
        try:
            async with asyncio.timeout(max(0.0, self._admission.deadline_s(ticket) - self._clock())):
                await door
        except TimeoutError as error:
            now_s = self._clock()
            waited = f"no stream was free within {now_s - ticket.asked_s:.0f} s"
            raise self._admission.refusal(ticket, waited, now_s) from error

    def _open_doors(self) -> None:
        for ticket in self._admission.admit(self._clock()):
            door = self._doors.pop(ticket.number)
            if not door.done():
                door.set_result(None)
