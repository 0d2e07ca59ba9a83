"""Generates data: random sentences in random voices, spoken by the teacher.

python -m training.data STATE --shards N [--audio M]: writes the missing shards STATE/data/shard-0000 and so on; the
first M of them keep their audio. A shard's content depends only on its number, so several processes can share the work.
"""

import argparse
import random
import time
from pathlib import Path

import numpy as np

from training import shards
from training.features import band_features
from training.sentences import DICTIONARY, ENGLISH, sentence
from training.teacher import Teacher
from training.voice import random_voice

SENTENCES = 256
DEEP_VOICES = 64
"""Shard from which on every other voice is a deep one."""

RARE_WORDS = 30
"""The first shards have many rare words, so that codebooks and codec learn every sound; the rest is English."""

RUN = 4
"""Consecutive sentences of one voice: a reference clip must have the voice that continues after it."""


def main() -> None:
    """Write the missing shards."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("state", type=Path)
    parser.add_argument("--shards", type=int, required=True, help="number of shards of 256 sentences, about 20 minutes")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--audio", type=int, default=0, help="shards before this one keep their audio")
    options = parser.parse_args()
    directory: Path = options.state / "data"
    directory.mkdir(parents=True, exist_ok=True)
    teacher = Teacher()
    for number in range(options.first, options.shards):
        path = directory / f"shard-{number:04}"
        if not path.with_suffix(".json").exists():
            _write_shard(teacher, path, number, keep_audio=number < options.audio)


def _write_shard(teacher: Teacher, path: Path, number: int, *, keep_audio: bool) -> None:
    began_s = time.monotonic()
    rng = random.Random(number)
    spoken: list[shards.Spoken] = []
    audio: list[np.ndarray] = []
    frames = 0
    deep = number >= DEEP_VOICES
    voice = random_voice(rng, deep=deep)
    steepness = DICTIONARY if number < RARE_WORDS else ENGLISH
    while len(spoken) < SENTENCES:
        said = teacher.say(sentence(rng, steepness), voice)
        if said is None or said.durations.max() > np.iinfo(np.uint8).max:
            continue
        bands = band_features(said.samples).astype(np.float16)
        spoken.append(shards.Spoken(said.text, said.phonemes, said.durations, voice, said.pitch_codes, bands, frames))
        frames += len(bands)
        if len(spoken) % RUN == 0:
            voice = random_voice(rng, deep=deep and len(spoken) % (2 * RUN) == 0)
        if keep_audio:
            audio.append(np.clip(said.samples * 32767, -32767, 32767).astype(np.int16))
    shards.write(path, spoken, np.concatenate(audio) if keep_audio else None)
    hours = frames * 0.08 / 3600
    print(f"{path.name}: {hours:.2f} h of speech in {time.monotonic() - began_s:.0f} s", flush=True)


if __name__ == "__main__":
    main()
