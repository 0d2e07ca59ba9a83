"""Measures the time to first audio of one utterance through each dialect, compared with dialect B.

    python benchmarks/dialects.py                        # two minutes
    python benchmarks/dialects.py --url 127.0.0.1:8000   # a service that is already running

Starts ``configs/local.yaml`` on a free port with the checkpoint ``tiny``. The dialects take turns on connections that
stay open, with one short text. The time is measured from the request, or from the message that ends the text, to the
first bytes of audio.
"""

import argparse
import http.client
import json
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from service import Service, started
from websockets.sync.client import ClientConnection, connect

SHORT = "It is good to hear you."
OVERRIDES = {
    "model": {"source": "tiny"},
    "session": {"leading_silence_limit_s": 0},
    "engine": {"budget_frames_per_character": 1.0, "budget_min_frames": 2},
}
"""Random weights never draw an end of speech: a text gets a frame per character."""
TARGET_MS = 2.0

Turn = Callable[[], float]
"""Speaks one text to its end and returns the seconds to its first audio."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="host and port of a running service, instead of starting one")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with ExitStack() as stack:
        if arguments.url:
            service = Service(arguments.url)
        else:
            service = stack.enter_context(started(Path("configs/local.yaml"), OVERRIDES))
        figures = measure(turns(service, stack), arguments.rounds)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


def measure(each: dict[str, Turn], rounds: int) -> dict[str, dict[str, float]]:
    """Let the dialects take turns; print and return the median of each and of its differences from dialect B."""
    names = list(each)
    taken_ms: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds + 2):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            taken_ms[name].append(1000 * each[name]())
    first = taken_ms[names[0]][2:]  # two rounds to warm up
    figures: dict[str, dict[str, float]] = {}
    print(f"  time to first audio, median of {rounds} (target: at most {TARGET_MS:g} ms more than dialect B)")
    for name in names:
        own = taken_ms[name][2:]
        more = statistics.median(ours - theirs for ours, theirs in zip(own, first, strict=True))
        figures[name] = {"median_ms": statistics.median(own), "more_ms": more}
        print(f"    {name:28s} {figures[name]['median_ms']:6.1f} ms, {more:+5.1f} ms")
    return figures


def turns(service: Service, stack: ExitStack) -> dict[str, Turn]:
    """Open a connection for each dialect; dialect B comes first."""
    voice = service.default_voice()

    def socket(path: str) -> ClientConnection:
        return stack.enter_context(connect(f"ws://{service.address}{path}", compression=None, max_size=None))

    stream = socket("/v1/audio/speech/stream")
    stream.send(json.dumps({"type": "session.config", "voice": voice, "response_format": "pcm"}))
    return {
        "dialect B": through_socket(socket("/api/v1/speak"), [{"type": "speak", "text": SHORT}], "complete"),
        "dialect B, raw framing": through_socket(
            socket("/api/v1/speak?framing=raw"), [{"type": "speak", "text": SHORT}], "audio_end"
        ),
        "dialect A": through_socket(socket("/ws/tts"), [{"text": SHORT}], "complete"),
        "speech stream": through_socket(
            stream, [{"type": "input.text", "text": SHORT}, {"type": "input.done"}], "session.done"
        ),
        "Deepgram, socket": through_socket(
            socket(f"/v1/speak?model={voice}&encoding=linear16&sample_rate=24000"),
            [{"type": "Speak", "text": SHORT}, {"type": "Flush"}],
            "Flushed",
        ),
        "OpenAI, POST": through_post(
            service, "/v1/audio/speech", {"input": SHORT, "voice": voice, "model": "tts-1", "response_format": "pcm"}
        ),
        "Deepgram, POST": through_post(
            service, f"/v1/speak?model={voice}&encoding=linear16&container=none", {"text": SHORT}
        ),
    }


def through_socket(connection: ClientConnection, messages: list[dict[str, Any]], end: str) -> Turn:
    """A turn on an open WebSocket; it ends with a message of the type ``end``."""

    def turn() -> float:
        *before, last = messages
        for message in before:
            connection.send(json.dumps(message))
        began_s, first_s = time.perf_counter(), None
        connection.send(json.dumps(last))
        while True:
            frame = connection.recv(60)
            kind = None if isinstance(frame, bytes) else json.loads(frame)["type"]
            if first_s is None and (kind == "audio" or (kind is None and frame)):
                first_s = time.perf_counter() - began_s
            if kind in {"error", "Error"}:
                raise SystemExit(f"an utterance failed: {frame!r}")
            if kind == end:
                assert first_s is not None, "there was audio"
                return first_s

    return turn


def through_post(service: Service, path: str, body: dict[str, str]) -> Turn:
    """A turn that is one request on a connection that stays open."""
    connection = http.client.HTTPConnection(service.address, timeout=60)

    def turn() -> float:
        began_s = time.perf_counter()
        connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
        answer = connection.getresponse()
        answer.read(1)
        first_s = time.perf_counter() - began_s
        rest = answer.read()
        if answer.status != 200:
            raise SystemExit(f"a request failed: {rest!r}")
        return first_s

    return turn


if __name__ == "__main__":
    main()
