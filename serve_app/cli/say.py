"""``tts-say``: sends one text to a running service, saves or plays the audio, and prints the time to first audio.

It is a client of dialect B (docs/protocol.md), and imports only encoders and shared definitions from the service.
Standard input is sent as it arrives. If the server goes away, the command reconnects, sends the same text with the same
seed, and drops the audio that it already has.
"""

import argparse
import codecs
import json
import os
import secrets
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.sync.client import ClientConnection, connect

from serve_app.audio.pcm import wav_header
from serve_app.cli.address import Address, add_options, given_address, refusal, unreachable
from serve_app.cli.audio_files import ENDINGS, audio_file
from serve_app.cli.outputs import STDOUT, OutputError
from serve_app.config import SAMPLE_RATE_HZ
from serve_app.errors import ServiceRestartError
from serve_app.protocol.messages import ENCODINGS, FASTEST, SAMPLE_RATES_HZ, SLOWEST

UTTERANCE_ID = "say"
PIECE_BYTES = 4096
"""Maximum number of bytes of standard input in one message."""
PLAYERS = {"ffplay": ["-loglevel", "error", "-nodisp", "-autoexit", "-"], "aplay": ["-q", "-"]}
"""Programs that play a WAV file from standard input, in order of preference."""
LOST = {1001, 1006, 1012}
"""Close codes of a server that went away; the same text can be sent again on a new connection."""
MAX_RECONNECTS = 10
RECONNECT_WAIT_S = 1.0


class SayError(Exception):
    """The command failed; the message is for a terminal."""


class _RestartError(Exception):
    """The server is shutting down, and has said when to reconnect."""

    def __init__(self, message: dict[str, Any]) -> None:
        super().__init__(f"{message['code']}: {message['message']}")
        self.wait_s = message.get("retry_after_ms", 1000 * RECONNECT_WAIT_S) / 1000


@dataclass(frozen=True, slots=True)
class Heard:
    """The result of an utterance.

    Attributes:
        audio: the payloads of all audio chunks, concatenated.
        ttfa_s: time from sending ``speak`` to the first audio bytes; None if there was no audio.
        complete: the server's ``complete`` message.
    """

    audio: bytes
    ttfa_s: float | None
    complete: dict[str, Any]

    def summary(self) -> str:
        """One line with the main numbers."""
        audio_s = self.complete["duration_ms"] / 1000
        ttfa = "no audio" if self.ttfa_s is None else f"TTFA {self.ttfa_s * 1000:.0f} ms"
        rtf = f"RTF {self.complete['rtf']:.3f}" if audio_s else "RTF -"
        reason, seed = self.complete["finish_reason"], self.complete["seed"]
        return f"{ttfa}, {rtf}, {audio_s:.2f} s of audio, {reason}, seed {seed}"


