"""A client of dialect B that notes when what arrived, and what a player would have heard of it.

It knows the wire and nothing of the service behind it.
"""

import asyncio
import json
import socket
import time
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import websockets
from websockets.asyncio.client import ClientConnection
from websockets.client import ClientProtocol
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.uri import parse_uri

SAMPLE_RATE_HZ = 24_000
SAMPLE_BYTES = 2
ENDS = ("complete", "cancelled", "error")
PATH = "/api/v1/speak"
LOST = {1001, 1006, 1012}
"""Close codes of a server that went away."""
RESTART = "SERVICE_RESTART"
"""Code of the error of a server that is being replaced."""


@dataclass(frozen=True, slots=True)
class Playback:
    """What a player without a buffer of its own makes of one utterance.

    Attributes:
        underruns: how often it had nothing to play before the end.
        silent_s: for how long, all of them together.
        worst_gap_s: longest time between two arrivals; the server pauses on purpose where it is far ahead.
        duration_s: of the audio.
    """

    underruns: int
    silent_s: float
    worst_gap_s: float
    duration_s: float


@dataclass(slots=True, eq=False)
class Heard:
    """One utterance as it came.

    Attributes:
        asked_s: when ``speak`` was sent, on the clock of :func:`time.perf_counter`.
        arrivals: when how many samples came.
        pcm: all of its audio, 16-bit.
        ended_s: from ``speak`` to the message that ended it.
        end: that message.
    """

    asked_s: float
    arrivals: list[tuple[float, int]] = field(default_factory=list[tuple[float, int]])
    pcm: bytearray = field(default_factory=bytearray, repr=False)
    ended_s: float = 0.0
    end: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def wait_s(self) -> float:
        """From ``speak`` to the first bytes of audio; it has some."""
        return self.arrivals[0][0] - self.asked_s

    def slack_s(self, now_s: float) -> float:
        """What a player has left to play; it has begun."""
        played_until_s = self.arrivals[0][0]
        for at_s, samples in self.arrivals:
            played_until_s = max(played_until_s, at_s) + samples / SAMPLE_RATE_HZ
        return max(0.0, played_until_s - now_s)

    def playback(self, after_s: float = 0.0) -> Playback:
        """Play from the first arrival on, waiting wherever nothing is there; waits so soon after it do not count."""
        underruns, silent_s, played_until_s = 0, 0.0, self.arrivals[0][0]
        counted_s = played_until_s + after_s
        for at_s, samples in self.arrivals:
            if at_s > played_until_s:
                underruns += at_s > counted_s
                silent_s += max(0.0, at_s - max(played_until_s, counted_s))
                played_until_s = at_s
            played_until_s += samples / SAMPLE_RATE_HZ
        times_s = [at_s for at_s, _ in self.arrivals]
        gaps_s = [later - earlier for earlier, later in pairwise(times_s)]
        duration_s = sum(samples for _, samples in self.arrivals) / SAMPLE_RATE_HZ
        return Playback(underruns, silent_s, max(gaps_s, default=0.0), duration_s)

    @property
    def played_at_s(self) -> float:
        """When the player of :meth:`playback` is through."""
        playback = self.playback()
        return self.arrivals[0][0] + playback.duration_s + playback.silent_s


def open_socket(address: str, **options: Any) -> websockets.connect:  # noqa: ANN401 - handed on
    """A socket of dialect B; to be awaited, or used with ``async with``."""
    return websockets.connect(f"ws://{address}{PATH}", compression=None, max_size=None, **options)


async def speak(connection: ClientConnection, text: str, *, heard: Heard | None = None, **fields: Any) -> Heard:  # noqa: ANN401 - JSON
    """Say one utterance and take everything up to its end; its wait begins before the message is sent.

    Args:
        connection: open.
        text: what to say.
        heard: is filled, for who wants to look at it meanwhile; its wait began earlier.
        fields: others of the message.
    """
    heard = heard or Heard(time.perf_counter())
    await _hear(connection, heard, text, fields)
    return heard


async def _hear(connection: ClientConnection, heard: Heard, text: str, fields: dict[str, Any]) -> None:
    await connection.send(json.dumps({"type": "speak", "text": text, **fields}))
    while not heard.end:
        frame = await connection.recv()
        now_s = time.perf_counter()
        if isinstance(frame, bytes):
            if frame:
                heard.arrivals.append((now_s, len(frame) // SAMPLE_BYTES))
                heard.pcm += frame
            continue
        message = json.loads(frame)
        if message["type"] in ENDS:
            heard.end = message
            heard.ended_s = now_s - heard.asked_s


async def speak_to_the_end(address: str, text: str, *, reconnects: int = 20, **fields: Any) -> tuple[Heard, int]:  # noqa: ANN401 - JSON
    """Say one utterance on a socket of its own, as ``tts-say`` does: where the server goes away, again on another one.

    The same seed gives the same audio, so what was heard already is dropped.

    Returns:
        All of it as one, and how many sockets were lost.
    """
    whole = Heard(time.perf_counter())
    for lost in range(reconnects + 1):
        again = Heard(whole.asked_s)
        try:
            async with open_socket(address, ping_timeout=None) as connection:
                await _hear(connection, again, text, fields)
        except (ConnectionClosed, InvalidHandshake, OSError) as error:
            if isinstance(error, ConnectionClosed) and (1006 if error.rcvd is None else error.rcvd.code) not in LOST:
                raise
            _join(whole, again)
            await asyncio.sleep(1.0)
        else:
            _join(whole, again)
            if again.end.get("code") == RESTART:
                await asyncio.sleep(again.end["retry_after_ms"] / 1000)
                continue
            whole.end, whole.ended_s = again.end, again.ended_s
            return whole, lost
    raise ConnectionError(f"the server went away {reconnects + 1} times")


def _join(whole: Heard, again: Heard) -> None:
    """Add what is new in a second hearing."""
    known = len(whole.pcm) // SAMPLE_BYTES
    ends = 0
    for at_s, samples in again.arrivals:
        ends += samples
        if ends > known:
            whole.arrivals.append((at_s, min(samples, ends - known)))
    whole.pcm += again.pcm[known * SAMPLE_BYTES :]


class DeafClient:
    """Speaks and does not read: no message, no ping; the kernel's buffers fill up behind it."""

    def __init__(self, address: str) -> None:
        """Open a socket."""
        host, port = address.rsplit(":", 1)
        self._protocol = ClientProtocol(parse_uri(f"ws://{address}{PATH}"))
        self._socket = socket.create_connection((host, int(port)), timeout=20)
        self._protocol.send_request(self._protocol.connect())
        self._flush()
        self._protocol.receive_data(self._socket.recv(4096))

    def speak(self, text: str, **fields: Any) -> None:  # noqa: ANN401 - JSON
        """Ask for one utterance."""
        self._protocol.send_text(json.dumps({"type": "speak", "text": text, **fields}).encode())
        self._flush()

    def read_all(self, timeout_s: float) -> tuple[int, int | None]:
        """Read at last.

        Returns:
            The bytes that had waited, and the close code after them; None where there was none in time.
        """
        self._socket.settimeout(timeout_s)
        waited_bytes = 0
        with suppress(OSError):
            while data := self._socket.recv(1 << 16):
                waited_bytes += len(data)
                self._protocol.receive_data(data)
                self._protocol.events_received()
        self._socket.close()
        close = self._protocol.close_rcvd
        return waited_bytes, None if close is None else close.code

    def _flush(self) -> None:
        self._socket.sendall(b"".join(self._protocol.data_to_send()))
