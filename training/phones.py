"""Codebook 0: the two phonemes that are spoken 20 and 60 ms into a frame. This module is pure."""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

FRAME_S = 0.08
PAUSE = "_"
_AT_S = (0.02, 0.06)
_STRESS = "ˈˌ"
_MARKS = '!"(),.:;?—“”…→↓↗↘'

Pair = tuple[str, str]


def sounds(phonemes: str) -> str:
    """One character per phoneme: a stress mark counts as the phoneme after it, punctuation as a pause."""
    heard: list[str] = []
    following = PAUSE
    for phoneme in reversed(phonemes):
        if phoneme not in _STRESS:
            following = PAUSE if phoneme in _MARKS else phoneme
        heard.append(following)
    return "".join(reversed(heard))


def spoken_at(durations: NDArray[np.int64], unit_s: float, frames: int) -> NDArray[np.int64]:
    """Index of the phoneme at each of the two places in each frame, [frames, 2]; past the end, the last phoneme."""
    ends_s = np.cumsum(durations) * unit_s
    times_s = np.arange(frames)[:, None] * FRAME_S + np.array(_AT_S)
    return np.minimum(np.searchsorted(ends_s, times_s, side="right"), len(durations) - 1)


def pairs(phonemes: str, at: NDArray[np.int64]) -> list[Pair]:
    """Return the pair of each frame; ``at`` comes from :func:`spoken_at`."""
    heard = sounds(phonemes)
    return [(heard[first], heard[second]) for first, second in at]


class PairTable:
    """Codes of pairs: the most frequent pairs have codes, and a rare pair uses the most frequent one with its ending.

    Attributes:
        listing: the pairs in the order of their codes.
    """

    def __init__(self, listing: Sequence[Pair]) -> None:
        self.listing = list(listing)
        self._codes = {pair: code for code, pair in enumerate(self.listing)}
        self._ending: dict[str, int] = {}
        for code, pair in enumerate(self.listing):
            self._ending.setdefault(pair[1], code)

    @classmethod
    def of(cls, utterances: Iterable[list[Pair]], size: int) -> "PairTable":
        """Build the table from the pairs of utterances."""
        counts = Counter(pair for utterance in utterances for pair in utterance)
        return cls([pair for pair, _ in counts.most_common(size)])

    def __len__(self) -> int:
        return len(self.listing)

    def code(self, pair: Pair) -> int:
        """Return the code of a pair."""
        found = self._codes.get(pair)
        return self._ending.get(pair[1], 0) if found is None else found

    def said(self, codes: Iterable[int]) -> str:
        """Return the sounds of codes as text, each run of one sound once, without pauses and spaces."""
        run: list[str] = []
        for code in codes:
            for sound in self.listing[code]:
                if not run or run[-1] != sound:
                    run.append(sound)
        return "".join(sound for sound in run if sound not in (PAUSE, " "))
