"""Decides which runs of ``*``, ``_`` and ``~~`` and which brackets are marks; knows nothing about lines.

The rules are CommonMark's (0.31, "Emphasis and strong emphasis"), applied while the text arrives. Some rules differ,
because they suit speech better: :func:`run_of` implements them and docs/chunking.md lists them.
"""

import re
import unicodedata
from collections import deque
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Final

from serve_app.text.quotations import is_wide
from serve_app.text.tags import Pause

PARTNER_CHARACTERS: Final = 160
"""A mark is text if its partner does not follow within this many characters; the text after it is held back until
then."""

LEAD_CHARACTERS: Final = 40
"""A run at the start of a paragraph counts as a mark after this many characters; its partner may follow at any
distance."""

_PAIRS = frozenset({"()", "[]", "{}", "<>", '""', "''", "“”", "‘’", "「」", "//"})
_SENTENCE_MARKS = frozenset(".,:;!?…")
_BEFORE_WORD = frozenset("([{（「『【“‘\"'«<-–—/") | {""}
_CLOSING = frozenset(")]")
_CITATION = re.compile(r"[\[(]?\^?\d{1,4}(?:[,–-]\d{1,4})*[\])]?")


@dataclass(slots=True, eq=False)
class Run:
    """Several equal marks in a row, such as ``**``.

    Attributes:
        mark: one of the characters.
        length: how many are not part of a pair yet; those that stay unpaired are text.
        at: index of the run in everything read.
        opens: it may begin an emphasis.
        closes: it may end an emphasis.
        in_word: it stands between operands, so that a star could mean a multiplication.
        word_at: index after the last white space before it.
        leads: it begins a paragraph and a word.
        waits: it is undecided.
        is_mark: it was declared a mark before its partner arrived.
    """

    mark: str
    length: int
    at: int
    opens: bool
    closes: bool
    in_word: bool = False
    word_at: int = 0
    leads: bool = False
    waits: bool = True
    is_mark: bool = False
    given: int = field(init=False)

    def __post_init__(self) -> None:
        self.given = self.length

    @property
    def text(self) -> str:
        """The part of the run that stays as text."""
        return "" if self.is_mark else self.mark * self.length


@dataclass(slots=True, eq=False)
class Bracket:
    """A ``[`` or ``![`` that may begin a link's text.

    Attributes:
        text: its characters; empty once it is known to begin a link.
        at: its index in everything read.
        glued: a letter, digit or closing bracket stands directly before it, as in an indexed list.
        before: the character before it; empty at the start of a line.
        waits: it is undecided.
    """

    text: str
    at: int
    glued: bool
    before: str = ""
    waits: bool = True


def run_of(mark: str, length: int, at: int, word_at: int, neighbours: tuple[str, str]) -> Run:
    """Classify a run by the characters before and after it; an empty character means the edge of a line.

    Source: CommonMark 0.31, left- and right-flanking delimiter runs. Full-width letters and punctuation follow
    https://github.com/tats-u/markdown-cjk-friendly, so that marks next to them are recognized.
    """
    before, after = neighbours
    left = not _is_white(after) and (not _is_narrow_punctuation(after) or _may_touch(before))
    right = not _is_white(before) and (not _is_narrow_punctuation(before) or _may_touch(after))
    if mark == "~":
        return Run(mark, length, at, left and length == 2, right and length == 2)
    if before + after in _PAIRS:  # COUNT(*)
        return Run(mark, length, at, opens=False, closes=False)
    if mark == "_":
        opens = left and (not right or _is_edge(before))
        return Run(mark, length, at, opens, closes=right and (not left or _is_edge(after)))
    if length == 1:  # src/*.py, /* … */
        left, right = left and after not in "./", right and before != "/"
    elif left and before in _SENTENCE_MARKS and after.isalnum():  # **Note:**text
        right = True
    in_word = _is_operator(before, after)
    right = right and not (before.isdigit() and after.isdigit())
    return Run(mark, length, at, left and not in_word, right, in_word, word_at)


