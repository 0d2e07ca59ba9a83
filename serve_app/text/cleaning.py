"""Removes what cannot be spoken; knows nothing about sentences, chunks or audio."""

import re
from collections.abc import Iterable

from serve_app.config import TextConfig
from serve_app.text.characters import SILENT_CHARACTERS, ZERO_WIDTH_JOINER, HalvesJoiner, TerminalReader, visible
from serve_app.text.markdown import MarkupReader
from serve_app.text.tags import Pause

_CLOSING_MARKS = frozenset(".,;:!?…)]}»”’%。，、；：！？）】》」』")
_TOKEN = re.compile(rf"\n|[^\S\n]+|[^\s{SILENT_CHARACTERS}]+|.", re.DOTALL)
_SILENT = re.compile(rf"[{SILENT_CHARACTERS}]")


class Cleaner:
    """Cleans one utterance's text, pushed in any pieces.

    However a text is split into pushes, with one flush at the end, the resulting text and pauses are the same.
    Cleaning holds back only what a later character may change. It holds back white space until a word follows.

    Control and zero-width characters are always removed. White space is always collapsed: a run becomes one space, one
    line feed or two line feeds. Cleaning leaves numbers, dates and units as they are. The configuration's ``markdown``,
    ``emoji``, ``tags`` and ``reasoning`` say what else is removed.
    """

    def __init__(self, config: TextConfig) -> None:
        self._drops_emoji = config.emoji == "drop"
        self._halves = HalvesJoiner()
        self._terminal = TerminalReader()
        removes_markup = config.markdown or config.tags or config.reasoning == "drop"
        self._markup = MarkupReader(config) if removes_markup else None
        self._gap = ""  # white space not returned yet
        self._line_feeds = 2  # line feeds since the last visible character; 2 at first, so that no text begins with one
        self._dropped = False  # whether a symbol was dropped since the last visible character
        self._ends_in_symbol = False  # whether an emoji may be joined to the last visible character

    def push(self, text: str) -> list[str | Pause]:
        """Accept more text; return the cleaned text and pauses that later text can no longer change."""
        text = visible(self._terminal.push(self._halves.push(text)))
        return self._heard(self._markup.push(text) if self._markup else [text])

    def flush(self) -> list[str | Pause]:
        """Return what was held back; the next push continues the same utterance."""
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
        """Return the spoken text of one token: a line feed, other white space, a silent character or a word."""
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
