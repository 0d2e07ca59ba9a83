"""``tts-say``: one text to a running service and back as a file, with what the listener would have waited.

A client of dialect B (docs/protocol.md) and nothing else; it imports no part of the service but its encoders and its
words. Standard input is said as it comes. When the server's process dies under its socket it connects again, says the
same with the same seed, and drops what it has heard already.
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
from serve_app.protocol.messages import ENCODINGS, SAMPLE_RATES_HZ

UTTERANCE_ID = "say"
PIECE_BYTES = 4096
"""Most of standard input in one message."""
PLAYERS = {"ffplay": ["-loglevel", "error", "-nodisp", "-autoexit", "-"], "aplay": ["-q", "-"]}
"""What plays a WAV file from its standard input, in order of preference."""
LOST = {1001, 1006, 1012}
"""Close codes of a server that went away: the same text can be said again elsewhere."""
MAX_RECONNECTS = 10
RECONNECT_WAIT_S = 1.0


class SayError(Exception):
    """What went wrong, in words for a terminal."""


class _RestartError(Exception):
    """The server is being replaced, and has said when to connect again."""

    def __init__(self, message: dict[str, Any]) -> None:
        super().__init__(f"{message['code']}: {message['message']}")
        self.wait_s = message.get("retry_after_ms", 1000 * RECONNECT_WAIT_S) / 1000


@dataclass(frozen=True, slots=True)
class Heard:
    """What came back.

    Attributes:
        audio: the payloads of all audio chunks, one after the other.
        ttfa_s: from the sent ``speak`` to the first bytes of audio; None when there was no audio.
        complete: the server's own account.
    """

    audio: bytes
    ttfa_s: float | None
    complete: dict[str, Any]

    def summary(self) -> str:
        """One line of figures."""
        audio_s = self.complete["duration_ms"] / 1000
        ttfa = "no audio" if self.ttfa_s is None else f"TTFA {self.ttfa_s * 1000:.0f} ms"
        rtf = f"RTF {self.complete['rtf']:.3f}" if audio_s else "RTF -"
        reason, seed = self.complete["finish_reason"], self.complete["seed"]
        return f"{ttfa}, {rtf}, {audio_s:.2f} s of audio, {reason}, seed {seed}"


class Text:
    """What is to be said, growing while it is being said; said again from its beginning where it has to be."""

    def __init__(self, pieces: Sequence[str] = (), *, ended: bool = True) -> None:
        self._pieces = list(pieces)
        self._ended = ended
        self._changed = threading.Condition()

    def read(self, stream: BinaryIO) -> None:
        """Take a stream to its end, as it comes."""
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
        """The messages that say it: one where all of it is known, else one for each piece; none once given up."""
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
    """Run the command; 0 when the text was spoken, 1 when it was not."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.play and arguments.encoding not in (None, "pcm16"):
        parser.error(f"--play takes pcm16, not {arguments.encoding}")
    encoding, rate_hz = arguments.encoding or "pcm16", arguments.sample_rate or SAMPLE_RATE_HZ
    try:
        out = None if arguments.out is None else audio_file(arguments.out, encoding, rate_hz)
    except OutputError as error:
        parser.error(f"--out {error}")
    speak = {"type": "speak", "utterance_id": UTTERANCE_ID}
    speak |= {name: getattr(arguments, name) for name in ("voice", "language", "seed", "encoding", "sample_rate")}
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
    """What is done with audio that nobody plays."""
    del audio


@contextmanager
def _player(sample_rate_hz: int) -> Generator[Callable[[bytes], None]]:
    """A program that plays PCM16 as it is given, to its end.

    Raises:
        SayError: there is none on this machine.
    """
    found = next(filter(None, map(shutil.which, PLAYERS)), None)
    if found is None:
        raise SayError(f"nothing here can play; install {' or '.join(PLAYERS)}, or save with --out")
    command = [found, *PLAYERS[Path(found).name]]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as player:  # noqa: S603 - one of ours
        pipe = player.stdin
        assert pipe is not None

        def play(audio: bytes) -> None:
            with suppress(BrokenPipeError):  # the listener closed it; the text is spoken all the same
                pipe.write(audio)
                pipe.flush()

        play(wav_header(None, sample_rate_hz))
        yield play


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tts-say", description="Speak a text with a running service.")
    parser.add_argument("text", help="what to say; - says standard input as it comes")
    add_options(parser)
    parser.add_argument("--voice", help="a voice's id, name or alias; default: the server's")
    parser.add_argument("--language", help='such as "English"; default: the server\'s')
    parser.add_argument("--seed", type=int, help="the same seed gives the same audio")
    parser.add_argument("--encoding", choices=ENCODINGS, help="of the audio as it is sent; default: pcm16")
    parser.add_argument("--sample-rate", type=int, choices=SAMPLE_RATES_HZ, help="in Hz; default: 24000")
    parser.add_argument("--play", action="store_true", help=f"play pcm16 as it comes, by {' or '.join(PLAYERS)}")
    endings = ", ".join(f".{ending}" for ending in ENDINGS["pcm16"])
    parser.add_argument("--out", type=Path, metavar="FILE", help=f"file to write: {endings}; - is standard output")
    parser.add_argument("--timeout", type=float, default=300.0, metavar="S", help="for all of it; default: %(default)s")
    return parser


@dataclass(slots=True)
class _Progress:
    """What was heard so far, over all connections."""

    play: Callable[[bytes], None]
    audio: bytearray = field(default_factory=bytearray)
    sent_s: float | None = None
    first_audio_s: float | None = None


@dataclass(frozen=True, slots=True)
class Server:
    """Who is asked, and for how long.

    Attributes:
        address: of the service, with the API key.
        timeout_s: for all of it.
    """

    address: Address
    timeout_s: float


def say(server: Server, speak: dict[str, Any], text: Text, play: Callable[[bytes], None] = _silence) -> Heard:
    """Say one utterance and take all that answers it; ``play`` is given the audio as it comes.

    Raises:
        SayError: the server refused, failed, closed for good, or took longer than it may.
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
            raise SayError(f"not done within {server.timeout_s:g} s") from error
        except (WebSocketException, OSError) as error:
            if not (progress.sent_s is not None and _is_lost(error)) or attempt == MAX_RECONNECTS:
                raise SayError(_reason(server.address, error)) from error
        if speak.get("encoding") == "opus":  # two Ogg streams of the same audio differ, and cannot be put together
            progress.audio.clear()
        time.sleep(wait_s)
    raise AssertionError("the last attempt returns or raises")


def _is_lost(error: Exception) -> bool:
    """Whether the server went away, or is not back yet, rather than said no."""
    if isinstance(error, ConnectionClosed):
        return (1006 if error.rcvd is None else error.rcvd.code) in LOST
    return True


def _reason(address: Address, error: Exception) -> str:
    if isinstance(error, InvalidStatus):
        return f"{address.url}: {refusal(error.response.status_code, bytes(error.response.body))}"
    return unreachable(address, error)


def _once(server: Server, speak: dict[str, Any], text: Text, progress: _Progress, deadline_s: float) -> Heard:
    """Say it on one connection, adding to ``progress`` what it does not have yet."""
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
    """Say the text from a thread of its own, so that it is heard while more of it comes."""
    given_up = threading.Event()

    def send() -> None:
        with suppress(WebSocketException, OSError):  # whoever hears finds out
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
