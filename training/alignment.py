"""Which text token is spoken in which frame, from the teacher's durations: it need not be found in training. Pure."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

UNKNOWN = -1


def token_words(text: str, offsets: Sequence[tuple[int, int]]) -> list[int]:
    """Number of the word that each token belongs to; ``offsets`` are its characters, its leading space included."""
    numbers: list[int] = []
    for start, end in offsets:
        stripped = len(text[start:end]) - len(text[start:end].lstrip())
        numbers.append(text[: min(start + stripped, end)].count(" "))
    return numbers


def token_of_frames(
    text: str, offsets: Sequence[tuple[int, int]], phonemes: str, spoken: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Find the token of each frame, by word, and within a word by how far its phonemes have come.

    Args:
        text: words between single spaces.
        offsets: of its tokens.
        phonemes: of the teacher, words between single spaces.
        spoken: [T], the phoneme in the middle of each frame.

    Returns:
        [T], indices of tokens; all ``UNKNOWN`` where text and phonemes have different numbers of words.
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
