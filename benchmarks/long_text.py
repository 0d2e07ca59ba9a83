"""Measures what a listener hears: silence, speaking rate, numbers; level, gaps and missing words of a long text.

    python benchmarks/long_text.py                       # all of it; fifteen minutes
    python benchmarks/long_text.py silence rate          # some of it
    python benchmarks/long_text.py long --words 1000

Starts ``configs/local.yaml`` with the demonstration voice, once for each setting that is compared. Needs
moonshine-voice (``pip install -c constraints.txt -e '.[listening]'``).

``silence``: silence before the first word, and both times to first audio, with and without the silence filter.
``rate``: paragraphs in text chunks compared with the same paragraphs in the longest chunks that the engine takes.
``numbers``: sentences with numbers, with and without ``normalize``.
``long``: a text of many words in one ``speak`` and over HTTP.
"""

import argparse
import asyncio
import http.client
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from service import MemoryWatch, Service, started

from serve_app.audio.pcm import WAV_HEADER_BYTES
from training.hearing import Recognizer, pcm16, word_errors
from training.judge import Spoken, open_socket, speak

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "local.yaml"
SENTENCES = (ROOT / "training" / "held_out.txt").read_text(encoding="utf-8").splitlines()
NUMBERS = (ROOT / "training" / "numbers.txt").read_text(encoding="utf-8").splitlines()
FIELDS = {"voice": "austen", "language": "english", "seed": 1}
RATE_HZ = 24_000
AUDIBLE_DBFS = -50.0
PARAGRAPHS = 8
SENTENCES_OF_A_PARAGRAPH = 6
SENTENCES_OF_A_MINUTE = 12
UNPACED = {
    "engine": {"max_lead_s": 60},
    "session": {"max_lead_s": 3600},
    "admission": {"stall_timeout_s": 70},
}
"""The service does not slow down to the speed of a listener."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", choices=[*CASES, []], help="default: all")
    parser.add_argument("--words", type=int, default=3000, help="length of the long text")
    options = parser.parse_args()
    recognizer = Recognizer()
    for case in options.cases or CASES:
        print(f"{case}:", flush=True)
        CASES[case](recognizer, options)


def silence(recognizer: Recognizer, _options: argparse.Namespace) -> None:
    """Compare the time to the first word with and without the silence filter."""
    for limit_s in (0.0, 0.5):
        with started(CONFIG, {"session": {"leading_silence_limit_s": limit_s}}) as service:
            said = asyncio.run(speak_all(service, SENTENCES[:40]))
        before = [first_sound_s(each.samples) * 1000 for each in said]
        told = {name: statistics.median(each.end[name] for each in said) for name in ("ttfa_ms", "audible_ms")}
        pairs = [(text, recognizer.words(each.samples, RATE_HZ)) for text, each in zip(SENTENCES, said, strict=False)]
        print(
            f"  leading_silence_limit_s {limit_s}: silence before the first word {statistics.median(before):.0f} ms"
            f" (most {max(before):.0f}), ttfa_ms {told['ttfa_ms']:.0f}, audible_ms {told['audible_ms']:.0f},"
            f" word error rate {word_errors(pairs):.1%}",
            flush=True,
        )


def rate(recognizer: Recognizer, _options: argparse.Namespace) -> None:
    """Compare the duration of paragraphs in chunks with that of the longest chunks that the engine takes."""
    size = SENTENCES_OF_A_PARAGRAPH
    texts = [" ".join(SENTENCES[start : start + size]) for start in range(0, PARAGRAPHS * size, size)]
    one_chunk = dict.fromkeys(("first_chunk_characters", "chunk_budget_characters", "longest_chunk_characters"), 600)
    settings = {
        "longest chunks": {"text": one_chunk, "engine": {"max_chunk_characters": 600}},
        "chunks": {},
        "chunks, pauses not limited": {"session": {"pause_between_chunks_s": 5}},
    }
    alone_s: list[float] = []
    for name, overrides in settings.items():
        with started(CONFIG, overrides) as service:
            said = asyncio.run(speak_all(service, texts))
        lengths_s = [each.seconds for each in said]
        alone_s = alone_s or lengths_s
        chunks = sum(message["type"] == "segment" for each in said for message in each.messages)
        heard = [recognizer.words(each.samples, RATE_HZ) for each in said]
        print(
            f"  {name}: {chunks} chunks, {sum(lengths_s):.1f} s,"
            f" {sum(lengths_s) / sum(alone_s):.3f} times as long as in the longest chunks,"
            f" word error rate {word_errors(list(zip(texts, heard, strict=True))):.1%}",
            flush=True,
        )


def numbers(recognizer: Recognizer, _options: argparse.Namespace) -> None:
    """Compare what is heard of numbers with and without normalization."""
    with started(CONFIG, {}) as service:
        for normalize in (False, True):
            said = asyncio.run(speak_all(service, NUMBERS, normalize=normalize))
            heard = [recognizer.words(each.samples, RATE_HZ) for each in said]
            rate = word_errors(list(zip(NUMBERS, heard, strict=True)))
            print(f"  normalize {normalize}: word error rate {rate:.1%} of {len(NUMBERS)} sentences", flush=True)


def long(recognizer: Recognizer, options: argparse.Namespace) -> None:
    """Speak a long text through a socket and over HTTP."""
    opening = " ".join(SENTENCES[:SENTENCES_OF_A_MINUTE])
    middle: list[str] = []
    while sum(len(each.split()) for each in [opening, opening, *middle]) < options.words:
        middle.append(SENTENCES[(SENTENCES_OF_A_MINUTE + len(middle)) % len(SENTENCES)])
    text = " ".join([opening, *middle, opening])
    with started(CONFIG, UNPACED) as service:
        assert service.pid is not None
        asyncio.run(speak_all(service, SENTENCES[:2]))  # memory that the first utterances take is not growth
        with MemoryWatch(service.pid) as memory:
            heard = asyncio.run(listen(service, text))
        print(f"  {len(text)} characters in one speak:")
        report(text, opening, heard, recognizer)
        for each in memory.figures()[:3]:
            sizes = " to ".join(f"{each[key] / 1e6:.0f}" for key in ("start_bytes", "maximum_bytes"))
            print(f"    memory of {each['name']}: {sizes} MB", flush=True)
        for path, fields, header_bytes in (
            ("/api/tts", {"text": text}, WAV_HEADER_BYTES),
            ("/v1/audio/speech", {"model": "tts-1", "input": text, "response_format": "pcm"}, 0),
        ):
            began_s = time.monotonic()
            heard = over_http(service, path, fields, header_bytes)
            took_s = time.monotonic() - began_s
            wer = word_errors([(text, recognizer.words(heard.samples, RATE_HZ))])
            print(f"    POST {path}: {len(heard.samples) / RATE_HZ:.0f} s of audio in {took_s:.0f} s, WER {wer:.1%}")
            print(
                f"      first audio after {heard.arrivals[0][0] - began_s:.2f} s, latest {late_s(heard):+.2f} s",
                flush=True,
            )


@dataclass(frozen=True, slots=True)
class Long:
    """A long utterance as it arrived.

    Attributes:
        samples: [N].
        messages: all JSON messages.
        arrivals: time of arrival of each piece of audio in seconds, and the samples until its end.
    """

    samples: NDArray[np.float64]
    messages: list[dict[str, Any]]
    arrivals: list[tuple[float, int]]


def report(text: str, opening: str, heard: Long, recognizer: Recognizer) -> None:
    """Print the figures of one long utterance; its text begins and ends with the same sentences, the opening."""
    end, total_s = heard.messages[-1], len(heard.samples) / RATE_HZ
    segments = [message for message in heard.messages if message["type"] == "segment"]
    captions = " ".join(message["text"].strip() for message in segments)
    assert end["finish_reason"] == "eos", end
    quiet_s = longest_silence_s(heard.samples)
    print(
        f"    {total_s:.0f} s of audio in {heard.arrivals[-1][0] - heard.arrivals[0][0]:.0f} s, WER"
        f" {word_errors([(text, recognizer.words(heard.samples, RATE_HZ))]):.1%}; captions"
        f" {'complete' if captions.split() == text.split() else 'INCOMPLETE'}, the last begins at"
        f" {segments[-1]['start_ms'] / 1000:.1f} s"
    )
    print(f"    longest silence {quiet_s:.2f} s; audio at most {late_s(heard):+.2f} s late (negative: in time)")
    first_ends_s = when_spoken_s(segments, total_s, len(opening) / len(text))
    last_begins_s = when_spoken_s(segments, total_s, 1 - len(opening) / len(text))
    rate = first_ends_s / (total_s - last_begins_s)
    ends = heard.samples[: round(first_ends_s * RATE_HZ)], heard.samples[round(last_begins_s * RATE_HZ) :]
    level_db = level_dbfs(ends[1]) - level_dbfs(ends[0])
    print(f"    the first {first_ends_s:.0f} s again at the end: rate {rate:.3f}, level {level_db:+.1f} dB", flush=True)


def late_s(heard: Long) -> float:
    """How late the latest audio arrived for a client that plays from the first audio on; negative: all was in time."""
    first_s = heard.arrivals[0][0]
    pairs = zip(heard.arrivals[1:], heard.arrivals, strict=False)
    return max((at_s - first_s - before / RATE_HZ for (at_s, _), (_, before) in pairs), default=0.0)


def when_spoken_s(segments: Sequence[dict[str, Any]], total_s: float, share: float) -> float:
    """Time at which a share of all characters has been spoken, evenly within a segment."""
    times = [*(segment["start_ms"] / 1000 for segment in segments), total_s]
    spoken = np.cumsum([0, *(len(segment["text"]) for segment in segments)])
    return float(np.interp(share * spoken[-1], spoken, times))


def level_dbfs(samples: NDArray[np.float64]) -> float:
    """Level of what is audible in [N] samples."""
    return float(10 * np.log10(np.mean(samples[audible(samples)] ** 2)))


def audible(samples: NDArray[np.float64]) -> NDArray[np.bool_]:
    """[N]: whether 10 ms around each sample are louder than :data:`AUDIBLE_DBFS`."""
    size = RATE_HZ // 100
    power = np.convolve(samples**2, np.ones(size) / size, "same")
    return power > 10 ** (AUDIBLE_DBFS / 10)


def first_sound_s(samples: NDArray[np.float64]) -> float:
    """Time of the first audible sample."""
    return int(np.argmax(audible(samples))) / RATE_HZ


def longest_silence_s(samples: NDArray[np.float64]) -> float:
    """Longest time without an audible sample."""
    return float(np.diff(np.flatnonzero(audible(samples))).max()) / RATE_HZ


async def speak_all(service: Service, texts: Sequence[str], **fields: object) -> list[Spoken]:
    """Speak texts one after the other on one socket, with more fields of ``speak``."""
    async with open_socket(service.address) as socket:
        return [await speak(socket, text, **FIELDS, **fields) for text in texts]


async def listen(service: Service, text: str) -> Long:
    """Speak a text, and record when its audio arrives."""
    pcm, messages, arrivals = bytearray(), list[dict[str, Any]](), list[tuple[float, int]]()
    async with open_socket(service.address) as socket:
        await socket.send(json.dumps({"type": "speak", "text": text, **FIELDS}))
        while not messages or messages[-1]["type"] not in ("complete", "error"):
            received = await socket.recv()
            if isinstance(received, bytes):
                pcm += received
                arrivals.append((time.monotonic(), len(pcm) // 2))
            else:
                messages.append(json.loads(received))
    assert messages[-1]["type"] == "complete", messages[-1]
    return Long(pcm16(bytes(pcm)), messages, arrivals)


def over_http(service: Service, path: str, fields: dict[str, str], header_bytes: int) -> Long:
    """Speak by a POST request whose body is PCM16 behind a header; there are no messages."""
    connection = http.client.HTTPConnection(service.address, timeout=1200)
    body = json.dumps({**fields, "voice": FIELDS["voice"], "language": FIELDS["language"]})
    connection.request("POST", path, body, {"content-type": "application/json"})
    answer = connection.getresponse()
    content, arrivals = bytearray(), list[tuple[float, int]]()
    while received := answer.read1(1 << 20):
        content += received
        arrivals.append((time.monotonic(), (len(content) - header_bytes) // 2))
    connection.close()
    assert answer.status == http.HTTPStatus.OK, content[:300]
    return Long(pcm16(bytes(content[header_bytes:])), [], arrivals)


CASES = {"silence": silence, "rate": rate, "numbers": numbers, "long": long}

if __name__ == "__main__":
    main()
