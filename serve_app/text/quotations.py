"""Tracks which quotations and brackets are open at a position in a text; knows nothing about sentences."""

import unicodedata
from typing import Final

QUOTATION_CHARACTERS: Final = 200
"""The mark of a quotation or bracket that is open for more characters than this is treated as stray."""

_DEEPEST_NESTING: Final = 8
_CLOSED_BY = {
    "(": ")", "[": "]", "（": "）", "［": "］", "【": "】", "《": "》", "〈": "〉", "「": "」", "『": "』",
    "｢": "｣", "«": "»", "»": "«", "“": "”", "„": "“”", '"': '"',
}  # fmt: skip
_EMOTICON_EYES = frozenset(":;=")

OPENING = frozenset(_CLOSED_BY) - {"»"}
CLOSING = frozenset("".join(_CLOSED_BY.values())) - {"«", "“"}
BEFORE_WORD = frozenset("\"'“”‘’„«»‹›([¿¡—–-―*_…") | OPENING
"""Characters that may stand between white space and the first letter of a sentence."""


def is_wide(character: str) -> bool:
    """Return whether a character is full-width, like CJK and Hangul; each is about one spoken syllable."""
    return character >= "\u1100" and unicodedata.east_asian_width(character) in "WF"


class OpenQuotations:
    """A stack of opening marks and their positions.

    ``“`` closes ``„``, and ``«`` closes a German ``»``. A straight quote opens or closes depending on the
    characters next to it. Single quotes are not tracked, because most are apostrophes.
    """

    def __init__(self) -> None:
        self._marks: list[tuple[str, int]] = []

    def __bool__(self) -> bool:
        return bool(self._marks)

    def contains(self, mark: str) -> bool:
        """Return whether an opening mark is open at any depth."""
        return any(mark == opened for opened, _ in self._marks)

    def shift(self, by: int) -> None:
        """Renumber the positions after ``by`` characters were dropped from the front of the text."""
        self._marks = [(mark, at - by) for mark, at in self._marks]

    def clear(self) -> int | None:
        """Close all marks; return the position of the outermost one, or None if no mark was open."""
        opened = self._marks[0][1] if self._marks else None
        self._marks.clear()
        return opened

    def is_stray(self, at: int) -> bool:
        """Return whether the outermost mark has been open for too long at index ``at``."""
        return bool(self._marks) and at - self._marks[0][1] > QUOTATION_CHARACTERS

    def close(self, mark: str) -> bool:
        """Close the innermost mark that ``mark`` closes, and all marks inside it; return whether there was one."""
        for depth in range(len(self._marks) - 1, -1, -1):
            if mark in _CLOSED_BY[self._marks[depth][0]]:
                del self._marks[depth:]
                return True
        return False

    def take(self, mark: str, at: int, before: str, after: str) -> None:
        """Open or close a quotation with the mark at index ``at``, given the characters next to it."""
        begins = bool(after) and not after.isspace()
        after_white_space = not before or before.isspace()
        after_gap = after_white_space or before in BEFORE_WORD
        if mark == '"':
            if (self.close(mark) and not after_white_space) or not begins:
                return
            opens = after_gap or is_wide(before)
        elif self.close(mark):
            return
        elif mark == "(":
            opens = before not in _EMOTICON_EYES
        else:
            opens = mark in OPENING or (mark == "»" and after_gap)
        if opens and len(self._marks) < _DEEPEST_NESTING:
            self._marks.append((mark, at))
