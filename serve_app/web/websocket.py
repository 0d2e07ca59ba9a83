"""The WebSocket endpoints: admission, choice of the dialect, and Starlette's socket as a session's connection."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from serve_app.audio.mark import DISCLOSURE, DISCLOSURE_HEADER
from serve_app.errors import InvalidMessageError, SpeechError
from serve_app.protocol.deepgram import DeepgramDialect
from serve_app.protocol.deepgram_messages import read_query
from serve_app.protocol.dialects import Dialect, Frame, FullDialect, RawDialect, ResearchDialect
from serve_app.protocol.messages import ReadMessage, Refusal, SpeechFields, Start, error_message, read_presets
from serve_app.protocol.outbox import Close, Send
from serve_app.protocol.speech_stream import SpeechStreamDialect
from serve_app.web.api_keys import SUBPROTOCOL, subprotocols
from serve_app.web.auth import Caller
from serve_app.web.context import IngressContext, Refused
from serve_app.web.responses import deepgram_error_response, error_response
from serve_app.web.session_runner import ConnectionLostError

log = logging.getLogger(__name__)


class SocketConnection:
    """An accepted WebSocket as a :class:`serve_app.web.session_runner.Connection`."""

    def __init__(self, socket: WebSocket, dialect: Dialect, max_message_bytes: int) -> None:
        """Speak ``dialect`` with the client; a larger message than the limit is refused."""
        self.sent_bytes = 0
        self._socket = socket
        self._dialect = dialect
        self._max_message_bytes = max_message_bytes
        self._read: deque[ReadMessage] = deque()

    async def receive(self) -> ReadMessage:
        """Return the client's next message.

        Raises:
            ConnectionLostError: the client is gone.
        """
        while not self._read:
            self._read.extend(self._messages(await self._frame()))
            # A flood of frames without a message for the session must not block the loop for other sessions.
            await asyncio.sleep(0)
        return self._read.popleft()

    def _messages(self, frame: Frame) -> list[ReadMessage]:
        limit_bytes = self._max_message_bytes
        if len(frame) > limit_bytes or (isinstance(frame, str) and len(frame.encode()) > limit_bytes):
            return [Refusal(InvalidMessageError(f"the message is too large; allowed: {limit_bytes} bytes"))]
        return self._dialect.read(frame)

    async def _frame(self) -> Frame:
        try:
            message = await self._socket.receive()
        except RuntimeError as error:  # Starlette raises this if the socket is already closed
            raise ConnectionLostError from error
        if message["type"] == "websocket.disconnect":
            raise ConnectionLostError
        text = message.get("text")
        return text if text is not None else message["bytes"]

    async def answer(self, messages: AsyncIterator[Send]) -> None:
        """Send the session's messages; waits while the client does not read."""
        async for message in messages:
            await self.send(message)

    async def send(self, message: Send) -> None:
        """Send one message.

        Raises:
            ConnectionLostError: it cannot be sent.
        """
        try:
            for frame in self._dialect.write(message):
                if isinstance(frame, str):
                    await self._socket.send_text(frame)
                else:
                    await self._socket.send_bytes(frame)
                self.sent_bytes += len(frame)
        except (WebSocketDisconnect, RuntimeError) as error:
            raise ConnectionLostError from error

    async def close(self, last: Close) -> None:
        """Close the socket; does nothing if it is already closed."""
        states = (self._socket.client_state, self._socket.application_state)
        if states != (WebSocketState.CONNECTED, WebSocketState.CONNECTED):
            return
        try:
            await self._socket.close(last.code, last.reason)
        except (WebSocketDisconnect, RuntimeError) as error:
            raise ConnectionLostError from error


