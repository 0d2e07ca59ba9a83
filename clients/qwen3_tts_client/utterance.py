"""One utterance of dialect B (docs/protocol.md) on a socket of its own; it continues on another if that one is lost.

Knows no framework.
"""

import asyncio
import json
import os
import secrets
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from qwen3_tts_client.captions import UNAVAILABLE, Captions, Timed

DEFAULT_URL = "http://127.0.0.1:8000"
DEFAULT_RATE_HZ = 24_000
MAX_RECONNECTS = 10
RECONNECT_WAIT_S = 1.0
LOST = {1001, 1006, 1012}
"""Close codes of a server that went away; the same text can be sent again on a new connection."""
LEAVING = {"SERVICE_RESTART", "SESSION_TIMEOUT"}
"""Errors after which the same text can be sent again on a new connection."""
NOT_READY = {502, 503, 504}
"""Answers to a handshake while the server that replaces a lost one starts."""
NOTHING_S = 0.1
"""Silence for a text with nothing to pronounce: frameworks take an utterance without audio for a failure."""

_OWN_FIELDS = {"type", "text", "final", "utterance_id", "transport", "encoding", "sample_rate"}


Heard = Callable[[bytes | Timed], Awaitable[None]]
"""Receives PCM16, and text with its times."""
Turn = AbstractAsyncContextManager[Any]
_AT_ONCE: Turn = nullcontext()


class ServiceError(Exception):
    """The service answered with an error.

    Attributes:
        code: of docs/protocol.md.
        retry_after_s: seconds after which the same text may succeed; None if it cannot.
    """

    def __init__(self, message: Mapping[str, Any]) -> None:
        super().__init__(f"{message['code']}: {message['message']}")
        self.code: str = message["code"]
        retry_after_ms = message.get("retry_after_ms")
        self.retry_after_s: float | None = None if retry_after_ms is None else retry_after_ms / 1000


@dataclass(frozen=True, slots=True)
class Server:
    """Where the service is.

    Attributes:
        url: ``http://HOST:PORT`` (or https, ws, wss), with the route prefix of the service if it has one.
        api_key: None reads ``TTS_API_KEY``.
    """

    url: str = DEFAULT_URL
    api_key: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://", "ws://", "wss://")):
            raise ValueError(f"{self.url!r} is not an address; allowed: http://HOST:PORT (or https, ws, wss)")

    def open_socket(self, timeout_s: float) -> connect:
        """Connect to dialect B; everything that arrives is kept, so that closing never waits for a reader."""
        key = os.environ.get("TTS_API_KEY", "") if self.api_key is None else self.api_key
        headers = {"authorization": f"Bearer {key}"} if key else {}
        scheme, _, rest = self.url.rstrip("/").partition("://")
        address = f"{'wss' if scheme in ('https', 'wss') else 'ws'}://{rest}/api/v1/speak"
        options: dict[str, Any] = {"open_timeout": timeout_s, "close_timeout": 1, "max_size": None, "max_queue": None}
        return connect(
            address, additional_headers=headers, compression=None, ping_interval=10, ping_timeout=10, **options
        )