class Text:
    """The text to speak; it may still grow while it is sent, and can be sent again from the beginning."""

    def __init__(self, pieces: Sequence[str] = (), *, ended: bool = True) -> None:
        self._pieces = list(pieces)
        self._ended = ended
        self._changed = threading.Condition()

    def read(self, stream: BinaryIO) -> None:
        """Read a stream to its end, as data arrives."""
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        more = True
        while more:
            data = os.read(stream.fileno(), PIECE_BYTES)
            more = bool(data)
            with self._changed:
                piece = decoder.decode(data, final=not more)
                self._pieces += [piece] if piece else []
                self._ended = not more
                self._changed.notify_all()

    def messages(self, speak: dict[str, Any], given_up: threading.Event) -> Iterator[dict[str, Any]]:
        """The messages to send: one if the text is complete, else one per piece; stops once ``given_up`` is set."""
        if self._ended and len(self._pieces) == 1:
            yield speak | {"text": self._pieces[0]}
            return
        said, message = 0, speak | {"final": False}
        while not given_up.is_set():
            with self._changed:
                if not self._ended and len(self._pieces) == said:
                    self._changed.wait(timeout=0.2)
                pieces, ended = self._pieces[said:], self._ended
            said += len(pieces)
            if pieces:
                yield message | {"text": "".join(pieces)}
                message = {name: message[name] for name in ("type", "utterance_id", "final")}
            if ended:
                yield message | {"text": "", "final": True}
                return


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns 0 if the text was spoken, else 1."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.play and arguments.encoding not in (None, "pcm16"):
        parser.error(f"--play needs pcm16, not {arguments.encoding}")
    encoding, rate_hz = arguments.encoding or "pcm16", arguments.sample_rate or SAMPLE_RATE_HZ
    try:
        out = None if arguments.out is None else audio_file(arguments.out, encoding, rate_hz)
    except OutputError as error:
        parser.error(f"--out {error}")
    speak = {"type": "speak", "utterance_id": UTTERANCE_ID}
    fields = ("voice", "language", "seed", "encoding", "sample_rate", "speed")
    speak |= {name: getattr(arguments, name) for name in fields}
    if arguments.text == "-":
        text = Text(ended=False)
        threading.Thread(target=text.read, args=(sys.stdin.buffer,), daemon=True).start()
    else:
        text = Text([arguments.text])
    server = Server(given_address(arguments), arguments.timeout)
    try:
        with _player(rate_hz) if arguments.play else nullcontext(_silence) as play:
            heard = say(server, speak, text, play)
        if out is not None:
            out.write(heard.audio)
    except (SayError, OSError) as error:
        print(f"tts-say: {error}", file=sys.stderr)
        return 1
    print(heard.summary(), file=sys.stderr if arguments.out == STDOUT else sys.stdout)
    return 0


def _silence(audio: bytes) -> None:
    """Discard audio that is not played."""
    del audio


@contextmanager
def _player(sample_rate_hz: int) -> Generator[Callable[[bytes], None]]:
    """Start a program that plays PCM16 as it arrives, and wait for its end.

    Raises:
        SayError: no such program is installed.
    """
    found = next(filter(None, map(shutil.which, PLAYERS)), None)
    if found is None:
        raise SayError(f"no audio player found; install {' or '.join(PLAYERS)}, or save to a file with --out")
    command = [found, *PLAYERS[Path(found).name]]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as player:  # noqa: S603 - one of ours
        pipe = player.stdin
        assert pipe is not None

        def play(audio: bytes) -> None:
            with suppress(BrokenPipeError):  # the user closed the player; the text is still spoken to its end
                pipe.write(audio)
                pipe.flush()

        play(wav_header(None, sample_rate_hz))
        yield play


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tts-say", description="Speak a text with a running service.")
    parser.add_argument("text", help="text to speak; - reads standard input as it arrives")
    add_options(parser)
    parser.add_argument("--voice", help="id, name or alias of a voice; default: the server's")
    parser.add_argument("--language", help='such as "English"; default: the server\'s')
    parser.add_argument("--seed", type=int, help="the same seed gives the same audio")
    parser.add_argument("--speed", type=float, help=f"{SLOWEST:g} (slow) to {FASTEST:g} (fast); default: 1")
    parser.add_argument("--encoding", choices=ENCODINGS, help="encoding of the sent audio; default: pcm16")
    parser.add_argument("--sample-rate", type=int, choices=SAMPLE_RATES_HZ, help="in Hz; default: 24000")
    parser.add_argument("--play", action="store_true", help=f"play pcm16 as it arrives, with {' or '.join(PLAYERS)}")
    endings = ", ".join(f".{ending}" for ending in ENDINGS["pcm16"])
    parser.add_argument("--out", type=Path, metavar="FILE", help=f"output file: {endings}; - is standard output")
    parser.add_argument("--timeout", type=float, default=300.0, metavar="S", help="total time; default: %(default)s")
    return parser


@dataclass(slots=True)
class _Progress:
    """What was received so far, over all connections."""

    play: Callable[[bytes], None]
    audio: bytearray = field(default_factory=bytearray)
    sent_s: float | None = None
    first_audio_s: float | None = None


@dataclass(frozen=True, slots=True)
class Server:
    """The service to use, and the time limit.

    Attributes:
        address: address of the service, with the API key.
        timeout_s: limit for the whole utterance.
    """

    address: Address
    timeout_s: float


