"""Owns the removal of what cannot be spoken; knows nothing of sentences, chunks or audio."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from serve_app.text.characters import SILENT_CHARACTERS, ZERO_WIDTH_JOINER, HalvesJoiner, TerminalReader, visible
from serve_app.text.markdown import Marking, MarkupReader
from serve_app.text.tags import Pause

_CLOSING_MARKS = frozenset(".,;:!?…)]}»”’%。，、；：！？）】》」』")
_TOKEN = re.compile(rf"\n|[^\S\n]+|[^\s{SILENT_CHARACTERS}]+|.", re.DOTALL)
_SILENT = re.compile(rf"[{SILENT_CHARACTERS}]")


@dataclass(frozen=True)
class TextCleaning:
    """What to remove from text before it is spoken.

    Control and zero-width characters always go, and white space is always collapsed: a run becomes one
    space, one line feed or two. Numbers, dates and units are left to the model.
    """

    markdown: bool = True
    emoji: Literal["drop", "keep"] = "drop"
    """``drop`` removes pictures and symbols no one says: emoji, arrows, boxes, stars, dingbats."""
    tags: bool = True
    """Known tags of SSML and HTML go, ``<break>`` is a pause, and HTML's entities become their characters."""
    reasoning: Literal["drop", "keep"] = "drop"
    """``drop`` removes a model's reasoning, ``<think>…</think>``, with everything in it."""


class Cleaner:
    """Cleans one utterance's text, pushed in any pieces.

    Any way to split a text into pushes, with one flush at the end, gives the same text and pauses. Cleaning holds
    back only what a following character may change; white space stays behind until a word follows.
    """

    def __init__(self, cleaning: TextCleaning) -> None:
        self._drops_emoji = cleaning.emoji == "drop"
        self._halves = HalvesJoiner()
        self._terminal = TerminalReader()
        marking = Marking(cleaning.markdown, cleaning.tags, cleaning.reasoning == "drop")
        self._markup = MarkupReader(marking) if marking != Marking(*(False,) * 3) else None
        self._gap = ""  # white space not returned yet
        self._line_feeds = 2  # returned since the last visible character; none may begin the text
        self._dropped = False  # a symbol was, since the last visible character
        self._ends_in_symbol = False  # the last visible character may be joined to an emoji

    def push(self, text: str) -> list[str | Pause]:
        """Take more text; return the cleaned text, and the pauses in it, that no further text can change."""
        text = visible(self._terminal.push(self._halves.push(text)))
        return self._heard(self._markup.push(text) if self._markup else [text])

    def flush(self) -> list[str | Pause]:
        """Return what was held back; the next push goes on in the same utterance."""
        return self._heard(self._markup.flush()) if self._markup else []

    def _heard(self, pieces: Iterable[str | Pause]) -> list[str | Pause]:
        heard: list[str | Pause] = []
        words: list[str] = []
        for piece in pieces:
            if isinstance(piece, str):
                words += map(self._spoken, _TOKEN.findall(piece))
                continue
            heard += ["".join(words), piece]
            words.clear()
        return [each for each in (*heard, "".join(words)) if each]

    def _spoken(self, run: str) -> str:
        """What is heard of a line feed, of other white space, of a silent character or of others in a row."""
        if run == "\n":
            return self._line_feed()
        if run.isspace():
            self._gap = " "
            return ""
        if run == ZERO_WIDTH_JOINER and not (self._ends_in_symbol and not self._gap):
            return ""
        is_silent = _SILENT.match(run) is not None
        if is_silent and self._drops_emoji:
            self._gap, self._dropped = " ", True
            return ""
        self._ends_in_symbol = is_silent
        return self._after_gap(run[0]) + run

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