def _is_operator(before: str, after: str) -> bool:
    """Return whether a star between half-width letters, digits or brackets may be a multiplication."""
    if before.isalpha() and not after.isalnum():
        return False  # **bold**(er)
    return _is_operand(before, ")]}") and _is_operand(after, "([{")


def _is_white(character: str) -> bool:
    return not character or character.isspace()


def _is_punctuation(character: str) -> bool:
    return bool(character) and unicodedata.category(character)[0] in "PS"


def _is_narrow_punctuation(character: str) -> bool:
    return _is_punctuation(character) and not is_wide(character)


def _may_touch(character: str) -> bool:
    return _is_white(character) or _is_edge(character)


def _is_edge(character: str) -> bool:
    return _is_punctuation(character) or (bool(character) and is_wide(character))


def _is_operand(character: str, brackets: str) -> bool:
    return bool(character) and ((character.isalnum() and not is_wide(character)) or character in brackets)


def _are_partners(opener: Run, closer: Run) -> bool:
    if opener.mark != closer.mark or not opener.opens:
        return False
    if closer.in_word and (opener.at < closer.word_at or opener.given != closer.given):
        return False
    # CommonMark's rule of 3: ``*a**b*`` has one pair, and ``**`` stays text.
    both = opener.closes or closer.opens
    return not (both and (opener.given + closer.given) % 3 == 0 and opener.given % 3)


