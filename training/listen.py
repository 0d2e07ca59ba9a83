"""Transcribes recordings with a speech recognizer, and prints word and character error rates.

python -m training.listen DIRECTORY: reads DIRECTORY/texts.json, {"name": "text"}, and DIRECTORY/name.wav for each name.
Needs moonshine-voice 0.1.0, whose package contains its model; it can be installed in a separate environment.
"""

import argparse
import json
import wave
from pathlib import Path

import numpy as np
from moonshine_voice import ModelArch, Transcriber
from moonshine_voice.utils import get_model_path

from training.scores import error_rates


def main() -> None:
    """Print the transcripts and the error rates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--quiet", action="store_true", help="print only the rates")
    options = parser.parse_args()
    texts: dict[str, str] = json.loads((options.directory / "texts.json").read_text(encoding="utf-8"))
    recognizer = Transcriber(str(get_model_path("tiny-en")), ModelArch.TINY)
    pairs: list[tuple[str, str]] = []
    for name, text in texts.items():
        heard = hear(recognizer, options.directory / f"{name}.wav")
        pairs.append((text, heard))
        if not options.quiet:
            print(f"{name}\n  said  {text}\n  heard {heard}")
    words, characters = error_rates(pairs)
    print(f"{options.directory}: {len(pairs)} recordings, WER {words:.1%}, CER {characters:.1%}")


def hear(recognizer: Transcriber, path: Path) -> str:
    """Transcribe one mono 16-bit file."""
    with wave.open(str(path)) as file:
        rate_hz = file.getframerate()
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32768
    transcript = recognizer.transcribe_without_streaming(samples.astype(np.float32).tolist(), rate_hz)
    return " ".join(line.text for line in transcript.lines)


if __name__ == "__main__":
    main()
