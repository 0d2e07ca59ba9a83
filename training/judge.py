"""Speaks through a running service with the demonstration voice, listens, and prints the figures of docs/demo_voice.md.

python -m training.judge --url 127.0.0.1:8000: the held-out sentences one by one, a long text in one utterance, and
three clips of different pitch, each with its transcript and without. Needs moonshine-voice; see training/README.md.
"""

import argparse
import asyncio
import base64
import io
import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray
from websockets.asyncio.client import ClientConnection, connect

from training.hearing import Recognizer, median_pitch_hz, pcm16, word_errors

ROOT = Path(__file__).parents[1]
CLIP = ROOT / "voices" / "austen"
SPEEDS = (1.0, 1.25, 1.55)
"""The clip as it is, and the same played faster: three voices of different pitch."""

LONG_SENTENCES = 60
AT_THE_ENDS = 10
"""Sentences at the beginning and at the end of the long text whose speaking rates are compared."""

ALONE = 15
"""Sentences that are spoken alone, for the times."""

SOCKETS = 4

RATE_HZ = 24_000


@dataclass(frozen=True, slots=True)
class Spoken:
    """One utterance.

    Attributes:
        samples: [N], 24 kHz.
        messages: what the service sent beside its audio.
    """

    samples: NDArray[np.float64]
    messages: list[dict[str, Any]]

    @property
    def end(self) -> dict[str, Any]:
        """The last message."""
        return self.messages[-1]

    @property
    def seconds(self) -> float:
        """Length of the audio."""
        return len(self.samples) / RATE_HZ


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="127.0.0.1:8000", help="host and port of the service")
    parser.add_argument("--texts", type=Path, default=Path(__file__).with_name("held_out.txt"))
    parser.add_argument("--voice", default="austen")
    parser.add_argument("--details", action="store_true", help="print what was heard of each sentence")
    options = parser.parse_args()
    judge(options)


def judge(options: argparse.Namespace) -> None:
    """Print all figures."""
    texts: list[str] = options.texts.read_text(encoding="utf-8").splitlines()
    fields = {"voice": options.voice, "language": "english"}
    # Everything is spoken before anything is recognized: a recognizer that works does not answer the server's pings.
    alone = asyncio.run(speak_all(options.url, texts[:ALONE], fields))
    sentences = [*texts[: LONG_SENTENCES - AT_THE_ENDS], *texts[:AT_THE_ENDS]]
    said, long = asyncio.run(speak_together(options.url, texts, " ".join(sentences), fields))
    recognizer = Recognizer()
    heard = [recognizer.words(each.samples, RATE_HZ) for each in said]
    if options.details:
        for text, found in zip(texts, heard, strict=True):
            print(f"{text}\n  {' '.join(found)}")
    print(f"{len(texts)} sentences: word error rate {word_errors(list(zip(texts, heard, strict=True))):.1%}")
    print(f"without an end, or cut short: {sum(each.end['finish_reason'] != 'eos' for each in said)}")
    for name, unit in (("ttfa_ms", " ms"), ("audible_ms", " ms"), ("rtf", "")):
        figures = [each.end[name] for each in alone if name in each.end]
        if figures:
            print(f"{name} of a stream alone: median {statistics.median(figures):g}{unit}, most {max(figures):g}{unit}")
    report_long(sentences, long, recognizer.words(long.samples, RATE_HZ))
    asyncio.run(clones(options.url, texts[0] + " " + texts[1]))


async def speak_all(url: str, texts: list[str], fields: dict[str, str]) -> list[Spoken]:
    """Speak texts one after the other on one socket."""
    async with open_socket(url) as socket:
        return [await speak(socket, text, seed=seed, **fields) for seed, text in enumerate(texts)]


async def speak_together(url: str, texts: list[str], long: str, fields: dict[str, str]) -> tuple[list[Spoken], Spoken]:
    """Speak texts on several sockets and a long text on another, all at the same time: a session keeps to playback."""
    shares = [speak_all(url, texts[number::SOCKETS], fields) for number in range(SOCKETS)]
    *spoken, (of_long,) = await asyncio.gather(*shares, speak_all(url, [long], fields))
    return [spoken[number % SOCKETS][number // SOCKETS] for number in range(len(texts))], of_long


def report_long(sentences: list[str], spoken: Spoken, heard: list[str]) -> None:
    """Print the word errors of many sentences in one utterance, and its speaking rate at both ends.

    The last sentences are the first ones again, so that their lengths can be compared.
    """
    text, first = " ".join(sentences), " ".join(sentences[:AT_THE_ENDS])
    print(f"{len(sentences)} sentences in one utterance of {spoken.seconds:.0f} s:")
    print(f"  word error rate {word_errors([(text, heard)]):.1%}, {spoken.end['finish_reason']}")
    places, times_ms, at = list[int](), list[int](), 0
    for message in spoken.messages:
        if message["type"] == "segment":
            places.append(text.index(message["text"], at))
            times_ms.append(message["start_ms"])
            at = places[-1] + len(message["text"])
    borders = [len(first), len(text) - len(first)]
    begun_ms, last_ms = np.interp(borders, [*places, len(text)], [*times_ms, spoken.end["duration_ms"]])
    ratio = (spoken.end["duration_ms"] - last_ms) / begun_ms
    print(
        f"  its last {AT_THE_ENDS} sentences take {ratio:.2f} times as long as its first {AT_THE_ENDS}, the same ones"
    )


async def clones(url: str, text: str) -> None:
    """Print the pitch of clips, and of what is said with each."""
    samples, rate_hz = soundfile.read(CLIP / "reference.wav")
    transcript = json.loads((CLIP / "manifest.json").read_text(encoding="utf-8"))["transcript"]
    for speed in SPEEDS:
        faster_hz, file = round(rate_hz * speed), io.BytesIO()
        soundfile.write(file, samples, faster_hz, format="WAV")
        clip = base64.b64encode(file.getvalue()).decode()
        clip_hz = median_pitch_hz(samples, faster_hz)
        for mode, fields in (("with its transcript", {"voice_transcript": transcript}), ("without", {})):
            async with open_socket(url) as socket:
                await socket.send(json.dumps({"type": "start", "voice_audio": clip, **fields}))
                ready = json.loads(await socket.recv())
                assert ready["type"] == "ready", ready
                spoken = await speak(socket, text, seed=1, language="english")
            said_hz = median_pitch_hz(spoken.samples, RATE_HZ)
            print(f"pitch of a clip {clip_hz:.0f} Hz, {mode}: {said_hz:.0f} Hz, {said_hz / clip_hz - 1:+.0%}")


def open_socket(url: str) -> connect:
    """Connect to dialect B of a service."""
    return connect(f"ws://{url}/api/v1/speak", max_size=None, ping_timeout=None)


async def speak(socket: ClientConnection, text: str, **fields: Any) -> Spoken:  # noqa: ANN401 - fields of ``speak``
    """Speak one text to its end."""
    await socket.send(json.dumps({"type": "speak", "text": text, **fields}))
    pcm, messages = bytearray(), list[dict[str, Any]]()
    while not messages or messages[-1]["type"] not in ("complete", "error"):
        received = await socket.recv()
        if isinstance(received, bytes):
            pcm += received
        else:
            messages.append(json.loads(received))
    assert messages[-1]["type"] == "complete", messages[-1]
    return Spoken(pcm16(bytes(pcm)), messages)


if __name__ == "__main__":
    main()
