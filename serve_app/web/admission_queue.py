"""The admission queue: a generator call waits here until :mod:`serve_app.cluster.admission` admits it.

This module lets coroutines wait for their tickets; :mod:`serve_app.cluster.admission` decides the order.
"""

import asyncio
import math
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from serve_app.cluster.admission import Admission, Backlog, Ticket
from serve_app.session.session import Call


class Permit:
    """The right to run one generator call.

    Attributes:
        spoken: True if the stream ran to its end; the holder sets it.
    """

    def __init__(self) -> None:
        self.spoken = False


class AdmissionQueue:
    """The queue of one ingress replica, on its event loop."""

    def __init__(self, admission: Admission, clock: Callable[[], float]) -> None:
        self._admission = admission
        self._clock = clock
        self._asked = 0
        self._waiters: dict[int, asyncio.Future[None]] = {}

    @property
    def backlog(self) -> Backlog:
        """The current load."""
        return self._admission.backlog

    @property
    def batch_capacity(self) -> int:
        """Maximum number of streams that texts of batches may have."""
        return self._admission.batch_capacity

    def resize(self, capacity: int) -> None:
        """Allow ``capacity`` concurrent streams from now on."""
        self._admission.capacity = capacity
        self._wake()

    @asynccontextmanager
    async def permit(self, call: Call, key: str) -> AsyncGenerator[Permit]:
        """Wait until a call may start, and count it as running while the context manager is open.

        Raises:
            CapacityError: the call cannot start, or did not start, before its deadline.
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
            batch=call.request.batch,
        )
        permit = Permit()
        self._admission.ask(ticket, now_s)
        try:
            await self._wait(ticket)
            yield permit
        finally:
            self._waiters.pop(ticket.number, None)
            self._admission.leave(ticket, self._clock(), spoken=permit.spoken)
            self._wake()

    async def _wait(self, ticket: Ticket) -> None:
        waiter = self._waiters[ticket.number] = asyncio.get_running_loop().create_future()
        self._wake()
        try:
            left_s = self._admission.deadline_s(ticket) - self._clock()
            async with asyncio.timeout(None if left_s == math.inf else max(0.0, left_s)):
                await waiter
        except TimeoutError as error:
            now_s = self._clock()
            waited = f"no stream was free within {now_s - ticket.asked_s:.0f} s"
            raise self._admission.refusal(ticket, waited, now_s) from error

    def _wake(self) -> None:
        for ticket in self._admission.admit(self._clock()):
            waiter = self._waiters.pop(ticket.number)
            if not waiter.done():
                waiter.set_result(None)
