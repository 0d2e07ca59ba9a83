"""Computes when each word of a text chunk is spoken, from the character that the model speaks in each frame.

This module is pure. It does not know where a segment begins in its utterance, or at what speed it is played.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serve_app.audio.silence import leading_silence
from serve_app.speech import SAMPLES_PER_FRAME, AudioChunk
from serve_app.text.characters import is_pronounceable
from serve_app.text.quotations import is_wide

_FARTHEST = 12
"""Maximum cost of one frame, in characters: a frame that is farther from the path counts as an outlier."""


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a text chunk.

    Attributes:
        text: the word as it is written, with the punctuation around it.
        written_end: index in the written text just after the word.
        begin: index in the spoken text of its first character that is read aloud.
        end: index in the spoken text of what follows it: the next word, or punctuation.
    """

    text: str
    written_end: int
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class WordTime:
    """When a word is spoken, in samples at 24 kHz since the first sample of its segment.

    Attributes:
        word: the word.
        start_samples: its beginning.
        end_samples: its end, which is not before its beginning.
    """

    word: Word
    start_samples: int
    end_samples: int


def words_of(written: str, spoken: str) -> list[Word]:
    """Split a text into words, and find each in the text that is spoken for it.

    Words are separated by white space; in Chinese and Japanese, each character is a word. What is not read aloud
    belongs to the word before it, or to the first one. So the words together are the text, except for white space
    between them. Where the spoken text differs, its words are divided among the written ones in proportion to their
    lengths.
    """
    pieces = _pieces(written)
    places = pieces if written == spoken else _matched([written[begin:end] for begin, end in pieces], spoken)
    return [
        Word(written[begin:end], end, _first_said(spoken, *place), _after(spoken, *place))
        for (begin, end), place in zip(pieces, places, strict=True)
    ]


def _pieces(text: str) -> list[tuple[int, int]]:
    """Return the beginning and the end of each word."""
    pieces: list[tuple[int, int]] = []
    said = True
    for begin, end in _runs(text):
        now_said = is_pronounceable(text[begin:end])
        if pieces and not (said and now_said):
            pieces[-1] = (pieces[-1][0], end)
            said = said or now_said
        else:
            pieces.append((begin, end))
            said = now_said
    return pieces


def _runs(text: str) -> Iterator[tuple[int, int]]:
    """Yield the beginning and the end of each run of characters without white space, and of each unspaced character."""
    begin = None
    for at, character in enumerate(f"{text} "):
        if begin is not None and (character.isspace() or _is_unspaced(character) or _is_unspaced(text[at - 1])):
            yield begin, at
            begin = None
        if begin is None and not character.isspace():
            begin = at


def _is_unspaced(character: str) -> bool:
    """Return whether a character is written without spaces around it: it is wide, but not Hangul."""
    return is_wide(character) and not "\uac00" <= character <= "\ud7a3"


def _matched(written: Sequence[str], spoken: str) -> list[tuple[int, int]]:
    """Return, for each written word, its beginning and end in the spoken text.

    Words that are the same are found first. Written words between them share the spoken words between them.
    """
    pieces = _pieces(spoken)
    edges = [*(begin for begin, _ in pieces), len(spoken)]
    same = _common([word.lower() for word in written], [spoken[begin:end].lower() for begin, end in pieces])
    places: list[tuple[int, int]] = []
    at, said = 0, 0
    for word, piece in [*same, (len(written), len(pieces))]:
        shared = _shared([len(each) for each in written[at:word]], edges[said : piece + 1])
        if not shared and places:  # spoken words without a written one
            places[-1] = (places[-1][0], edges[piece])
        places += shared
        if word < len(written):
            places.append((edges[piece], edges[piece + 1]))
        at, said = word + 1, piece + 1
    return places


def _shared(lengths: Sequence[int], edges: Sequence[int]) -> list[tuple[int, int]]:
    """Share the text between the first and the last of ``edges`` by lengths; cut it at edges if there are enough."""
    shares = np.cumsum([0, *lengths]) / max(1, sum(lengths)) * (edges[-1] - edges[0]) + edges[0]
    if len(edges) > len(lengths):
        cuts = np.array(edges)[np.argmin(np.abs(shares[:, None] - np.array(edges)), axis=1)]
    else:
        cuts = np.rint(shares).astype(int)
    return list(itertools.pairwise(cuts.tolist()))


def _common(first: Sequence[str], second: Sequence[str]) -> list[tuple[int, int]]:
    """Return the indices of a longest common subsequence of two sequences."""
    numbers = {word: number for number, word in enumerate({*first, *second})}
    one, other = (np.array([numbers[word] for word in words], np.int64) for words in (first, second))
    lengths = np.zeros((len(first) + 1, len(second) + 1), np.int32)  # of the common subsequences of both beginnings
    for row, number in enumerate(one):
        longer = np.maximum(lengths[row, 1:], lengths[row, :-1] + (other == number))
        lengths[row + 1, 1:] = np.maximum.accumulate(longer)
    pairs: list[tuple[int, int]] = []
    row, column = len(first), len(second)
    while row and column:
        if lengths[row, column] == lengths[row - 1, column]:
            row -= 1
        elif lengths[row, column] == lengths[row, column - 1]:
            column -= 1
        else:
            row, column = row - 1, column - 1
            pairs.append((row, column))
    return pairs[::-1]


