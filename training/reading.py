"""Training data of the talker: texts as tokens, frames as codes, and the token that each frame speaks."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from training import codes, phones, shards
from training.alignment import UNKNOWN, token_of_frames
from training.codes import Codebooks
from training.phones import PAUSE
from training.voice import Voice

_LEADING, _TRAILING = 1, 3  # silent frames to keep


@dataclass(frozen=True, slots=True)
class Reading:
    """A text and its speech.

    Attributes:
        tokens: [M].
        codes: [T, GROUPS] int64.
        spoken: [T], the token of each frame, or ``UNKNOWN``.
        voice: the voice that speaks.
        text: the text of the tokens.
    """

    tokens: NDArray[np.int64]
    codes: NDArray[np.int64]
    spoken: NDArray[np.int64]
    voice: Voice
    text: str


def silent_ends(said: Sequence[phones.Triple]) -> slice:
    """Frames to keep: speech, with one silent frame before it and three after it."""
    sounding = [number for number, triple in enumerate(said) if set(triple) != {PAUSE}]
    if not sounding:
        return slice(0, len(said))
    return slice(max(0, sounding[0] - _LEADING), sounding[-1] + 1 + _TRAILING)


class Library:
    """All shards of a directory as readings; the first one is held out."""

    def __init__(self, directory: Path, codebooks: Codebooks, tokenizer: Tokenizer) -> None:
        self._directory = directory
        self._codebooks = codebooks
        self._tokenizer = tokenizer
        self._read: dict[Path, list[Reading]] = {}

    def held(self) -> list[Reading]:
        """Held-out readings, which are never trained on."""
        return self._readings(shards.names(self._directory)[0])

    def trained(self) -> list[Reading]:
        """Readings to train on, and those among them whose shard is new since the last call."""
        return [each for path in shards.names(self._directory)[1:] for each in self._readings(path)]

    def _readings(self, path: Path) -> list[Reading]:
        if path not in self._read:
            coded = codes.read_coded(self._codebooks, path)
            self._read[path] = [self._reading(spoken, found) for spoken, found in coded]
        return self._read[path]

    def _reading(self, spoken: shards.Spoken, coded: NDArray[np.int64]) -> Reading:
        at = phones.spoken_at(spoken.durations, spoken.frames)
        kept = silent_ends(phones.triples(spoken.phonemes, at))
        encoding = self._tokenizer.encode(spoken.text, add_special_tokens=False)
        frames = token_of_frames(spoken.text, encoding.offsets, spoken.phonemes, at[:, 1])
        return Reading(np.array(encoding.ids), coded[kept], frames[kept], spoken.voice, spoken.text)


def joined(parts: Sequence[Reading], space: NDArray[np.int64]) -> Reading:
    """Concatenate readings, with ``space`` tokens between their texts; the voice is the first one's."""
    tokens: list[NDArray[np.int64]] = []
    spoken: list[NDArray[np.int64]] = []
    before = 0
    for number, part in enumerate(parts):
        if number:
            tokens.append(space)
            before += len(space)
        spoken.append(np.where(part.spoken == UNKNOWN, UNKNOWN, part.spoken + before))
        tokens.append(part.tokens)
        before += len(part.tokens)
    codes_of = np.concatenate([part.codes for part in parts])
    text = " ".join(part.text for part in parts)
    return Reading(np.concatenate(tokens), codes_of, np.concatenate(spoken), parts[0].voice, text)


def batches(readings: Sequence[Reading], frames: int, rng: random.Random) -> Iterator[list[Reading]]:
    """Endless lists of readings of similar length, each of about ``frames`` frames including padding."""
    while True:
        order = sorted(range(len(readings)), key=lambda each: len(readings[each].codes) * rng.uniform(0.85, 1.15))
        lists: list[list[Reading]] = [[]]
        longest = 0
        for each in order:
            longest = max(longest, len(readings[each].codes))
            if lists[-1] and longest * (len(lists[-1]) + 1) > frames:
                lists.append([])
                longest = len(readings[each].codes)
            lists[-1].append(readings[each])
        rng.shuffle(lists)
        yield from lists
