"""Codebook 0: the phonemes of three units. This module is pure."""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

UNITS = 3
"""Units in a frame; durations of phonemes are whole numbers of them."""

LEAD = 2
"""Units by which the phonemes of a frame come before its sound, which depends on the phoneme that follows."""

PAUSE = "_"
_STRESS = "ˈˌ"
_MARKS = '!"(),.:;?—“”…→↓↗↘'

Triple = tuple[str, str, str]


def sounds(phonemes: str) -> str:
    """One character per phoneme: a stress mark counts as the phoneme after it, punctuation as a pause."""
    heard: list[str] = []
    following = PAUSE
    for phoneme in reversed(phonemes):
        if phoneme not in _STRESS:
            following = PAUSE if phoneme in _MARKS else phoneme
        heard.append(following)
    return "".join(reversed(heard))


def spoken_at(durations: NDArray[np.int64], frames: int) -> NDArray[np.int64]:
    """Index of the phoneme in each unit, ``LEAD`` after those of the frame, [frames, UNITS]; at the end, the last."""
    units = np.arange(frames * UNITS).reshape(frames, UNITS) + LEAD
    return np.minimum(np.searchsorted(np.cumsum(durations), units, side="right"), len(durations) - 1)


def triples(phonemes: str, at: NDArray[np.int64]) -> list[Triple]:
    """Return the triple of each frame; ``at`` comes from :func:`spoken_at`."""
    heard = sounds(phonemes)
    return [(heard[first], heard[second], heard[third]) for first, second, third in at]


class TripleTable:
    """Codes of triples: the most frequent ones have codes, and a rare one uses the code of the most similar of them.

    Attributes:
        listing: the triples in the order of their codes.
    """

    def __init__(self, listing: Sequence[Triple]) -> None:
        self.listing = list(listing)
        self._codes = {triple: code for code, triple in enumerate(self.listing)}

    @classmethod
    def of(cls, utterances: Iterable[list[Triple]], size: int) -> "TripleTable":
        """Build the table from the triples of utterances."""
        counts = Counter(triple for utterance in utterances for triple in utterance)
        return cls([triple for triple, _ in counts.most_common(size)])

    def __len__(self) -> int:
        return len(self.listing)

    def code(self, triple: Triple) -> int:
        """Return the code of a triple, or of the first one that differs from it least."""
        if triple not in self._codes:
            self._codes[triple] = min(
                range(len(self.listing)), key=lambda code: _difference(triple, self.listing[code])
            )
        return self._codes[triple]

    def said(self, codes: Iterable[int]) -> str:
        """Return the sounds of codes as text, each run of one sound once, without pauses and spaces."""
        run: list[str] = []
        for code in codes:
            for sound in self.listing[code]:
                if not run or run[-1] != sound:
                    run.append(sound)
        return "".join(sound for sound in run if sound not in (PAUSE, " "))


def _difference(one: Triple, other: Triple) -> float:
    """Number of different units; a phoneme that is missing or new counts for a half more."""
    return sum(a != b for a, b in zip(one, other, strict=True)) + (set(one) != set(other)) / 2