def _first_said(text: str, begin: int, end: int) -> int:
    """Return the index of the first character that is read aloud, or ``begin`` if there is none."""
    return next((at for at in range(begin, end) if is_pronounceable(text[at])), begin)


def _after(text: str, begin: int, end: int) -> int:
    """Return the index of what follows the last character that is read aloud, without white space."""
    at = next((at + 1 for at in range(end - 1, begin - 1, -1) if is_pronounceable(text[at])), end)
    while at < len(text) and text[at].isspace():
        at += 1
    return at


def monotone(looked: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return the sequence that never decreases and differs least from ``looked`` [T]; a large difference counts as 12.

    A head sometimes attends to a distant token for a frame, most often in a pause.
    """
    values = np.unique(looked)
    if not len(looked):
        return looked
    costs = np.minimum(np.abs(looked[:, None] - values), _FARTHEST)
    came_from = np.zeros(costs.shape, np.int64)
    total = costs[0]
    for frame in range(1, len(looked)):
        # The cheapest of all values up to each one, and which it is.
        cheapest = np.minimum.accumulate(total)
        new = np.r_[True, total[1:] < cheapest[:-1]]
        came_from[frame] = np.maximum.accumulate(np.where(new, np.arange(len(values)), 0))
        total = cheapest + costs[frame]
    path = np.zeros(len(looked), np.int64)
    path[-1] = np.argmin(total)
    for frame in range(len(looked) - 1, 0, -1):
        path[frame - 1] = came_from[frame, path[frame]]
    return values[path]


def times_of(
    words: Sequence[Word], looked: NDArray[np.int32], characters: int, *, complete: bool
) -> list[tuple[Word, float, float]]:
    """Return the beginning and the end of each word, in samples since the first frame.

    Args:
        words: from :func:`words_of`.
        looked: [T], the character of the spoken text that each frame speaks; -1 before the text.
        characters: length of the spoken text.
        complete: whether the frames speak all of the text. If not, words that they do not reach are left out.
    """
    path = monotone(looked)
    values, firsts = np.unique(path, return_index=True)
    # A token begins in the middle of its first frame. The token of frame 0 begins at 0: nothing is spoken before it.
    middles = np.where(firsts == 0, 0.0, firsts + 0.5) * SAMPLES_PER_FRAME
    values, middles = values[values >= 0], middles[values >= 0]
    if complete or not len(values):
        values, middles = np.append(values, characters), np.append(middles, len(looked) * SAMPLES_PER_FRAME)
    reached = [word for word in words if complete or word.begin <= values[-1]]
    begins = np.interp([word.begin for word in reached], values, middles)
    ends = np.interp([word.end for word in reached], values, middles)
    return list(zip(reached, begins.tolist(), ends.tolist(), strict=True))


class SegmentWords:
    """The words of a segment, and what its audio tells about their times.

    Attributes:
        words: its words.
    """

    def __init__(self, written: str, spoken: str, silence_level: float) -> None:
        """Begin a segment.

        Args:
            written: the text as the client wrote it.
            spoken: the text that the model is given for it.
            silence_level: see :class:`serve_app.speech.SilenceLimits`.
        """
        self.words = words_of(written, spoken)
        self._characters = len(spoken)
        self._silence_level = silence_level
        self._looked: list[NDArray[np.int32]] = []
        self._samples = 0
        self._left_out = 0
        self._onset: int | None = None

    def add(self, chunk: AudioChunk) -> None:
        """Accept the next audio chunk of the segment, which has ``spoken``."""
        assert chunk.spoken is not None, "the caller checks it"
        if not self._looked:
            # Silence is left out only in front of the first audio chunk, or at the end.
            self._left_out = max(0, len(chunk.codes) * SAMPLES_PER_FRAME - len(chunk.pcm))
        if self._onset is None:
            silent = leading_silence(chunk.pcm, self._silence_level) if len(chunk.pcm) else 0
            self._onset = None if silent == len(chunk.pcm) else self._samples + silent
        self._looked.append(chunk.spoken)
        self._samples += len(chunk.pcm)

    def times(self, *, complete: bool) -> list[WordTime]:
        """Return the times of the words so far; see :func:`times_of`. No word begins before the first sound."""
        if not self._looked:
            return []
        spoken = np.concatenate(self._looked)
        first, last = self._onset or 0, self._samples

        def placed(samples: float) -> int:
            return min(max(round(samples) - self._left_out, first), last)

        times = times_of(self.words, spoken, self._characters, complete=complete)
        return [WordTime(word, placed(begin), placed(end)) for word, begin, end in times]


class HeardText:
    """The text of an utterance with the beginning of each word, to tell which words were played."""

    def __init__(self) -> None:
        self._segments: list[tuple[str, list[WordTime]]] = []

    def add(self, written: str, times: Sequence[WordTime]) -> None:
        """Add a segment, with times of the utterance's audio."""
        self._segments.append((written, list(times)))

    def text(self, samples: int) -> str:
        """Return the text up to the last word that begins within the first ``samples`` of the audio."""
        text = ""
        for written, times in self._segments:
            begun = [each.word.written_end for each in times if each.start_samples < samples]
            if begun:
                text += " " if text and not _is_unspaced(text[-1]) else ""
                text += written[: begun[-1]]
        return text
