"""Owns which runs of ``*``, ``_`` and ``~~`` and which brackets are marks; knows nothing of lines or of what they mark.

The rules are CommonMark's (0.31, "Emphasis and strong emphasis"), decided as the text comes in. Where speech is better
served by another rule, :func:`run_of` has it, and docs/chunking.md the list.
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
"""A mark whose partner has not come within this is text; what follows it is held back for so long."""

LEAD_CHARACTERS: Final = 40
"""A mark that begins a paragraph is not waited for any longer: it is one, and so is its partner, wherever it comes."""

_PAIRS = frozenset({"()", "[]", "{}", "<>", '""', "''", "“”", "‘’", "「」", "//"})
_SENTENCE_MARKS = frozenset(".,:;!?…")
_BEFORE_WORD = frozenset("([{（「『【“‘\"'«<-–—/") | {""}
_CLOSING = frozenset(")]")
_CITATION = re.compile(r"[\[(]?\^?\d{1,4}(?:[,–-]\d{1,4})*[\])]?")


@dataclass(slots=True, eq=False)
class Run:
    """Some equal marks in a row, such as ``**``.

    Attributes:
        mark: one of them.
        length: how many are not part of a pair yet; that many are text in the end.
        at: index of the run in everything read.
        opens: it may begin an emphasis.
        closes: it may end one.
        in_word: what stands on both sides of it would be multiplied by a star.
        word_at: index behind the last white space before it.
        leads: it begins a paragraph and a word.
        waits: it is not decided yet.
        is_mark: it was decided to be one before its partner came.
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
        """What is left of it as text."""
        return "" if self.is_mark else self.mark * self.length


@dataclass(slots=True, eq=False)
class Bracket:
    """A ``[`` or ``![`` that may begin a link's text.

    Attributes:
        text: the mark itself, until it is known to be one; then nothing.
        at: its index in everything read.
        glued: a letter, digit or closing bracket stands right before it, as where a list is indexed.
        before: the character before it; empty at a line's start.
        waits: it is not decided yet.
    """

    text: str
    at: int
    glued: bool
    before: str = ""
    waits: bool = True


def run_of(mark: str, length: int, at: int, word_at: int, neighbours: tuple[str, str]) -> Run:
    """What a run is by the characters before and behind it; an empty one is a line's edge.

    Source: CommonMark 0.31, left- and right-flanking delimiter runs. Letters and punctuation of full width count as
    https://github.com/tats-u/markdown-cjk-friendly has it, so that a mark next to them is one.
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
    """Say whether a star between two characters multiplies them: letters, digits or brackets of half width."""
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
    # The rule of 3: so that ``*a**b*`` has one pair, and not two halves of one.
    both = opener.closes or closer.opens
    return not (both and (opener.given + closer.given) % 3 == 0 and opener.given % 3)


class Marks:
    """Text with marks in it, in the order it was read, of which the front is decided.

    A mark is decided when its partner came, when its paragraph ends, or when ``PARTNER_CHARACTERS`` have passed, the
    first of a paragraph after ``LEAD_CHARACTERS``, so that speech that begins with one need not wait. Inside
    a bracket that may begin a link nothing is paired until the bracket is decided.
    """

    def __init__(self) -> None:
        self._pieces: deque[str | Pause | Run | Bracket] = deque()
        self._waiting: list[Run | Bracket] = []

    @property
    def waiting(self) -> bool:
        """Some mark is not decided."""
        return bool(self._waiting)

    def add(self, piece: str | Pause) -> None:
        """Append what is no mark."""
        if piece:
            self._pieces.append(piece)

    def add_run(self, run: Run) -> None:
        """Append a run, and pair it with those before it unless a bracket is open."""
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
        """The innermost bracket that may still be closed at an index."""
        self._forget(at)
        bottom = self._bottom()
        bracket = self._waiting[bottom - 1] if bottom else None
        return bracket if isinstance(bracket, Bracket) else None

    def end_link(self, bracket: Bracket) -> None:
        """The innermost bracket begins a link; links in links are none."""
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
        """Part a link whose text is a number from what it is glued to, or drop its text.

        Returns:
            Whether it was dropped, as the source of what stands before it; and what is heard behind the link. Call it
            before :meth:`end_link`.
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
        """The innermost bracket is text."""
        bottom = self._bottom()
        self._decide(bottom - 1, bottom)
        if not self._bottom():
            self._close_from(0)

    def end_paragraph(self, at: int) -> None:
        """Brackets, and runs that have found no partner before an index, are text."""
        if not self._waiting:
            return
        self._forget(at)
        while bottom := self._bottom():
            self._decide(bottom - 1, bottom)
        self._close_from(0)
        self._decide(0, len(self._waiting))

    def take(self, at: int) -> list[str | Pause]:
        """Return the front that is decided once everything before an index was read."""
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
        """Index behind the innermost bracket among what waits; 0 without one."""
        for index in range(len(self._waiting) - 1, -1, -1):
            if isinstance(self._waiting[index], Bracket):
                return index + 1
        return 0

    def _forget(self, at: int) -> None:
        """Let go what has waited for too long at an index."""
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
        """Index among what waits; a run that is a mark already stands before it."""
        index = int(bool(self._waiting) and not self._waiting[0].waits)
        return index if index < len(self._waiting) else None

    def _decide(self, start: int, end: int) -> None:
        for each in self._waiting[start:end]:
            each.waits = False
        del self._waiting[start:end]

    def _close_from(self, bottom: int) -> None:
        """Pair the runs from an index on, with each other alone: what could not be done while a bracket was open."""
        index = bottom
        while index < len(self._waiting):
            index = self._close(index, bottom)

    def _close(self, index: int, bottom: int) -> int:
        """Pair the run at an index with those before it, down to ``bottom``; return where the next one is."""
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
