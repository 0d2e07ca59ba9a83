"""The WebSocket endpoints: admission, choice of the dialect, and Starlette's socket as a session's connection."""

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from serve_app.errors import InvalidMessageError, SpeechError
from serve_app.protocol.dialects import Dialect, Frame, FullDialect, RawDialect, ResearchDialect
from serve_app.protocol.messages import FullMessage, Refusal, error_message, read_presets
from serve_app.protocol.outbox import Close, Send
from serve_app.web.api_keys import SUBPROTOCOL, subprotocols
from serve_app.web.auth import Caller
from serve_app.web.context import IngressContext
from serve_app.web.responses import error_response
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

    async def receive(self) -> FullMessage | Refusal:
        """Return the client's next message.

        Raises:
            ConnectionLostError: the client is gone.
        """
        frame = await self._frame()
        limit_bytes = self._max_message_bytes
        if len(frame) > limit_bytes or (isinstance(frame, str) and len(frame.encode()) > limit_bytes):
            return Refusal(InvalidMessageError(f"the message is too large; allowed: {limit_bytes} bytes"))
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
    """The two WebSocket routes."""

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
        opening: list[FullMessage | Refusal] = [read_presets(fields)] if fields else []
        if framing not in ("full", "raw"):
            error = InvalidMessageError(f'framing {framing[:40]!r} is not served; allowed: "full", "raw"')
            opening.append(Refusal(error))
        await self._serve(socket, RawDialect() if framing == "raw" else FullDialect(), opening)

    async def _serve(self, socket: WebSocket, dialect: Dialect, opening: Sequence[FullMessage | Refusal] = ()) -> None:
        if not self._context.allows_origin(socket.headers):
            # A close before accept becomes a plain 403.
            await socket.close()
            return
        try:
            with self._context.admit(socket) as caller, self._context.count_session():
                await self._drive(socket, dialect, opening, caller)
        except SpeechError as error:
            self._context.metrics.refused(error)
            await _deny(socket, dialect, error)

    async def _drive(
        self, socket: WebSocket, dialect: Dialect, opening: Sequence[FullMessage | Refusal], caller: Caller
    ) -> None:
        await _accept(socket)
        connection = SocketConnection(socket, dialect, self._context.config.session.max_message_bytes)
        try:
            runner = await self._context.runner(
                connection, caller, socket.headers, dialect=dialect.name, errors_in_order=dialect.errors_in_order
            )
            await runner.run(opening)
        except Exception:
            log.exception("a session could not be run")
            with suppress(ConnectionLostError):
                await connection.close(Close(1011, "internal error"))


async def _accept(socket: WebSocket) -> None:
    """Accept a socket; a browser that sends its key as a subprotocol requires that one of its offers is selected."""
    await socket.accept(SUBPROTOCOL if SUBPROTOCOL in subprotocols(socket.headers) else None)


async def _deny(socket: WebSocket, dialect: Dialect, error: SpeechError) -> None:
    """Refuse a socket, if possible with an HTTP status before accept.

    A browser does not show a page why a handshake was refused. A browser's socket is therefore accepted, gets the error
    and is closed.
    """
    message = error_message(error, fatal=True)
    if "websocket.http.response" in socket.scope.get("extensions", {}) and "origin" not in socket.headers:
        await socket.send_denial_response(error_response(error))
        return
    await _accept(socket)
    connection = SocketConnection(socket, dialect, max_message_bytes=0)
    with suppress(ConnectionLostError):
        await connection.send(Send(message))
        await connection.close(Close(error.close_code or 1011, error.code))
