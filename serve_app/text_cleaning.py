"""Owns the removal of what cannot be spoken; knows nothing of sentences, chunks or audio."""

import unicodedata
from dataclasses import dataclass
from typing import Final, Literal

from serve_app.markdown import MarkdownStripper

_CLOSING_MARKS = frozenset(".,;:!?…)]}»”’%。，、；：！？）】》」』")
_ZERO_WIDTH_JOINER: Final = "\u200d"
_SILENT_RANGES = (
    (0x200D, 0x200D),  # joins emoji into one
    (0x20E3, 0x20E3),  # keycap
    (0x2190, 0x21FF),  # arrows
    (0x2300, 0x23FF),  # technical
    (0x2500, 0x27BF),  # boxes, blocks, shapes, pictures, dingbats
    (0x2900, 0x297F),  # arrows
    (0x2B00, 0x2BFF),  # arrows, stars
    (0xFE0E, 0xFE0F),  # text or picture style
    (0x1F000, 0x1FAFF),  # emoji, flags, cards, skin tones
)


@dataclass(frozen=True)
class TextCleaning:
    """What to remove from text before it is spoken.

    Control and zero-width characters always go, and white space is always collapsed: a run becomes one
    space, one line feed or two. Numbers, dates and units are left to the model.
    """

    markdown: bool = True
    emoji: Literal["drop", "keep"] = "drop"
    """``drop`` removes pictures and symbols no one says: emoji, arrows, boxes, stars, dingbats."""


class Cleaner:
    """Cleans one utterance's text, pushed in any pieces.

    Any way to split a text into pushes, with one flush at the end, gives the same text. Cleaning holds
    back only what a following character may change; white space stays behind until a word follows.
    """

    def __init__(self, cleaning: TextCleaning) -> None:
        self._drops_emoji = cleaning.emoji == "drop"
        self._markdown = MarkdownStripper() if cleaning.markdown else None
        self._gap = ""  # white space not returned yet
        self._line_feeds = 2  # returned since the last visible character; none may begin the text
        self._dropped = False  # a symbol was, since the last visible character
        self._ends_in_symbol = False  # the last visible character may be joined to an emoji

    def push(self, text: str) -> str:
        """Take more text; return the cleaned text that no further text can change."""
        text = self._without_invisible(text)
        return self._spoken(self._markdown.push(text) if self._markdown else text)

    def flush(self) -> str:
        """Return what was held back; the next push goes on in the same utterance."""
        return self._spoken(self._markdown.flush()) if self._markdown else ""

    def _without_invisible(self, text: str) -> str:
        if text.isprintable():
            return text
        return "".join(_visible(character) for character in text)

    def _spoken(self, text: str) -> str:
        pieces: list[str] = []
        for character in text:
            if character == "\n":
                pieces.append(self._line_feed())
            elif character.isspace():
                self._gap = " "
            elif character == _ZERO_WIDTH_JOINER and not (self._ends_in_symbol and not self._gap):
                continue
            elif self._drops_emoji and _is_silent(character):
                self._gap, self._dropped = " ", True
            else:
                pieces.append(self._after_gap(character) + character)
                self._ends_in_symbol = _is_silent(character)
        return "".join(pieces)

    def _line_feed(self) -> str:
        self._gap = ""
        if self._line_feeds == 2:
            return ""
        self._line_feeds += 1
        return "\n"

    def _after_gap(self, character: str) -> str:
        shown = self._gap and not self._line_feeds and not (self._dropped and character in _CLOSING_MARKS)
        self._gap, self._line_feeds, self._dropped = "", 0, False
        return " " if shown else ""


def _visible(character: str) -> str:
    if character in "\n\u2028\u2029\x85\v\f":
        return "\n"
    if character.isspace():
        return " "
    invisible = unicodedata.category(character) in {"Cc", "Cf", "Cs", "Co"}
    return "" if invisible and character != _ZERO_WIDTH_JOINER else character


def _is_silent(character: str) -> bool:
    code = ord(character)
    return code >= 0x200D and any(first <= code <= last for first, last in _SILENT_RANGES)
