"""The WebSocket endpoints: who is let in, with which dialect, and Starlette's socket as a driver's connection."""

import logging
from collections.abc import Sequence
from contextlib import suppress

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from serve_app.errors import InvalidMessageError, SpeechError
from serve_app.protocol.dialects import Dialect, Frame, FullDialect, RawDialect, ResearchDialect
from serve_app.protocol.messages import FullMessage, Refusal, error_message, read_presets
from serve_app.protocol.outbox import Send
from serve_app.web.answers import error_response
from serve_app.web.api_keys import SUBPROTOCOL, subprotocols
from serve_app.web.auth import Caller
from serve_app.web.context import IngressContext
from serve_app.web.session_runner import ConnectionLostError

log = logging.getLogger(__name__)


class SocketConnection:
    """A WebSocket that was accepted, as a :class:`serve_app.web.session_runner.Connection`."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket

    async def receive(self) -> Frame:
        """See :meth:`Connection.receive`."""
        try:
            message = await self._socket.receive()
        except RuntimeError as error:  # Starlette's word for a socket that is closed already
            raise ConnectionLostError from error
        if message["type"] == "websocket.disconnect":
            raise ConnectionLostError
        text = message.get("text")
        return text if text is not None else message["bytes"]

    async def send(self, frame: Frame) -> None:
        """See :meth:`Connection.send`."""
        try:
            if isinstance(frame, str):
                await self._socket.send_text(frame)
            else:
                await self._socket.send_bytes(frame)
        except (WebSocketDisconnect, RuntimeError) as error:
            raise ConnectionLostError from error

    async def close(self, code: int, reason: str) -> None:
        """See :meth:`Connection.close`."""
        states = (self._socket.client_state, self._socket.application_state)
        if states != (WebSocketState.CONNECTED, WebSocketState.CONNECTED):
            return
        try:
            await self._socket.close(code, reason)
        except (WebSocketDisconnect, RuntimeError) as error:
            raise ConnectionLostError from error


class Sockets:
    """The two WebSocket routes over one :class:`IngressContext`."""

    def __init__(self, front: IngressContext) -> None:
        self._front = front

    async def research(self, socket: WebSocket) -> None:
        """``/ws/tts``: dialect A."""
        await self._serve(socket, ResearchDialect())

    async def speak(self, socket: WebSocket) -> None:
        """``/api/v1/speak``: dialect B; its query presets the fields of ``start``, ``framing`` chooses the form."""
        query = socket.query_params.multi_items()
        framing = socket.query_params.get("framing", "full")
        fields = [item for item in query if item[0] != "framing"]
        opening: list[FullMessage | Refusal] = [read_presets(fields)] if fields else []
        if framing not in ("full", "raw"):
            error = InvalidMessageError(f'framing {framing[:40]!r} is not served; allowed: "full", "raw"')
            opening.append(Refusal(error))
        await self._serve(socket, RawDialect() if framing == "raw" else FullDialect(), opening)

    async def _serve(self, socket: WebSocket, dialect: Dialect, opening: Sequence[FullMessage | Refusal] = ()) -> None:
        if not self._front.allows(socket.headers):
            # A close before accept is a plain 403.
            await socket.close()
            return
        try:
            with self._front.admit(socket) as caller, self._front.room():
                await self._drive(socket, dialect, opening, caller)
        except SpeechError as error:
            self._front.meter.refused(error)
            await _deny(socket, dialect, error)

    async def _drive(
        self, socket: WebSocket, dialect: Dialect, opening: Sequence[FullMessage | Refusal], caller: Caller
    ) -> None:
        await _accept(socket)
        connection = SocketConnection(socket)
        try:
            driver = await self._front.driver(dialect, connection, caller, socket.headers)
            await driver.run(opening)
        except Exception:
            log.exception("a session could not be run")
            with suppress(ConnectionLostError):
                await connection.close(1011, "internal error")


async def _accept(socket: WebSocket) -> None:
    """Accept; a browser that offers subprotocols, to hand over its key, wants one of them named."""
    await socket.accept(SUBPROTOCOL if SUBPROTOCOL in subprotocols(socket.headers) else None)


async def _deny(socket: WebSocket, dialect: Dialect, error: SpeechError) -> None:
    """Refuse a socket: before accept by a status, where the server can carry one and the client can see it.

    A browser shows its page nothing of a refused handshake, so it is let in, told, and closed.
    """
    message = error_message(error, fatal=True)
    if "websocket.http.response" in socket.scope.get("extensions", {}) and "origin" not in socket.headers:
        await socket.send_denial_response(error_response(error))
        return
    await _accept(socket)
    connection = SocketConnection(socket)
    with suppress(ConnectionLostError):
        for frame in dialect.write(Send(message)):
            await connection.send(frame)
        await connection.close(error.close_code or 1011, error.code)