class Marks:
    """A queue of text and marks in reading order. Decided pieces leave it from the front.

    A mark is decided when its partner arrives, when its paragraph ends, or after ``PARTNER_CHARACTERS``. The first
    mark of a paragraph is decided after ``LEAD_CHARACTERS``, so that speech that begins with a mark need not wait.
    Marks after an undecided bracket are not paired until the bracket is decided.
    """

    def __init__(self) -> None:
        self._pieces: deque[str | Pause | Run | Bracket] = deque()
        self._waiting: list[Run | Bracket] = []

    @property
    def waiting(self) -> bool:
        """Whether a mark is undecided."""
        return bool(self._waiting)

    def add(self, piece: str | Pause) -> None:
        """Append text or a pause."""
        if piece:
            self._pieces.append(piece)

    def add_run(self, run: Run) -> None:
        """Append a run. Pair it with earlier runs, unless a bracket is open."""
        self._forget(run.at)
        run.leads = run.leads and run.opens and not self._waiting
        self._pieces.append(run)
        self._waiting.append(run)
        if not self._bottom():
            self._close(len(self._waiting) - 1, 0)

    def add_bracket(self, bracket: Bracket) -> None:
        """Append a bracket."""
        self._forget(bracket.at)
        self._pieces.append(bracket)
        self._waiting.append(bracket)

    def bracket(self, at: int) -> Bracket | None:
        """Return the innermost bracket that may still be closed at an index."""
        self._forget(at)
        bottom = self._bottom()
        bracket = self._waiting[bottom - 1] if bottom else None
        return bracket if isinstance(bracket, Bracket) else None

    def end_link(self, bracket: Bracket) -> None:
        """Turn the innermost bracket into a link or image; the link brackets around a link become text."""
        bottom = self._bottom()
        self._close_from(bottom)
        self._decide(bottom - 1, len(self._waiting))
        if not bracket.text.startswith("!"):
            for index in range(len(self._waiting) - 1, -1, -1):
                outer = self._waiting[index]
                if isinstance(outer, Bracket) and not outer.text.startswith("!"):
                    self._decide(index, index + 1)
        bracket.text = ""

    def end_citation(self, bracket: Bracket) -> tuple[bool, str]:
        """Separate a link whose text is a number from the text before it, or drop the number as a citation.

        Call this before :meth:`end_link`.

        Returns:
            Whether the number was dropped, and the text to insert after the link.
        """
        before = bracket.before
        if before.isspace() or before in _BEFORE_WORD or not _CITATION.fullmatch(self._text_behind(bracket)):
            return False, ""
        if before.isalnum() and is_wide(before):
            self._pieces.insert(self._pieces.index(bracket), " ")
            return False, " "
        if before in _CLOSING:
            self._pieces.insert(self._pieces.index(bracket), " ")
            return False, ""
        while self._pieces[-1] is not bracket:
            self._pieces.pop()
        return True, ""

    def _text_behind(self, bracket: Bracket) -> str:
        behind = takewhile(lambda piece: piece is not bracket, reversed(self._pieces))
        words = ["…" if isinstance(each, Pause) else each if isinstance(each, str) else each.text for each in behind]
        return "".join(reversed(words))

    def end_bracket(self) -> None:
        """Turn the innermost bracket into text."""
        bottom = self._bottom()
        self._decide(bottom - 1, bottom)
        if not self._bottom():
            self._close_from(0)

    def end_paragraph(self, at: int) -> None:
        """End the paragraph at an index: open brackets and runs without a partner become text."""
        if not self._waiting:
            return
        self._forget(at)
        while bottom := self._bottom():
            self._decide(bottom - 1, bottom)
        self._close_from(0)
        self._decide(0, len(self._waiting))

    def take(self, at: int) -> list[str | Pause]:
        """Remove and return the decided pieces at the front, given that everything before an index was read."""
        self._forget(at)
        taken: list[str | Pause] = []
        while self._pieces:
            piece = self._pieces[0]
            if isinstance(piece, Run | Bracket):
                if piece.waits:
                    break
                piece = piece.text
            taken.append(piece)
            self._pieces.popleft()
        return taken

    def _bottom(self) -> int:
        """Return the index in ``_waiting`` after the innermost bracket; 0 if there is no bracket."""
        for index in range(len(self._waiting) - 1, -1, -1):
            if isinstance(self._waiting[index], Bracket):
                return index + 1
        return 0

    def _forget(self, at: int) -> None:
        """Decide the marks that have waited for too long at an index."""
        first = self._waiting[0] if self._waiting else None
        if isinstance(first, Run) and first.leads and at - first.at > LEAD_CHARACTERS:
            first.waits, first.is_mark = False, True
        while (oldest := self._oldest_undecided()) is not None:
            if at - self._waiting[oldest].at <= PARTNER_CHARACTERS:
                break
            was_bracket = isinstance(self._waiting[oldest], Bracket)
            self._decide(oldest, oldest + 1)
            if was_bracket and not self._bottom():
                self._close_from(0)

    def _oldest_undecided(self) -> int | None:
        """Return the index of the oldest undecided mark in ``_waiting``; only a run with ``is_mark`` may precede it."""
        index = int(bool(self._waiting) and not self._waiting[0].waits)
        return index if index < len(self._waiting) else None

    def _decide(self, start: int, end: int) -> None:
        for each in self._waiting[start:end]:
            each.waits = False
        del self._waiting[start:end]

    def _close_from(self, bottom: int) -> None:
        """Pair the runs from an index on with each other; this was postponed while a bracket was open."""
        index = bottom
        while index < len(self._waiting):
            index = self._close(index, bottom)

    def _close(self, index: int, bottom: int) -> int:
        """Pair the run at an index with earlier runs, down to ``bottom``; return the index of the next run."""
        closer = self._waiting[index]
        assert isinstance(closer, Run), "the caller passes no bracket"
        while closer.closes and closer.length and (found := self._partner(closer, index, bottom)) is not None:
            opener, opener_index = found
            used = 2 if min(opener.length, closer.length) > 1 else 1
            opener.length -= used
            closer.length -= used
            first = opener_index + (opener.length > 0)
            opener.waits = opener.length > 0 and not opener.is_mark
            self._decide(opener_index + 1, index)
            if not opener.length:
                del self._waiting[opener_index]
            index = first
        if closer.length and closer.opens:
            return index + 1
        self._decide(index, index + 1)
        return index

    def _partner(self, closer: Run, index: int, bottom: int) -> tuple[Run, int] | None:
        for at in range(index - 1, bottom - 1, -1):
            opener = self._waiting[at]
            if isinstance(opener, Run) and _are_partners(opener, closer):
                return opener, at
        return None
