"""Measures the cost of encoding the audio of ten listeners, as a share of one core.

Ten encoders are fed in turn, as in an ingress, with a voice's reference clip, which is repeated. Only the CPU time of
this process counts, so other work on the machine does not matter.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import soundfile as sf
import soxr
from numpy.typing import NDArray

from serve_app.audio.encoders import encoder_for
from serve_app.config import SAMPLE_RATE_HZ
from serve_app.protocol.messages import ENCODINGS, FORMATS
from serve_app.speech import SAMPLES_PER_FRAME

CLIP = Path(__file__).parents[1] / "voices" / "austen" / "reference.wav"
TARGET = 0.05
"""Target: most of a core that ten opus streams at 24 kHz may take."""


def speech(seconds: float) -> NDArray[np.float32]:
    """The reference clip at 24 kHz, repeated to the given length: [N] float32."""
    clip, rate_hz = sf.read(CLIP, dtype="float32")
    return np.resize(soxr.resample(clip, rate_hz, SAMPLE_RATE_HZ), round(seconds * SAMPLE_RATE_HZ)).astype(np.float32)


def share_of_a_core(
    encoding: str, sample_rate_hz: int, streams: int, frames: int, seconds: float
) -> tuple[float, float]:
    """Encode ``seconds`` for each stream in audio chunks of ``frames``.

    Returns:
        CPU time over the audio's time, and kbit/s of one stream.
    """
    pcm = speech(seconds)
    size = frames * SAMPLES_PER_FRAME
    began_s = time.process_time()
    encoders = [encoder_for(encoding, sample_rate_hz) for _ in range(streams)]
    sent_bytes = 0
    for start in range(0, len(pcm), size):
        for encoder in encoders:
            sent_bytes += len(encoder.push(pcm[start : start + size]))
    sent_bytes += sum(len(encoder.flush()) for encoder in encoders)
    return (time.process_time() - began_s) / seconds, sent_bytes * 8 / seconds / streams / 1000


def main() -> int:
    """Run the command; returns 1 if opus at 24 kHz misses the target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=30.0, help="audio per stream; default: %(default)g")
    parser.add_argument("--frames", type=int, default=1, help="frames (80 ms) per audio chunk; default: %(default)d")
    parser.add_argument("--rates", default="24000", help="sample rates in Hz, with commas; default: %(default)s")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    rows: list[dict[str, float | str]] = []
    chunks = f"audio chunks of {arguments.frames * 80} ms"
    print(f"{arguments.streams} streams, {chunks}, {arguments.seconds:g} s of speech each")
    print("encoding   sample rate   share of one core   kbit/s per stream")
    for rate_hz in map(int, arguments.rates.split(",")):
        for encoding in dict.fromkeys([*ENCODINGS, *FORMATS]):
            share, kbit_s = share_of_a_core(encoding, rate_hz, arguments.streams, arguments.frames, arguments.seconds)
            print(f"{encoding:<10} {rate_hz:>11} {share * 100:>17.2f} % {kbit_s:>18.0f}", flush=True)
            rows.append({"encoding": encoding, "sample_rate_hz": rate_hz, "share": share, "kbit_s": kbit_s})
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(rows, indent=1))
    (opus, *_) = [row["share"] for row in rows if row["encoding"] == "opus"]
    assert isinstance(opus, float)
    print(f"opus: {opus * 100:.2f} % of a core; the target is {TARGET * 100:g} % or less")
    return int(opus > TARGET)


if __name__ == "__main__":
    raise SystemExit(main())