def say(server: Server, speak: dict[str, Any], text: Text, play: Callable[[bytes], None] = _silence) -> Heard:
    """Speak one utterance and collect the result; ``play`` receives the audio as it arrives.

    Raises:
        SayError: the server refused or failed, closed the connection for good, or took too long.
    """
    deadline_s = time.monotonic() + server.timeout_s
    speak = {name: value for name, value in speak.items() if value is not None}
    speak.setdefault("seed", secrets.randbits(53))
    progress = _Progress(play)
    for attempt in range(MAX_RECONNECTS + 1):
        wait_s = RECONNECT_WAIT_S
        try:
            return _once(server, speak, text, progress, deadline_s)
        except _RestartError as restart:
            if attempt == MAX_RECONNECTS:
                raise SayError(str(restart)) from restart
            wait_s = restart.wait_s
        except TimeoutError as error:
            raise SayError(f"not complete within {server.timeout_s:g} s") from error
        except (WebSocketException, OSError) as error:
            if not (progress.sent_s is not None and _is_lost(error)) or attempt == MAX_RECONNECTS:
                raise SayError(_reason(server.address, error)) from error
        if speak.get("encoding") == "opus":  # Ogg streams of two connections cannot be joined
            progress.audio.clear()
        time.sleep(wait_s)
    raise AssertionError("the last attempt returns or raises")


def _is_lost(error: Exception) -> bool:
    """Whether the server went away or is not back yet, as opposed to a refusal."""
    if isinstance(error, ConnectionClosed):
        return (1006 if error.rcvd is None else error.rcvd.code) in LOST
    return True


def _reason(address: Address, error: Exception) -> str:
    if isinstance(error, InvalidStatus):
        return f"{address.url}: {refusal(error.response.status_code, bytes(error.response.body))}"
    return unreachable(address, error)


def _once(server: Server, speak: dict[str, Any], text: Text, progress: _Progress, deadline_s: float) -> Heard:
    """Speak on one connection; adds only audio that ``progress`` does not have yet."""
    left_s = max(0.1, deadline_s - time.monotonic())
    key = server.address.key
    headers = {"authorization": f"Bearer {key}"} if key else {}
    options: dict[str, Any] = {"compression": None, "max_size": None, "open_timeout": left_s, "close_timeout": 1}
    with (
        connect(server.address.socket(), additional_headers=headers, **options) as socket,
        _saying(socket, speak, text, progress),
    ):
        known_bytes = len(progress.audio)
        while True:
            frame = socket.recv(timeout=max(0.0, deadline_s - time.monotonic()))
            if isinstance(frame, bytes):
                if frame and progress.first_audio_s is None:
                    progress.first_audio_s = time.monotonic()
                progress.audio += frame[known_bytes:]
                progress.play(frame[known_bytes:])
                known_bytes = max(0, known_bytes - len(frame))
                continue
            message = json.loads(frame)
            if message["type"] == "error" and message["code"] == ServiceRestartError.code:
                raise _RestartError(message)
            if message["type"] == "error":
                raise SayError(f"{message['code']}: {message['message']}")
            if message["type"] == "complete":
                first_s = progress.first_audio_s
                ttfa_s = None if first_s is None or progress.sent_s is None else first_s - progress.sent_s
                return Heard(bytes(progress.audio), ttfa_s, message)


@contextmanager
def _saying(socket: ClientConnection, speak: dict[str, Any], text: Text, progress: _Progress) -> Generator[None]:
    """Send the text from another thread, so that audio is received while more text arrives."""
    given_up = threading.Event()

    def send() -> None:
        with suppress(WebSocketException, OSError):  # the receiving side reports the error
            for message in text.messages(speak, given_up):
                progress.sent_s = progress.sent_s or time.monotonic()
                socket.send(json.dumps(message))

    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield
    finally:
        given_up.set()
        socket.close()
        sender.join()


if __name__ == "__main__":
    raise SystemExit(main())
