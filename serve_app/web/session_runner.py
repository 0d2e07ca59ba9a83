"""Runs one session: reads and answers its connection, makes its generator calls and watches its clock.

:mod:`serve_app.session.session` makes all decisions; this module adds asyncio. It does not know frames or dialects: a
connection provides the client's messages and iterates over the answers. WebSockets and HTTP requests therefore share
it.
"""

import asyncio
import logging
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Protocol

from serve_app.config import VoicesConfig
from serve_app.errors import SpeechError, SynthesisError
from serve_app.observability.observers import SessionObserver
from serve_app.protocol.messages import ErrorMessage, ReadMessage, Refusal, Speak, Start
from serve_app.protocol.outbox import Close, Send
from serve_app.session.session import INLINE_VOICE, Call, CancelCall, Drain, Effect, InlineVoice, Session
from serve_app.speech import SpeechEnd, SpeechEvent, VoiceClip
from serve_app.voices.voice import resolve_voice
from serve_app.web.admission_queue import AdmissionQueue, Permit
from serve_app.web.backend import Backend
from serve_app.web.clips import Clips
from serve_app.web.draining import Draining

log = logging.getLogger(__name__)

CLOSE_GRACE_S = 2.0
"""Time limit for the last messages of a closing session, and then for its close frame."""

STREAM_CLOSE_S = 5.0
"""Time limit for closing a generator's stream."""

LONGEST_WAIT_S = 3600.0
"""The session's deadline is checked at least this often, because the event loop accepts no infinite timeout."""


GONE_S = 0.05
"""How long a cancelled session waits for the notice that its client disconnected; if the client did, the notice is
already queued."""

MAX_SKIPPED_MESSAGES = 64
"""Maximum number of queued messages to skip in search of that notice."""

_GONE = Close(1000, "the client is gone")
_STOPPED = Close(1012, "the server stops")


class ConnectionLostError(Exception):
    """The client is gone."""


class Connection(Protocol):
    """A client's connection.

    Attributes:
        sent_bytes: number of bytes sent so far.
    """

    sent_bytes: int

    async def receive(self) -> ReadMessage:
        """Return the client's next message.

        Raises:
            ConnectionLostError: the client is gone.
        """
        ...

    async def answer(self, messages: AsyncIterator[Send]) -> None:
        """Send the session's messages until there are no more; waits while the client does not read.

        A message counts as sent when the next one is requested.

        Raises:
            ConnectionLostError: a message cannot be sent.
        """
        ...

    async def close(self, last: Close) -> None:
        """Close the connection; does nothing if it is already closed."""
        ...


async def _no_refetch() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Service:
    """What all session runners of an ingress replica share.

    Attributes:
        backend: runs the generator calls.
        queue: admits the calls.
        clock: the clock of all sessions and of the queue.
        clips: decodes inline voices.
        refetch_voices: fetches the voices again; sessions see the new ones when it returns.
        draining: tells sessions when the replica is being replaced.
    """

    backend: Backend
    queue: AdmissionQueue
    clock: Callable[[], float]
    clips: Clips = field(default_factory=lambda: Clips(VoicesConfig()))
    refetch_voices: Callable[[], Awaitable[None]] = _no_refetch
    draining: Draining = field(default_factory=lambda: Draining(math.inf, time.monotonic))


