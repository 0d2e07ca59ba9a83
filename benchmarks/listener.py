"""A client of dialect B that records when data arrives, and simulates what a player would have played.

It knows the protocol, and nothing else about the service.
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
"""Error code of a server that is shutting down."""


@dataclass(frozen=True, slots=True)
class Playback:
    """Playback of one utterance by a player without a buffer.

    Attributes:
        underruns: how often it ran out of audio before the end.
        silent_s: total silence of these underruns.
        worst_gap_s: longest time between two arrivals; the server pauses on purpose when it is far ahead.
        duration_s: length of the audio.
    """

    underruns: int
    silent_s: float
    worst_gap_s: float
    duration_s: float


@dataclass(slots=True, eq=False)
class Heard:
    """One utterance as it arrived.

    Attributes:
        asked_s: when ``speak`` was sent, on the clock of :func:`time.perf_counter`.
        arrivals: time and number of samples of each arrival.
        pcm: all of its audio, 16-bit.
        ended_s: time from ``speak`` to the message that ended it.
        end: that message.
    """

    asked_s: float
    arrivals: list[tuple[float, int]] = field(default_factory=list[tuple[float, int]])
    pcm: bytearray = field(default_factory=bytearray, repr=False)
    ended_s: float = 0.0
    end: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def wait_s(self) -> float:
        """Time from ``speak`` to the first audio bytes; there must be some."""
        return self.arrivals[0][0] - self.asked_s

    def slack_s(self, now_s: float) -> float:
        """Audio that a player still has to play; playback must have started."""
        played_until_s = self.arrivals[0][0]
        for at_s, samples in self.arrivals:
            played_until_s = max(played_until_s, at_s) + samples / SAMPLE_RATE_HZ
        return max(0.0, played_until_s - now_s)

    def playback(self, after_s: float = 0.0) -> Playback:
        """Play from the first arrival on, and wait when there is no audio; ignores waits within ``after_s`` of it."""
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
        """When the player of :meth:`playback` has finished."""
        playback = self.playback()
        return self.arrivals[0][0] + playback.duration_s + playback.silent_s


def open_socket(address: str, **options: Any) -> websockets.connect:  # noqa: ANN401 - handed on
    """A WebSocket of dialect B, to await or to use with ``async with``."""
    return websockets.connect(f"ws://{address}{PATH}", compression=None, max_size=None, **options)


async def speak(connection: ClientConnection, text: str, *, heard: Heard | None = None, **fields: Any) -> Heard:  # noqa: ANN401 - JSON
    """Speak one utterance and receive everything up to its end; the wait starts before the message is sent.

    Args:
        connection: an open connection.
        text: the text to speak.
        heard: filled while data arrives, for callers that watch it; its wait may have started earlier.
        fields: further fields of the message.
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
    """Speak one utterance on its own socket, and reconnect if the server goes away, as ``tts-say`` does.

    The same seed gives the same audio, so audio that was already received is dropped.

    Returns:
        The whole utterance, and the number of sockets that were lost.
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
    """Append the new part of a repeated utterance."""
    known = len(whole.pcm) // SAMPLE_BYTES
    ends = 0
    for at_s, samples in again.arrivals:
        ends += samples
        if ends > known:
            whole.arrivals.append((at_s, min(samples, ends - known)))
    whole.pcm += again.pcm[known * SAMPLE_BYTES :]


class DeafClient:
    """Speaks and does not read, not even pings, so that the kernel's buffers fill up."""

    def __init__(self, address: str) -> None:
        """Open a socket."""
        host, port = address.rsplit(":", 1)
        self._protocol = ClientProtocol(parse_uri(f"ws://{address}{PATH}"))
        self._socket = socket.create_connection((host, int(port)), timeout=20)
        self._protocol.send_request(self._protocol.connect())
        self._flush()
        self._protocol.receive_data(self._socket.recv(4096))

    def speak(self, text: str, **fields: Any) -> None:  # noqa: ANN401 - JSON
        """Request one utterance."""
        self._protocol.send_text(json.dumps({"type": "speak", "text": text, **fields}).encode())
        self._flush()

    def read_all(self, timeout_s: float) -> tuple[int, int | None]:
        """Read everything that has arrived.

        Returns:
            The number of bytes that had waited, and the close code after them; None if there was none in time.
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