class Utterance:
    """A text that may still grow, and its speech. Cancel ``speak`` to interrupt it.

    Attributes:
        id: its ``utterance_id``, which the service's logs have too.
    """

    def __init__(self, server: Server, sample_rate_hz: int, fields: Mapping[str, Any]) -> None:
        """Prepare an utterance; ``fields`` are others of ``speak``, and None leaves one out.

        Raises:
            ValueError: a field is the plugin's own.
        """
        if own := sorted(_OWN_FIELDS & fields.keys()):
            raise ValueError(f"{', '.join(own)}: set by the plugin; allowed are the other fields of 'speak'")
        self.id = f"u{secrets.token_hex(8)}"
        given = {name: value for name, value in fields.items() if value is not None}
        # The same seed gives the same audio, so an utterance can continue on another connection.
        self._fields = {"seed": secrets.randbits(53), "sample_rate": sample_rate_hz} | given
        self._sample_rate_hz = sample_rate_hz
        self._server = server
        self._pieces: list[str] = []
        self._ended = False
        self._changed = asyncio.Event()
        self._heard_bytes = 0
        self._captions = Captions(words=bool(given.get("words")))

    def push(self, text: str) -> None:
        """Append text, cut anywhere; ignored after ``end``."""
        if text and not self._ended:
            self._pieces.append(text)
            self._changed.set()

    def end(self) -> None:
        """The text is complete."""
        self._ended = True
        self._changed.set()

    async def speak(self, heard: Heard, timeout_s: float = 10.0, turn: Turn = _AT_ONCE) -> None:
        """Speak the text to its end. Connects at once, before there is text.

        Args:
            heard: receives audio and times as they arrive, each exactly once.
            timeout_s: limit for a handshake.
            turn: entered when there is text, and left at the end.

        Raises:
            ServiceError: the service refused the text, or failed.
            WebSocketException, OSError: it could not be reached, or was lost too often.
        """
        attempt, connected = 0, False
        async with AsyncExitStack() as stack:
            while True:
                try:
                    async with self._server.open_socket(timeout_s) as socket:
                        await self._text()
                        if not connected:
                            connected = True
                            await stack.enter_async_context(turn)
                        await self._converse(socket, heard)
                        return
                except (WebSocketException, OSError, ServiceError) as error:
                    if not connected or attempt == MAX_RECONNECTS or not _is_lost(error, resumed=attempt > 0):
                        raise
                    known_s = error.retry_after_s if isinstance(error, ServiceError) else None
                # The first time at once: the listener has a few seconds of audio at most.
                await asyncio.sleep(known_s if known_s is not None else RECONNECT_WAIT_S * (attempt > 0))
                attempt += 1

    async def _text(self) -> None:
        """Wait for the first word, or the end."""
        while not (self._ended or self._has_words()):
            self._changed.clear()
            await self._changed.wait()

    def _has_words(self) -> bool:
        return any(map(str.strip, self._pieces))

    async def _converse(self, socket: ClientConnection, heard: Heard) -> None:
        if not self._has_words():
            return
        sending = asyncio.create_task(self._send(socket))
        try:
            await self._receive(socket, heard)
        finally:
            sending.cancel()
            await asyncio.wait([sending])

    async def _send(self, socket: ClientConnection) -> None:
        """Send the text from its beginning, as it grows. ``_receive`` reports a lost connection."""
        message = {"type": "speak", "utterance_id": self.id, **self._fields}
        sent, final = 0, False
        while not final:
            self._changed.clear()
            pieces, ended = self._pieces[sent:], self._ended
            sent += len(pieces)
            if ended and not pieces:
                pieces = [""]
            for number, piece in enumerate(pieces, 1):
                final = ended and number == len(pieces)
                with suppress(ConnectionClosed):
                    await socket.send(json.dumps(message | {"text": piece, "final": final}))
                message = {"type": "speak", "utterance_id": self.id}
            if not final:
                await self._changed.wait()

    async def _receive(self, socket: ClientConnection, heard: Heard) -> None:
        """Pass on what was not heard on an earlier connection, up to ``complete``."""
        known_bytes = self._heard_bytes
        self._captions.restart()
        message: dict[str, Any] = {"type": ""}
        while message["type"] != "complete":
            frame = await socket.recv()
            if isinstance(frame, bytes):
                new, known_bytes = frame[known_bytes:], max(0, known_bytes - len(frame))
                if new:
                    self._heard_bytes += len(new)
                    await heard(new)
            else:
                message = json.loads(frame)
                if message["type"] == "error" and message["code"] != UNAVAILABLE:
                    raise ServiceError(message)
                for timed in self._captions.read(message, "".join(self._pieces)):
                    await heard(timed)
        if self._heard_bytes == 0:
            await heard(bytes(2 * round(NOTHING_S * self._sample_rate_hz)))


def _is_lost(error: Exception, *, resumed: bool) -> bool:
    """Whether the same text can be sent again: the server went away, or the one that replaces it is not ready."""
    if isinstance(error, ServiceError):
        return error.code in LEAVING or (resumed and error.retry_after_s is not None)
    if isinstance(error, ConnectionClosed):
        return (1006 if error.rcvd is None else error.rcvd.code) in LOST
    if isinstance(error, InvalidStatus):
        return error.response.status_code in NOT_READY
    return True
