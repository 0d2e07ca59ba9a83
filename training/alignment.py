"""Computes which text token is spoken in which frame, from the teacher's durations, so that training need not find it.

Also finds phonemes in what a talker said.

This module is pure.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

UNKNOWN = -1


def token_words(text: str, offsets: Sequence[tuple[int, int]]) -> list[int]:
    """The word number of each token; ``offsets`` are the token's characters, including a leading space."""
    numbers: list[int] = []
    for start, end in offsets:
        stripped = len(text[start:end]) - len(text[start:end].lstrip())
        numbers.append(text[: min(start + stripped, end)].count(" "))
    return numbers


def token_of_frames(
    text: str, offsets: Sequence[tuple[int, int]], phonemes: str, spoken: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Find the token of each frame: first its word, then its place in the word by the share of phonemes spoken.

    Args:
        text: words separated by single spaces.
        offsets: characters of each token.
        phonemes: the teacher's phonemes, words separated by single spaces.
        spoken: [T], the phoneme in the middle of each frame.

    Returns:
        [T], indices of tokens; all ``UNKNOWN`` if text and phonemes have different numbers of words.
    """
    if len(text.split(" ")) != len(phonemes.split(" ")):
        return np.full(len(spoken), UNKNOWN)
    word_of_phoneme = np.cumsum([phoneme == " " for phoneme in phonemes])
    word_of_token = np.array(token_words(text, offsets))
    tokens_of = {word: np.flatnonzero(word_of_token == word) for word in np.unique(word_of_token)}
    phonemes_of = {word: np.flatnonzero(word_of_phoneme == word) for word in np.unique(word_of_phoneme)}
    found = np.full(len(spoken), UNKNOWN)
    for frame, phoneme in enumerate(spoken):
        word = int(word_of_phoneme[phoneme])
        tokens, said = tokens_of.get(word), phonemes_of[word]
        if tokens is not None:
            found[frame] = tokens[(phoneme - said[0]) * len(tokens) // len(said)]
    return found


def word_phonemes(phonemes: str) -> NDArray[np.int64]:
    """Index of the first phoneme of each word; the phonemes begin with a pause."""
    return np.array([1, *(at + 1 for at, phoneme in enumerate(phonemes) if phoneme == " ")])


def aligned(heard: Sequence[str], sounds: str) -> NDArray[np.int64]:
    """Find the path through ``sounds`` that differs least from the sounds heard in each unit.

    A unit may stay at a sound, go on to the next, or skip sounds, each of which counts as a difference.

    Returns:
        [U], the index of each unit's sound; it never decreases.
    """
    wanted, places = np.array(list(sounds)), np.arange(len(sounds))
    total = np.where(wanted == heard[0], 0.0, 1.0) + places
    came_from: list[NDArray[np.int64]] = []
    for sound in heard[1:]:
        skipping = np.minimum.accumulate(total - places) + places  # from any sound before, at one for each step
        went_on = np.r_[np.inf, skipping[:-1]]
        source = np.array([np.argmin(total[:at] - places[:at]) if at else 0 for at in places])
        stay = total <= went_on
        came_from.append(np.where(stay, places, source))
        total = np.where(stay, total, went_on) + (wanted != sound)
    path = [len(sounds) - 1]
    for source in reversed(came_from):
        path.append(int(source[path[-1]]))
    return np.array(path[::-1])
