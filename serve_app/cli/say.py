"""``tts-say``: one text to a running service and back as a WAV file, with what the listener would have waited.

A client of dialect B (docs/protocol.md) and nothing else; it imports no part of the service but its WAV writer. When
the server's process dies under its socket it connects again, says the same with the same seed, and drops what it has
heard already.
"""

import argparse
import json
import secrets
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.sync.client import connect

from serve_app.audio import seconds, wav_file

UTTERANCE_ID = "say"
SAMPLE_BYTES = 2
LOST = {1001, 1006, 1012}
"""Close codes of a server that went away: the same text can be said again elsewhere."""
MAX_RECONNECTS = 10
RECONNECT_WAIT_S = 1.0


class SayError(Exception):
    """What went wrong, in words for a terminal."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What came back.

    Attributes:
        pcm16: the audio, little endian, mono, 24 kHz.
        ttfa_s: from the sent ``speak`` to the first bytes of audio; None when there was no audio.
        complete: the server's own account.
    """

    pcm16: bytes
    ttfa_s: float | None
    complete: dict[str, Any]

    def summary(self) -> str:
        """One line of figures."""
        audio_s = seconds(len(self.pcm16) // SAMPLE_BYTES)
        ttfa = "no audio" if self.ttfa_s is None else f"TTFA {self.ttfa_s * 1000:.0f} ms"
        rtf = f"RTF {self.complete['rtf']:.3f}" if audio_s else "RTF -"
        reason, seed = self.complete["finish_reason"], self.complete["seed"]
        return f"{ttfa}, {rtf}, {audio_s:.2f} s of audio, {reason}, seed {seed}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 when the text was spoken, 1 when it was not."""
    arguments = _parser().parse_args(argv)
    text = sys.stdin.read() if arguments.text == "-" else arguments.text
    speak = {"type": "speak", "text": text, "utterance_id": UTTERANCE_ID}
    speak |= {name: getattr(arguments, name) for name in ("voice", "language", "seed")}
    try:
        heard = say(arguments.url, speak, arguments.timeout)
        if arguments.out is not None:
            arguments.out.write_bytes(wav_file(heard.pcm16))
    except (SayError, OSError) as error:
        print(f"tts-say: {error}", file=sys.stderr)
        return 1
    print(heard.summary())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tts-say", description="Speak a text with a running service.")
    parser.add_argument("text", help="what to say; - reads standard input")
    parser.add_argument("--url", default="ws://127.0.0.1:8000/api/v1/speak", help="default: %(default)s")
    parser.add_argument("--voice", help="a voice's id; default: the server's")
    parser.add_argument("--language", help='such as "English"; default: the server\'s')
    parser.add_argument("--seed", type=int, help="the same seed gives the same audio")
    parser.add_argument("--out", type=Path, metavar="FILE", help="WAV file to write")
    parser.add_argument("--timeout", type=float, default=300.0, metavar="S", help="for all of it; default: %(default)s")
    return parser


@dataclass(slots=True)
class _Progress:
    """What was heard so far, over all connections."""

    pcm16: bytearray = field(default_factory=bytearray)
    sent_s: float | None = None
    first_audio_s: float | None = None


def say(url: str, speak: dict[str, Any], timeout_s: float) -> Heard:
    """Send one ``speak`` and take all that answers it.

    Raises:
        SayError: the server refused, failed, closed for good, or took longer than ``timeout_s``.
    """
    deadline_s = time.monotonic() + timeout_s
    speak = {name: value for name, value in speak.items() if value is not None}
    speak.setdefault("seed", secrets.randbits(53))
    progress = _Progress()
    for attempt in range(MAX_RECONNECTS + 1):
        try:
            return _once(url, speak, progress, deadline_s)
        except TimeoutError as error:
            raise SayError(f"not done within {timeout_s:g} s") from error
        except (WebSocketException, OSError) as error:
            if not (progress.sent_s is not None and _is_lost(error)) or attempt == MAX_RECONNECTS:
                raise SayError(_reason(url, error)) from error
        time.sleep(RECONNECT_WAIT_S)
    raise AssertionError("the last attempt returns or raises")


def _is_lost(error: Exception) -> bool:
    """Whether the server went away, or is not back yet, rather than said no."""
    if isinstance(error, ConnectionClosed):
        return (1006 if error.rcvd is None else error.rcvd.code) in LOST
    return True


def _reason(url: str, error: Exception) -> str:
    if isinstance(error, InvalidStatus):
        body = error.response.body.decode(errors="replace")
        return f"{url} answered HTTP {error.response.status_code} {body}".strip()
    return f"{url}: {error}"


def _once(url: str, speak: dict[str, Any], progress: _Progress, deadline_s: float) -> Heard:
    """Say it on one connection, adding to ``progress`` what it does not have yet."""
    left_s = max(0.1, deadline_s - time.monotonic())
    with connect(url, compression=None, max_size=None, open_timeout=left_s, close_timeout=1) as socket:
        known_bytes = len(progress.pcm16)
        progress.sent_s = progress.sent_s or time.monotonic()
        socket.send(json.dumps(speak))
        while True:
            frame = socket.recv(timeout=max(0.0, deadline_s - time.monotonic()))
            if isinstance(frame, bytes):
                if frame and progress.first_audio_s is None:
                    progress.first_audio_s = time.monotonic()
                progress.pcm16 += frame[known_bytes:]
                known_bytes = max(0, known_bytes - len(frame))
                continue
            message = json.loads(frame)
            if message["type"] == "error":
                raise SayError(f"{message['code']}: {message['message']}")
            if message["type"] == "complete":
                first_s = progress.first_audio_s
                ttfa_s = None if first_s is None else first_s - progress.sent_s
                return Heard(bytes(progress.pcm16), ttfa_s, message)


if __name__ == "__main__":
    raise SystemExit(main())