class SessionRunner:
    """Runs one session over one connection until either ends."""

    def __init__(
        self,
        session: Session,
        connection: Connection,
        service: Service,
        observer: SessionObserver,
        *,
        key: str = "",
    ) -> None:
        """Prepare to run one session.

        Args:
            session: a new session.
            connection: the client's connection; :meth:`run` closes it.
            service: what all runners share.
            observer: is called for each event of the session.
            key: the caller's name, by which the admission queue counts its streams; empty without an API key.
        """
        self._session = session
        self._connection = connection
        self._backend = service.backend
        self._queue = service.queue
        self._key = key
        self._clock = service.clock
        self._observer = observer
        self._calls: asyncio.Queue[Call] = asyncio.Queue()
        self._cancelled: set[int] = set()
        self._consumer: tuple[int, asyncio.Task[None]] | None = None
        self._outbox_changed = asyncio.Event()
        self._resumed = asyncio.Event()
        self._clips = service.clips
        self._refetch_voices = service.refetch_voices
        self._draining = service.draining
        self._held: list[VoiceClip] = []
        self._last = _STOPPED
        self._deadline_moved = asyncio.Event()
        self._deadline_s = 0.0

    async def run(self, opening: Sequence[ReadMessage | InlineVoice] = ()) -> None:
        """Run the session to its end; when this returns, the connection is closed and every call is cancelled.

        Args:
            opening: messages that are handled before the client's first frame.
        """
        self._observer.opened()
        try:
            with self._draining.registered(self):
                await self._run(opening)
        finally:
            for clip in self._held:
                self._clips.release(clip)
            self._observer.closed(self._last, gone=self._last is _GONE)

    def drain(self, drain: Drain) -> None:
        """Drain the session; see :meth:`serve_app.session.session.Session.drain`."""
        self._apply(self._session.drain(drain, self._clock()))

    async def _run(self, opening: Sequence[ReadMessage | InlineVoice]) -> None:
        """Run the session until its end; :attr:`_last` says how it ended."""
        for message in opening:
            await self._find_voice(message)
            self._apply(self._session.receive(message, self._clock()))
        tasks = [asyncio.create_task(work()) for work in (self._read, self._write, self._speak, self._watch)]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            self._last = self._verdict(done)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if self._last is _STOPPED and await self._is_gone():
                self._last = _GONE
            await self._close(self._last)

    async def _is_gone(self) -> bool:
        """Return whether the client disconnected. Serve cancels the request in that case, but also when it stops."""
        # In a separate task, because Python 3.11.2 treats a timeout in a cancelled task as another cancellation.
        reading = asyncio.create_task(self._read_on())
        await asyncio.wait([reading], timeout=GONE_S)
        reading.cancel()
        (ended,) = await asyncio.gather(reading, return_exceptions=True)
        return isinstance(ended, ConnectionLostError)

    async def _read_on(self) -> None:
        for _ in range(MAX_SKIPPED_MESSAGES):
            await self._connection.receive()

    def _verdict(self, done: set[asyncio.Task[None]]) -> Close:
        """Return how to close the connection, depending on which tasks ended first."""
        for task in done:
            error = task.exception()
            if isinstance(error, ConnectionLostError):
                return _GONE
            if error is not None:
                log.error("the session failed", exc_info=error)
                return Close(1011, "internal error")
        return self._session.close or Close(1011, "internal error")

    async def _close(self, last: Close) -> None:
        with suppress(ConnectionLostError, TimeoutError):
            async with asyncio.timeout(CLOSE_GRACE_S):
                if last.code == 1011:
                    message = ErrorMessage(code=SynthesisError.code, message="internal error", fatal=True)
                    await self._connection.answer(_only(Send(message)))
                await self._connection.close(last)

    # The four tasks.

    async def _read(self) -> None:
        while True:
            message = await self._connection.receive()
            if isinstance(message, Start) and message.voice_audio is not None:
                message = await self._read_inline_voice(message)
            await self._find_voice(message)
            self._apply(self._session.receive(message, self._clock()))
            # A flood of buffered messages must not keep the event loop from other sessions.
            await asyncio.sleep(0)

    async def _find_voice(self, message: ReadMessage | InlineVoice) -> None:
        """Fetch the voices again if a message names an unknown one, because another ingress may have just added it."""
        voice = message.voice if isinstance(message, Start | Speak) else None
        setup = self._session.setup
        known = voice in (None, INLINE_VOICE) or resolve_voice(voice, setup.voices, setup.naming) is not None
        if not known:
            await self._refetch_voices()

    async def _read_inline_voice(self, start: Start) -> InlineVoice | Refusal:
        """Decode and check the inline voice of a ``start``; later messages wait until this is done."""
        try:
            clip = await self._clips.own(start)
        except SpeechError as error:
            return Refusal(error, of_start=True)
        self._held.append(clip)
        if len(self._held) > 1:  # the session accepts only one, so a second clip is not kept
            self._clips.release(self._held.pop())
        return InlineVoice(start, clip)

    async def _write(self) -> None:
        async with aclosing(self._messages()) as messages:
            await self._connection.answer(messages)

    async def _messages(self) -> AsyncGenerator[Send]:
        """Yield the messages to send, in order; the session is over when there are no more."""
        while True:
            item = self._session.take(self._clock())
            if item is None:
                self._outbox_changed.clear()
                await self._outbox_changed.wait()
                continue
            if isinstance(item, Close):
                return
            before = self._connection.sent_bytes
            yield item
            self._observer.sent(item, self._connection.sent_bytes - before)
            self._apply(self._session.sent(self._clock()))

    async def _speak(self) -> None:
        while True:
            call = await self._calls.get()
            if call.call_id not in self._cancelled:
                await self._run_call(call)
            self._cancelled.discard(call.call_id)
            self._apply(self._session.ended(call.call_id, self._clock()))

    async def _watch(self) -> None:
        while self._session.close is None:
            self._deadline_moved.clear()
            self._deadline_s = self._session.next_deadline_s
            wait_s = min(self._deadline_s - self._clock(), LONGEST_WAIT_S)
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, wait_s)):
                    await self._deadline_moved.wait()
            self._apply(self._session.tick(self._clock()))
        # Normally the writer ends the session by sending the close frame, but a client may not read even that.
        await asyncio.sleep(CLOSE_GRACE_S)

    # Shared by the tasks.

    def _apply(self, effects: list[Effect]) -> None:
        """Perform the effects of a step of the session, and wake the tasks that depend on its new state."""
        for effect in effects:
            match effect:
                case Call():
                    self._observer.called(effect)
                    self._calls.put_nowait(effect)
                case CancelCall():
                    self._cancel(effect.call_id)
        self._outbox_changed.set()
        if not self._session.paused:
            self._resumed.set()
        if self._session.close is not None or self._session.next_deadline_s < self._deadline_s:
            self._deadline_moved.set()

    def _cancel(self, call_id: int) -> None:
        if self._consumer is not None and self._consumer[0] == call_id:
            self._consumer[1].cancel()
        else:
            self._cancelled.add(call_id)

    async def _run_call(self, call: Call) -> None:
        """Run one generator call in a separate task, so that only this task is cancelled."""
        consumer = asyncio.create_task(self._consume(call))
        self._consumer = (call.call_id, consumer)
        try:
            await _finish(consumer)
        finally:
            self._consumer = None
            self._observer.ended()

    async def _consume(self, call: Call) -> None:
        call = self._observer.begun(call)
        try:
            async with self._queue.permit(call, self._key) as permit:
                self._observer.admitted(call)
                stream = self._backend.speak(call.request)
                try:
                    await self._take_all(call, stream, permit)
                finally:
                    await self._close_stream(stream)
        except SpeechError as error:
            self._observer.failed(error)
            self._apply(self._session.failed(call.call_id, error, self._clock()))
        except Exception:
            log.exception("a generator call failed")
            error = SynthesisError("the generator call failed")
            self._observer.failed(error)
            self._apply(self._session.failed(call.call_id, error, self._clock()))

    async def _take_all(self, call: Call, stream: AsyncGenerator[SpeechEvent, None], permit: Permit) -> None:
        async for event in stream:
            permit.spoken = isinstance(event, SpeechEnd) and event.finish_reason != "error"
            self._observer.received(call, event)
            self._apply(self._session.event(call.call_id, event, self._clock()))
            while self._session.paused:
                self._resumed.clear()
                await self._resumed.wait()

    async def _close_stream(self, stream: AsyncGenerator[SpeechEvent, None]) -> None:
        try:
            async with asyncio.timeout(STREAM_CLOSE_S):
                await stream.aclose()
        except Exception:
            log.exception("a stream could not be closed")


async def _finish(consumer: asyncio.Task[None]) -> None:
    """Wait until a task has ended; if the caller is cancelled first, cancel the task and wait for its end."""
    try:
        await asyncio.wait([consumer])
    finally:
        consumer.cancel()
        await asyncio.gather(consumer, return_exceptions=True)


async def _only(item: Send) -> AsyncGenerator[Send]:
    yield item
