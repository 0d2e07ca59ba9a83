"""Makes data: random sentences in random voices, spoken by the teacher.

python -m training.data STATE --shards N [--audio M]: writes STATE/data/shard-0000 and on, those that are missing, the
first M of them with their audio. A shard follows from its number alone, so several processes may share the work.
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
RARE_WORDS = 30
"""Shards, the first ones, with many rare words, so that codebooks and codec know every sound; the rest is English."""

RUN = 4
"""Sentences in a row that one voice says: a reference clip is of the voice that goes on behind it."""


def main() -> None:
    """Write the shards that are missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("state", type=Path)
    parser.add_argument("--shards", type=int, required=True, help="of 256 sentences, about 20 minutes each")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--audio", type=int, default=0, help="so many of the first ones keep their audio")
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
    voice = random_voice(rng)
    steepness = DICTIONARY if number < RARE_WORDS else ENGLISH
    while len(spoken) < SENTENCES:
        said = teacher.say(sentence(rng, steepness), voice)
        if said is None or said.durations.max() > np.iinfo(np.uint8).max:
            continue
        bands = band_features(said.samples).astype(np.float16)
        spoken.append(shards.Spoken(said.text, said.phonemes, said.durations, voice, said.pitch_codes, bands, frames))
        frames += len(bands)
        if len(spoken) % RUN == 0:
            voice = random_voice(rng)
        if keep_audio:
            audio.append(np.clip(said.samples * 32767, -32767, 32767).astype(np.int16))
    shards.write(path, spoken, np.concatenate(audio) if keep_audio else None)
    hours = frames * 0.08 / 3600
    print(f"{path.name}: {hours:.2f} h of speech in {time.monotonic() - began_s:.0f} s", flush=True)


if __name__ == "__main__":
    main()
