"""Sends each arrival at its time, on its own socket, and records the result.

The load is an open loop: arrivals do not wait for earlier ones, so a slow service gets the same load. This module
implements a client of dialect B (docs/protocol.md), and knows nothing else about the service.
"""

import asyncio
import errno
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from serve_app.cli.load.arrivals import Arrival
from serve_app.cli.load.figures import COMPLETE, NOT_SENT, Utterance
from serve_app.cli.load.player import FirstSound, heard_at_s, play

SAMPLE_BYTES = 2
MS_SAMPLES = 24
LOST_AUDIO = "LOST_AUDIO"
"""The amount of audio that arrived differs from what the service reports."""
TIMEOUT = "TIMEOUT"
BAD_ANSWER = "BAD_ANSWER"
"""The server that answers is not this service."""
CANCELLED = "CANCELLED"


@dataclass(frozen=True, slots=True)
class Target:
    """The service to load, and the clients' parameters.

    Attributes:
        url: URL of a WebSocket of dialect B.
        key: API key; empty for none.
        max_sessions: concurrent sockets; arrivals beyond that are not sent.
        timeout_s: per arrival, from connecting to the last message.
        buffer_s: buffer of the simulated players.
    """

    url: str
    key: str
    max_sessions: int
    timeout_s: float
    buffer_s: float


@dataclass(slots=True)
class _PlaybackStats:
    """Playback of one utterance while it arrives; times as in :func:`time.perf_counter`. Audio is not kept."""

    began_s: float
    open_s: float | None = None
    asked_s: float | None = None
    pieces: list[tuple[float, int]] = field(default_factory=list[tuple[float, int]])
    sound: FirstSound = field(default_factory=FirstSound)

    def take(self, now_s: float, pcm: bytes) -> None:
        """Process one binary frame; the last frame of an utterance is empty."""
        if pcm:
            self.pieces.append((now_s, len(pcm) // SAMPLE_BYTES))
            self.sound.push(pcm)

    def result(self, due_s: float, load_began_s: float, code: str, ended_s: float, buffer_s: float) -> Utterance:
        """Summarize the utterance."""
        found = self.sound.sample
        audible_s = None if found is None else heard_at_s(self.pieces, found)
        playback = play(self.pieces, buffer_s=buffer_s, ended_s=ended_s)
        asked_s = self.asked_s
        return Utterance(
            at_s=due_s,
            code=code,
            late_s=max(0.0, self.began_s - load_began_s - due_s),
            connect_s=None if self.open_s is None else self.open_s - self.began_s,
            ttfa_s=None if asked_s is None or not self.pieces else self.pieces[0][0] - asked_s,
            audible_s=None if asked_s is None or audible_s is None else audible_s - asked_s,
            e2e_s=None if asked_s is None else ended_s - asked_s,
            samples=sum(samples for _, samples in self.pieces),
            underruns=playback.underruns,
            silent_s=playback.silent_s,
        )


async def load(arrivals: Sequence[Arrival], target: Target) -> list[Utterance]:
    """Send each arrival at its time, wait until all have ended, and return the results in the order of arrival."""
    began_s = time.perf_counter()
    running: set[asyncio.Task[Utterance]] = set()
    outcomes: list[asyncio.Task[Utterance] | Utterance] = []
    async with asyncio.TaskGroup() as group:
        for arrival in arrivals:
            await asyncio.sleep(max(0.0, began_s + arrival.at_s - time.perf_counter()))
            if len(running) >= target.max_sessions:
                outcomes.append(Utterance(arrival.at_s, NOT_SENT))
                continue
            task = group.create_task(_hear(arrival, target, began_s))
            running.add(task)
            task.add_done_callback(running.discard)
            outcomes.append(task)
    return [outcome if isinstance(outcome, Utterance) else outcome.result() for outcome in outcomes]


async def _hear(arrival: Arrival, target: Target, load_began_s: float) -> Utterance:
    """Run one arrival, from its handshake to its end or failure."""
    playback = _PlaybackStats(time.perf_counter())
    try:
        async with asyncio.timeout(target.timeout_s):
            code = await _speak(arrival, target, playback)
    except (WebSocketException, OSError, ValueError, TypeError, KeyError) as error:  # TimeoutError is an OSError
        code = code_of(error)
    return playback.result(arrival.at_s, load_began_s, code, time.perf_counter(), target.buffer_s)


async def _speak(arrival: Arrival, target: Target, playback: _PlaybackStats) -> str:
    headers = {"authorization": f"Bearer {target.key}"} if target.key else {}
    options: dict[str, Any] = {"compression": None, "max_size": None, "ping_interval": None, "close_timeout": 1}
    async with connect(target.url, additional_headers=headers, open_timeout=None, **options) as socket:
        playback.open_s = time.perf_counter()
        playback.asked_s = playback.open_s
        await socket.send(json.dumps(arrival.message()))
        while True:
            frame = await socket.recv()
            if isinstance(frame, bytes):
                playback.take(time.perf_counter(), frame)
                continue
            message = json.loads(frame)
            if message["type"] == "complete":
                return _code_of_end(message, playback)
            if message["type"] == "error":
                return str(message["code"])
            if message["type"] == "cancelled":
                return CANCELLED


def _code_of_end(complete: dict[str, Any], playback: _PlaybackStats) -> str:
    """COMPLETE if as much audio arrived as the service reports, else LOST_AUDIO."""
    came = sum(samples for _, samples in playback.pieces)
    return COMPLETE if abs(came / MS_SAMPLES - complete["duration_ms"]) <= 1 else LOST_AUDIO


def code_of(error: Exception) -> str:
    """A short code for an error that ended an utterance, used to count errors."""
    if isinstance(error, InvalidStatus):
        return f"HTTP_{error.response.status_code}"
    if isinstance(error, ConnectionClosed):
        return f"CLOSED_{1006 if error.rcvd is None else error.rcvd.code}"
    if isinstance(error, TimeoutError):
        return TIMEOUT
    if isinstance(error, OSError):
        return errno.errorcode.get(error.errno or 0, type(error).__name__)
    return BAD_ANSWER
