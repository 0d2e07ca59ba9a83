"""Training data of the talker: texts as tokens, frames as codes, and the token that each frame speaks."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from training import codes, phones, shards
from training.alignment import UNKNOWN, token_of_frames
from training.codes import Codebooks
from training.phones import PAUSE
from training.voice import Voice

_LEADING, _BETWEEN, _TRAILING = 4, 1, 3  # silent frames to keep: at the beginning, before a next text, at the end


@dataclass(frozen=True, slots=True)
class Reading:
    """A text and its speech.

    Attributes:
        tokens: [M].
        codes: [T, GROUPS] int64.
        spoken: [T], the token of each frame, or ``UNKNOWN``.
        voice: the voice that speaks.
        text: the text of the tokens.
        silent: silent frames before its speech.
        heard: [T, GROUPS], codes to read instead of ``codes``: the codec's encoder found them in a recording.
        given: frames that are only read: the silence after a reference clip, which a talker should not learn to make.
    """

    tokens: NDArray[np.int64]
    codes: NDArray[np.int64]
    spoken: NDArray[np.int64]
    voice: Voice
    text: str
    silent: int = 0
    heard: NDArray[np.int64] | None = None
    given: range = range(0)


def silent_ends(said: Sequence[phones.Triple]) -> slice:
    """Frames to keep: speech, with four silent frames before it and three after it.

    Text comes one token a frame, so a talker that begins with silence knows the next words when it speaks the first.
    """
    sounding = _sounding(said)
    if not sounding:
        return slice(0, len(said))
    return slice(max(0, sounding[0] - _LEADING), sounding[-1] + 1 + _TRAILING)


def _sounding(said: Sequence[phones.Triple]) -> list[int]:
    return [number for number, triple in enumerate(said) if set(triple) != {PAUSE}]


class Library:
    """All shards of a directory as readings; the first one is held out."""

    def __init__(self, directory: Path, codebooks: Codebooks, tokenizer: Tokenizer) -> None:
        self._directory = directory
        self._codebooks = codebooks
        self._tokenizer = tokenizer
        self._read: dict[Path, list[Reading]] = {}

    def held(self) -> list[Reading]:
        """Held-out readings, which are never trained on."""
        return [replace(each, heard=None) for each in self._readings(shards.names(self._directory)[0])]

    def trained(self) -> list[Reading]:
        """Readings to train on, and those among them whose shard is new since the last call."""
        return [each for path in shards.names(self._directory)[1:] for each in self._readings(path)]

    def _readings(self, path: Path) -> list[Reading]:
        if path not in self._read:
            coded = codes.read_coded(self._codebooks, path)
            heard: list[NDArray[np.int64]] | list[None] = [None] * len(coded)
            if codes.heard_path(path).exists():
                ends = np.cumsum([each.frames for each, _ in coded])[:-1]
                heard = np.split(np.load(codes.heard_path(path)).astype(np.int64), ends)
            self._read[path] = [self._reading(*each, found) for each, found in zip(coded, heard, strict=True)]
        return self._read[path]

    def _reading(self, spoken: shards.Spoken, coded: NDArray[np.int64], heard: NDArray[np.int64] | None) -> Reading:
        at = phones.spoken_at(spoken.durations, spoken.frames)
        said = phones.triples(spoken.phonemes, at)
        kept = silent_ends(said)
        encoding = self._tokenizer.encode(spoken.text, add_special_tokens=False)
        frames = token_of_frames(spoken.text, encoding.offsets, spoken.phonemes, at[:, 1])
        silent = next(iter(_sounding(said)), 0) - kept.start
        heard = None if heard is None else heard[kept]
        return Reading(np.array(encoding.ids), coded[kept], frames[kept], spoken.voice, spoken.text, silent, heard)


def joined(
    parts: Sequence[Reading], space: NDArray[np.int64], *, recorded: bool = False, silence: int = _BETWEEN
) -> Reading:
    """Concatenate readings, with ``space`` tokens between their texts; the voice is the first one's.

    Args:
        parts: at least one. Of the silence before each but the first, one frame is kept.
        space: [S], tokens; may be empty.
        recorded: read the first of several as a reference clip is read: by the codes that the codec's encoder found in
            a recording, if there are any.
        silence: frames of silence before the second.
    """
    first, *others = parts
    tokens, before = [first.tokens], len(first.tokens)
    codes_of, spoken = [first.codes], [first.spoken]
    read = [first.heard if recorded and others and first.heard is not None else first.codes]
    given = range(0)
    for number, part in enumerate(others):
        wanted = silence if number == 0 else _BETWEEN
        left_out = max(0, part.silent - wanted)
        repeated = max(0, wanted - part.silent) if part.silent else 0  # the first frame is silent then
        order = np.r_[np.zeros(repeated, int), left_out : len(part.codes)]
        if number == 0:
            kept = part.silent - left_out + repeated
            given = range(len(first.codes), len(first.codes) + max(0, kept - _BETWEEN))
        tokens += [space, part.tokens]
        before += len(space)
        codes_of.append(part.codes[order])
        read.append(part.codes[order])
        spoken.append(np.where(part.spoken == UNKNOWN, UNKNOWN, part.spoken + before)[order])
        before += len(part.tokens)
    return Reading(
        tokens=np.concatenate(tokens),
        codes=np.concatenate(codes_of),
        spoken=np.concatenate(spoken),
        voice=first.voice,
        text=" ".join(part.text for part in parts),
        silent=first.silent,
        heard=np.concatenate(read) if recorded else None,
        given=given,
    )


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
