"""Files of utterances that the teacher spoke. This module does not know the teacher or the model.

A shard is NAME.json (texts, phonemes, voices), NAME.npz (numbers of all frames, concatenated), and NAME.pcm (int16 at
24 kHz, concatenated) if audio was kept.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.voice import Voice

FRAME_SAMPLES = 1920


@dataclass(frozen=True, slots=True)
class Spoken:
    """One utterance of a shard.

    Attributes:
        text: the spoken text.
        phonemes: its phonemes, one character each.
        durations: [P] int64, in the teacher's units.
        voice: the voice that spoke it.
        pitch_codes: [T] int64.
        bands: [T, features.SIZE] float16.
        first_frame: its first frame in the shard.
    """

    text: str
    phonemes: str
    durations: NDArray[np.int64]
    voice: Voice
    pitch_codes: NDArray[np.int64]
    bands: NDArray[np.float16]
    first_frame: int

    @property
    def frames(self) -> int:
        """T."""
        return len(self.pitch_codes)


def write(path: Path, spoken: Sequence[Spoken], samples: NDArray[np.int16] | None) -> None:
    """Write a shard named ``path``; its .json is written last, so a shard with a .json is complete."""
    if samples is not None:
        samples.tofile(path.with_suffix(".pcm"))
    np.savez(
        path.with_suffix(".npz"),
        frames=[each.frames for each in spoken],
        phonemes=[len(each.phonemes) for each in spoken],
        durations=np.concatenate([each.durations for each in spoken]).astype(np.uint8),
        pitch_codes=np.concatenate([each.pitch_codes for each in spoken]).astype(np.int16),
        bands=np.concatenate([each.bands for each in spoken]),
    )
    listing = [[each.text, each.phonemes, each.voice.stretch, each.voice.pitch] for each in spoken]
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(listing, ensure_ascii=False), encoding="utf-8")
    partial.rename(path.with_suffix(".json"))


def read(path: Path) -> list[Spoken]:
    """Read the shard named ``path`` without its audio."""
    listing = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    with np.load(path.with_suffix(".npz")) as arrays:
        frames, phonemes = np.cumsum(arrays["frames"]), np.cumsum(arrays["phonemes"])
        durations = np.split(arrays["durations"].astype(np.int64), phonemes[:-1])
        pitch_codes = np.split(arrays["pitch_codes"].astype(np.int64), frames[:-1])
        bands = np.split(arrays["bands"], frames[:-1])
    starts = [0, *frames[:-1].tolist()]
    return [
        Spoken(text, said, durations[i], Voice(stretch, pitch), pitch_codes[i], bands[i], starts[i])
        for i, (text, said, stretch, pitch) in enumerate(listing)
    ]


def audio(path: Path) -> NDArray[np.int16]:
    """Map the audio of the shard named ``path``."""
    return np.memmap(path.with_suffix(".pcm"), np.int16, "r")


def names(directory: Path) -> list[Path]:
    """List all complete shards of a directory, in order."""
    return sorted(path.with_suffix("") for path in directory.glob("*.json"))
