"""``tts-say``: one text to a running service and back as a WAV file, with what the listener would have waited.

A client of dialect B (docs/protocol.md) and nothing else; it imports no part of the service but its WAV writer.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from websockets.exceptions import InvalidStatus, WebSocketException
from websockets.sync.client import ClientConnection, connect

from serve_app.audio import seconds, wav_file

UTTERANCE_ID = "say"
SAMPLE_BYTES = 2


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


def say(url: str, speak: dict[str, Any], timeout_s: float) -> Heard:
    """Send one ``speak`` and take all that answers it.

    Raises:
        SayError: the server refused, failed, closed, or took longer than ``timeout_s``.
    """
    deadline_s = time.monotonic() + timeout_s
    try:
        with connect(url, compression=None, max_size=None, open_timeout=timeout_s, close_timeout=1) as socket:
            return _listen(socket, speak, deadline_s)
    except TimeoutError as error:
        raise SayError(f"not done within {timeout_s:g} s") from error
    except InvalidStatus as error:
        body = error.response.body.decode(errors="replace")
        raise SayError(f"{url} answered HTTP {error.response.status_code} {body}".strip()) from error
    except (WebSocketException, OSError) as error:
        raise SayError(f"{url}: {error}") from error


def _listen(socket: ClientConnection, speak: dict[str, Any], deadline_s: float) -> Heard:
    pcm16 = bytearray()
    first_audio_s: float | None = None
    sent_s = time.monotonic()
    socket.send(json.dumps({name: value for name, value in speak.items() if value is not None}))
    while True:
        frame = socket.recv(timeout=max(0.0, deadline_s - time.monotonic()))
        now_s = time.monotonic()
        if isinstance(frame, bytes):
            if frame and first_audio_s is None:
                first_audio_s = now_s
            pcm16 += frame
            continue
        message = json.loads(frame)
        if message["type"] == "error":
            raise SayError(f"{message['code']}: {message['message']}")
        if message["type"] == "complete":
            ttfa_s = None if first_audio_s is None else first_audio_s - sent_s
            return Heard(bytes(pcm16), ttfa_s, message)


if __name__ == "__main__":
    raise SystemExit(main())
