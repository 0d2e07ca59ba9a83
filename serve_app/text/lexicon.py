"""Replaces written words by what is spoken for them: a pure function of a text and its entries.

It sees one text chunk at a time, after cleaning and before numbers are written as words. It does not know where the
entries come from.
"""

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from serve_app.text.characters import visible
from serve_app.text.quotations import is_wide

_COMPARED = str.maketrans("\n’", " '")
_IN_NUMBERS: Final = frozenset(".,:/'-–")


@dataclass(frozen=True)
class Lexicon:
    """Entries: a written word, which may have several parts, and what is spoken for it.

    - An entry matches whole words only. Next to a Chinese, Japanese or Korean character, a word may begin and end
      anywhere, because these languages have no spaces between words or attach endings to them.
    - An entry without a capital letter matches in any case. An entry with one matches as it is written.
    - The match that begins first counts, then the longest, then the one with a capital letter. What is spoken for it is
      not searched again.

    Attributes:
        cased: the entries with a capital letter.
        uncased: the others.
    """

    cased: Mapping[str, str] = field(default_factory=dict[str, str])
    uncased: Mapping[str, str] = field(default_factory=dict[str, str])
    _lengths: dict[str, list[int]] = field(init=False, repr=False, compare=False, default_factory=dict[str, list[int]])
    """Lengths of the words that begin with a character, in lower case; the longest first."""

    def __post_init__(self) -> None:
        for length, first in sorted({(-len(word), word[0].lower()) for word in (*self.cased, *self.uncased)}):
            self._lengths.setdefault(first, []).append(-length)

    @classmethod
    def of(cls, entries: Mapping[str, str]) -> "Lexicon":
        """Return the lexicon with these entries; if two are the same word, the last one counts."""
        words = {_seen(written.translate(_COMPARED)): _seen(spoken) for written, spoken in entries.items()}
        cased = {word: spoken for word, spoken in words.items() if word != word.lower()}
        return cls(cased, {word: spoken for word, spoken in words.items() if word not in cased})

    def extended(self, entries: Mapping[str, str]) -> "Lexicon":
        """Return a lexicon with more entries. They replace those of the same word, without a capital in any case."""
        if not entries:
            return self
        more = Lexicon.of(entries)
        cased = {word: spoken for word, spoken in self.cased.items() if word.lower() not in more.uncased}
        return Lexicon({**cased, **more.cased}, {**self.uncased, **more.uncased})

    def spoken(self, text: str) -> str:
        """Return a text with every match replaced; a lexicon without entries returns it as it is.

        The result is in Unicode's normal form C, which is what the model's tokenizer reads.
        """
        if not self._lengths:
            return text
        text = unicodedata.normalize("NFC", text)
        compared = text.translate(_COMPARED)
        pieces: list[str] = []
        at = copied = 0
        while at < len(text):
            length, spoken = self._match(compared, at)
            if spoken:
                pieces += [text[copied:at], spoken]
                copied = at + length
            at += length
        return _joined([*pieces, text[copied:]])

    def _match(self, text: str, at: int) -> tuple[int, str]:
        """Return the length of the match at an index and what is spoken for it; one character without a match."""
        lengths = self._lengths.get(text[at].lower())
        if lengths and _is_edge(text, at):
            for length in lengths:
                word = text[at : at + length]
                spoken = self.cased.get(word) or self.uncased.get(word.lower())
                if spoken and len(word) == length and _is_edge(text, at + length):
                    return length, spoken
        return 1, ""


def _seen(text: str) -> str:
    """Return an entry's text as cleaning leaves it."""
    return unicodedata.normalize("NFC", " ".join(visible(text).split()))


def _joined(pieces: list[str]) -> str:
    """Join pieces, with a space where two words would touch: ``5%`` is "5 percent"."""
    text = ""
    for piece in pieces:
        text += " " if text and piece and _is_inside(text[-1], piece[0]) else ""
        text += piece
    return text


def _is_edge(text: str, at: int) -> bool:
    """Return whether a word may begin or end at an index: not inside a word, and not inside a number like ``4.5``."""
    if at in (0, len(text)):
        return True
    around = text[max(at - 2, 0) : at + 2]
    in_number = len(around) > 2 and any(
        around[mark - 1].isdigit() and around[mark] in _IN_NUMBERS and around[mark + 1].isdigit()
        for mark in range(1, len(around) - 1)
    )
    return not in_number and not _is_inside(text[at - 1], text[at])


def _is_inside(before: str, after: str) -> bool:
    """Return whether a word goes on between two characters."""
    if unicodedata.category(after)[0] == "M":
        return True
    return _in_word(before) and _in_word(after) and not (is_wide(before) or is_wide(after))


def _in_word(character: str) -> bool:
    return character.isalnum() or character == "_" or unicodedata.category(character)[0] == "M"