class Sockets:
    """The WebSocket routes."""

    def __init__(self, context: IngressContext) -> None:
        self._context = context

    async def research(self, socket: WebSocket) -> None:
        """``/ws/tts``: dialect A."""
        await self._serve(socket, ResearchDialect())

    async def speak(self, socket: WebSocket) -> None:
        """``/api/v1/speak``: dialect B; the query may preset the fields of ``start`` and choose the ``framing``."""
        query = socket.query_params.multi_items()
        framing = socket.query_params.get("framing", "full")
        fields = [item for item in query if item[0] != "framing"]
        opening: list[ReadMessage] = [read_presets(fields)] if fields else []
        if framing not in ("full", "raw"):
            error = InvalidMessageError(f'framing {framing[:40]!r} is not served; allowed: "full", "raw"')
            opening.append(Refusal(error))
        await self._serve(socket, RawDialect() if framing == "raw" else FullDialect(), opening)

    async def stream(self, socket: WebSocket) -> None:
        """``/v1/audio/speech/stream``: the stream of vLLM-Omni and SGLang-Omni."""
        await self._serve(socket, SpeechStreamDialect())

    async def deepgram(self, socket: WebSocket) -> None:
        """``/v1/speak``: Deepgram's socket; a wrong query is refused before the socket is accepted."""
        start = read_query(socket.query_params.multi_items())
        dialect = DeepgramDialect(start if isinstance(start, Start) else SpeechFields())
        await self._serve(socket, dialect, [start], refused=deepgram_error_response)

    async def _serve(
        self,
        socket: WebSocket,
        dialect: Dialect,
        opening: Sequence[ReadMessage] = (),
        refused: Refused | None = None,
    ) -> None:
        """Serve one socket.

        Args:
            socket: not accepted yet.
            dialect: of the client.
            opening: the session's first messages.
            refused: if given, a wrong ``opening`` is refused with this response; otherwise the session answers it.
        """
        if not self._context.allows_origin(socket.headers):
            # A close before accept becomes a plain 403.
            await socket.close()
            return
        try:
            with self._context.admit(socket) as caller, self._context.count_session():
                if refused is not None:
                    await self._check(opening)
                await self._drive(socket, dialect, opening, caller)
        except SpeechError as error:
            self._context.metrics.refused(error)
            await _deny(socket, dialect, error, refused or error_response)

    async def _check(self, opening: Sequence[ReadMessage]) -> None:
        for message in opening:
            if isinstance(message, Refusal):
                raise message.error
            if isinstance(message, Start):
                await self._context.check_voice(message.voice)

    async def _drive(self, socket: WebSocket, dialect: Dialect, opening: Sequence[ReadMessage], caller: Caller) -> None:
        await _accept(socket)
        connection = SocketConnection(socket, dialect, self._context.config.session.max_message_bytes)
        try:
            runner = await self._context.runner(
                connection, caller, socket.headers, dialect=dialect.name, rules=dialect.rules
            )
            await runner.run(opening)
        except Exception:
            log.exception("a session could not be run")
            with suppress(ConnectionLostError):
                await connection.close(Close(1011, "internal error"))


async def _accept(socket: WebSocket) -> None:
    """Accept a socket; a browser that sends its key as a subprotocol requires that one of its offers is selected."""
    chosen = SUBPROTOCOL if SUBPROTOCOL in subprotocols(socket.headers) else None
    await socket.accept(chosen, [(DISCLOSURE_HEADER.encode(), DISCLOSURE.encode())])


async def _deny(socket: WebSocket, dialect: Dialect, error: SpeechError, refused: Refused) -> None:
    """Refuse a socket, if possible with an HTTP status before accept.

    A browser does not show a page why a handshake was refused. A browser's socket is therefore accepted, gets the error
    and is closed.
    """
    message = error_message(error, fatal=True)
    if "websocket.http.response" in socket.scope.get("extensions", {}) and "origin" not in socket.headers:
        await socket.send_denial_response(refused(error))
        return
    await _accept(socket)
    connection = SocketConnection(socket, dialect, max_message_bytes=0)
    with suppress(ConnectionLostError):
        await connection.send(Send(message))
        await connection.close(Close(error.close_code or 1011, error.code))
