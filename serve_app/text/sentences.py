"""Finds the ends of sentences and clauses in a text that is still growing; knows nothing about chunk lengths.

A boundary is reported as soon as no later text can move it. Boundaries do not depend on how the text was split
into pushes. The meaning of a full stop is decided by at most ``_CONTEXT_CHARACTERS`` before it and
``_LOOK_AHEAD_CHARACTERS`` after it, so memory and the cost per character are bounded.
"""

import re
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from serve_app.text.abbreviations import LAST_WORD_CHARACTERS, LastWord, Meaning, abbreviations_of, last_word_of
from serve_app.text.growing_text import NeedsMoreText
from serve_app.text.quotations import BEFORE_WORD, CLOSING, OPENING, QUOTATION_CHARACTERS, OpenQuotations, is_wide

_CONTEXT_CHARACTERS: Final = 128
_LOOK_AHEAD_CHARACTERS: Final = 24
_WRAPPED_LINE_CHARACTERS: Final = 40
_RUN_CHARACTERS: Final = 16
_CLOSERS: Final = 8

_PLAIN_STOPS = ".．!?…‼⁇⁈⁉‽"
_CJK_STOPS = "。！？｡"
_STOPS = frozenset(_PLAIN_STOPS + _CJK_STOPS)
_PLAIN_CLAUSE = ",;:"
_WIDE_CLAUSE = "，、；：､"
_DASHES = frozenset("—–-―")
_BRACKETS_BEFORE = frozenset("([（［")
_AFTER_STOP = CLOSING | frozenset("\"'’‘“")
_SPEECH_VERBS = frozenset("说說道问問答喊叫")

_CLAUSE_MARKS = frozenset(_PLAIN_CLAUSE + _WIDE_CLAUSE)
_AFTER_CLAUSE = frozenset("\"'’”»」』）)]")
_LINE_FEEDS = frozenset("\n\v\f\x85\u2028\u2029")
_BULLETS = " \n•⁃◦▪·*–—-("
_MARKS = sorted(_STOPS | _CLAUSE_MARKS | CLOSING | OPENING | _DASHES | {"\n"})
_MARK = re.compile("[" + re.escape("".join(_MARKS)) + "]")
_FOOTNOTE = re.compile(r"\[\d{1,3}(?:[-–,]\d{1,3})?\]")
_FOOTNOTE_BEGUN = re.compile(r"\[[\d\-–,]{0,7}$")
_LETTER = re.compile(r"[^\W\d_]")
_RUN_OF_WHITE_OR_NOT = re.compile(r"\s+|\S+")


class Kind(IntEnum):
    """The kind of unit that ends at a boundary, weakest first."""

    CLAUSE = 1
    QUOTED = 2
    """A sentence inside a quotation or bracket that is still open."""
    UNQUOTED = 3
    """Not a boundary: the quotation mark at ``end`` was stray, so the QUOTED boundaries since then are SENTENCE."""
    SENTENCE = 4
    LINE = 5
    PARAGRAPH = 6


@dataclass(frozen=True, slots=True)
class Boundary:
    """A place where text may be cut: before index ``end``, which counts all characters pushed."""

    end: int
    kind: Kind
    seen: int
    """Number of characters that the scan had read when it found this; boundaries are reported in this order."""
    quoted: bool = False


class SentenceScanner:
    """Finds the boundaries of one utterance's text, which may be pushed in any pieces.

    The scanner keeps the text that its owner has not dropped yet, and a fixed amount of context before it. Indices
    count characters after white space was collapsed: a run is one space, one line feed or two line feeds.
    """

    def __init__(self, language: str) -> None:
        self._words = abbreviations_of(language)
        self._text = ""
        self._base = 0  # index of _text[0] in everything pushed
        self._white = "\n\n"  # the trailing white space so far; white space at the start is dropped
        self._position = 0  # the scan continues here; this and the indices below are relative to _text
        self._sentence_start = 0
        self._line_start = 0
        self._kept_line_end = -1  # a line feed that ends no sentence, because the stop before it ends none
        self._sentence_is_lower: bool | None = None
        self._quotations = OpenQuotations()
        self._found: list[Boundary] = []

    @property
    def position(self) -> int:
        """The index up to which all boundaries are known."""
        return self._base + self._position

    @property
    def end(self) -> int:
        """Number of characters pushed so far, white space collapsed."""
        return self._base + len(self._text)

    def slice(self, start: int, end: int) -> str:
        """Return the text between two indices; neither may have been dropped."""
        return self._text[start - self._base : end - self._base]

    def push(self, text: str) -> str:
        """Accept more text; return it as stored, with white space collapsed."""
        stored = self._collapse(text)
        self._text += stored
        return stored

    def drop(self, before: int) -> None:
        """Forget the text before an index, except for the context that later decisions need."""
        excess = before - self._base - _CONTEXT_CHARACTERS
        if excess <= 0:
            return
        self._note_case_of_sentence()
        self._text = self._text[excess:]
        self._base += excess
        self._position -= excess
        self._sentence_start -= excess
        self._line_start -= excess
        self._kept_line_end -= excess
        self._quotations.shift(excess)

    def advance(self, *, final: bool) -> list[Boundary]:
        """Return the boundaries that have become certain, in the order of ``Boundary.seen``.

        Args:
            final: no more text follows for now. Open decisions are taken without it, and the scan restarts
                after this text.
        """
        while mark := _MARK.search(self._text, self._position):
            at = mark.start()
            self._close_stray_quotations(at)
            self._position = at
            try:
                self._position = self._pass_mark(at, final=final)
            except NeedsMoreText:
                break
        else:
            self._position = len(self._text)
            self._close_stray_quotations(self._position)
        if final:
            self._unquote(len(self._text))
            self._begin_sentence(len(self._text))
        found, self._found = self._found, []
        return found

    # --- the text -------------------------------------------------------------------------------

    def _collapse(self, text: str) -> str:
        return "".join(self._collapsed_run(run) for run in _RUN_OF_WHITE_OR_NOT.findall(text))

    def _collapsed_run(self, run: str) -> str:
        if not run[0].isspace():
            self._white = ""
            return run
        had = self._white
        for character in run:
            if character in _LINE_FEEDS:
                self._white += "\n" if self._white.count("\n") < 2 else ""
            elif not self._white:
                self._white = " "
        return self._white[len(had) :]

    def _at(self, index: int, *, final: bool) -> str:
        if index < len(self._text):
            return self._text[index]
        if final:
            return ""
        raise NeedsMoreText

    def _before(self, index: int) -> str:
        return self._text[index - 1] if index > 0 else ""

    def _report(self, end: int, kind: Kind, seen: int) -> None:
        quoted = bool(self._quotations)
        self._found.append(Boundary(self._base + end, kind, self._base + seen, quoted=quoted))

    def _begin_sentence(self, at: int) -> None:
        self._sentence_start = at
        self._sentence_is_lower = None

    def _note_case_of_sentence(self) -> bool:
        if self._sentence_is_lower is None:
            letter = _LETTER.search(self._text, max(self._sentence_start, 0))
            self._sentence_is_lower = letter.group().islower() if letter else None
        return bool(self._sentence_is_lower)

    def _close_stray_quotations(self, at: int) -> None:
        if self._quotations.is_stray(at):
            self._unquote(at)

    def _unquote(self, at: int) -> None:
        """Report that the open quotation was stray: stops inside it ended sentences."""
        opened = self._quotations.clear()
        if opened is not None:
            self._report(opened, Kind.UNQUOTED, min(at, opened + QUOTATION_CHARACTERS))

    def _close_all(self, start: int, end: int) -> None:
        for index in range(start, end):
            self._quotations.close(self._text[index])

    # --- clauses and lines ----------------------------------------------------------------------

    def _pass_mark(self, at: int, *, final: bool) -> int:
        mark = self._text[at]
        if mark in _STOPS:
            return self._pass_stop(at, final=final)
        if mark == "\n":
            return self._pass_line_feed(at, final=final)
        if mark in _DASHES:
            return self._pass_dash(at, final=final)
        if mark in _CLAUSE_MARKS:
            return self._pass_clause(at, final=final)
        self._quotations.take(mark, at, self._before(at), self._at(at + 1, final=final))
        return at + 1

    def _pass_clause(self, at: int, *, final: bool) -> int:
        mark = self._text[at]
        end = at + 1
        while end - at < _CLOSERS and self._at(end, final=final) in _AFTER_CLAUSE:
            end += 1
        after = self._at(end, final=final)
        if mark in _PLAIN_CLAUSE:
            ends = after.isspace()
        else:
            ends = bool(after) and not (self._before(at).isdigit() and after.isdigit())
        if not ends:
            return at + 1
        self._close_all(at + 1, end)
        self._report(end, Kind.CLAUSE, at)
        return end

    def _pass_dash(self, at: int, *, final: bool) -> int:
        end = at + 1
        while end - at < _RUN_CHARACTERS and self._at(end, final=final) in _DASHES:
            end += 1
        before, after = self._before(at), self._at(end, final=final)
        spaced = before.isspace() and after.isspace()
        joining = self._text[at] in "—―" and before.isalpha() and (after.isalpha() or after.isspace())
        begun = self._text[max(self._sentence_start, at - _LOOK_AHEAD_CHARACTERS, 0) : at].strip()
        if (spaced or joining) and begun and not self._is_range(begun, end, final=final):
            self._report(end, Kind.CLAUSE, at)
        return end

    def _is_range(self, before: str, end: int, *, final: bool) -> bool:
        """Return whether a dash stands between two numbers, as in ``10 – 20 km``."""
        return before[-1].isdigit() and self._at(end + 1, final=final).isdigit()

    def _pass_line_feed(self, at: int, *, final: bool) -> int:
        end = at
        while end > 0 and self._text[end - 1].isspace():
            end -= 1
        if self._before(at) == "\n":
            self._end_line(end, Kind.PARAGRAPH, at)
        elif end > self._sentence_start and not self._is_wrapped(at, end, final=final):
            self._end_line(end, Kind.LINE, at)
        self._line_start = at + 1
        return at + 1

    def _end_line(self, end: int, kind: Kind, at: int) -> None:
        self._unquote(at)
        self._report(end, kind, at)
        self._begin_sentence(at)

    def _is_wrapped(self, at: int, end: int, *, final: bool) -> bool:
        """Return whether the line was only wrapped, so that the sentence continues in the next line."""
        if at == self._kept_line_end:
            return True
        if at - self._line_start < _WRAPPED_LINE_CHARACTERS or is_wide(self._text[end - 1]):
            return False
        following = self._at(at + 1, final=final)
        return following != "\n" and (following.islower() or self._text[end - 1] == "," or bool(self._quotations))

    # --- stops ----------------------------------------------------------------------------------

    def _pass_stop(self, at: int, *, final: bool) -> int:
        run_end = self._end_of_run(at, final=final)
        end = self._end_of_closers(run_end, final=final)
        kind = self._what_ends(at, run_end, end, final=final)
        self._close_all(run_end, end)
        if kind is Kind.SENTENCE and self._quotations:
            kind = Kind.QUOTED
        if kind is Kind.SENTENCE:
            self._begin_sentence(end)
        if kind is not None:
            self._report(end, kind, at)
        if kind in {None, Kind.CLAUSE}:
            self._kept_line_end = end + (self._text[end : end + 2] == " \n")
        return end

    def _end_of_run(self, at: int, *, final: bool) -> int:
        """Return the end of ``?!``, ``...`` or ``. . .``; a run counts up to ``_RUN_CHARACTERS``."""
        end = at + 1
        while end - at < _RUN_CHARACTERS:
            following = self._at(end, final=final)
            if following in _STOPS:
                end += 1
            elif following == " " and self._text[at] == "." and self._at(end + 1, final=final) == ".":
                end += 2
            else:
                break
        return end

    def _end_of_closers(self, run_end: int, *, final: bool) -> int:
        end = run_end
        while end - run_end < _CLOSERS:
            length = self._length_of_closer(end, final=final)
            if not length:
                break
            end += length
        return end

    def _length_of_closer(self, at: int, *, final: bool) -> int:
        mark = self._at(at, final=final)
        if mark == "[":
            return self._length_of_footnote(at, final=final)
        if mark == " ":
            spaced = self._at(at + 1, final=final) == "»" and not self._at(at + 2, final=final).isalnum()
            return 2 if spaced else 0
        if mark == '"':
            return int(self._quotations.contains('"') or self._before(at) not in _CJK_STOPS)
        if mark == "“":
            return int(self._quotations.contains("„"))
        if mark == "«":
            return int(self._quotations.contains("»"))
        return int(mark in _AFTER_STOP)

    def _length_of_footnote(self, at: int, *, final: bool) -> int:
        if footnote := _FOOTNOTE.match(self._text, at):
            return len(footnote.group())
        if not final and _FOOTNOTE_BEGUN.match(self._text, at):
            raise NeedsMoreText
        return 0

    def _what_ends(self, at: int, run_end: int, end: int, *, final: bool) -> Kind | None:
        following = self._at(end, final=final)
        if not following:
            return Kind.SENTENCE
        if following in _STOPS or self._before(at) in _BRACKETS_BEFORE:
            return None
        if self._text[run_end - 1] in _CJK_STOPS:
            return self._after_wide_stop(end, closed=end > run_end, final=final)
        if following.isspace():
            return self._before_space(at, run_end, end, final=final)
        return self._before_glued(at, run_end, end, following)

    def _after_wide_stop(self, end: int, *, closed: bool, final: bool) -> Kind | None:
        """Decide 。！？: they end a sentence, unless it continues after a quotation, as in 「はい。」と言った."""
        if not closed:
            return Kind.SENTENCE
        if "\u3041" <= self._at(end, final=final) <= "\u309f":
            return None
        for index in range(end, end + 5):
            character = self._at(index, final=final)
            if character in _SPEECH_VERBS:
                return None
            if not character.isalnum():
                return None if character in tuple("、，,") else Kind.SENTENCE
        return Kind.SENTENCE

    def _before_glued(self, at: int, run_end: int, end: int, following: str) -> Kind | None:
        """Decide a stop without white space after it: in a name, a number, an address or CJK text."""
        before = self._before(at)
        if self._is_address(at):
            return None
        if is_wide(following) and following.isalpha():
            if end > run_end:
                return None  # "네."라고 했다
            if run_end - at > 1 or self._text[at] == "…":
                return Kind.CLAUSE
            return Kind.SENTENCE if before.isalpha() or self._text[at] in "!?" else None
        shouted = self._text[run_end - 1] in "!?" and (before.isalpha() or end > run_end)
        return Kind.SENTENCE if shouted and (following.isupper() or following in "¿¡") else None

    def _is_address(self, at: int) -> bool:
        token = self._text[max(at - _CONTEXT_CHARACTERS // 2, 0) : at].rsplit(maxsplit=1)
        return bool(token) and any(sign in token[-1] for sign in ("/", "@", "www."))

    def _before_space(self, at: int, run_end: int, end: int, *, final: bool) -> Kind | None:
        word = end
        while self._at(word, final=final).isspace():
            word += 1
        if "\n\n" in self._text[end:word]:
            return None  # the line feeds report the end of the paragraph
        first = self._at(word, final=final)
        while word - end < _CLOSERS and (
            self._at(word, final=final) in BEFORE_WORD or self._at(word, final=final).isspace()
        ):
            word += 1
        head = self._at(word, final=final)
        lone = run_end - at == 1 and self._text[at] in ".．"
        if head.islower() and first not in "¿¡":
            return self._before_lower_case(at, lone=lone, closed=end > run_end)
        if lone and end == run_end:
            return self._after_full_stop(at, word, final=final)
        return Kind.SENTENCE

    def _before_lower_case(self, at: int, *, lone: bool, closed: bool) -> Kind | None:
        """Decide a stop before a lower-case word: it ends a sentence only if this sentence began in lower case too."""
        if closed:
            return None
        if not lone and self._text[at] in ".…":
            return Kind.CLAUSE
        if not self._note_case_of_sentence():
            return None
        abbreviated = lone and self._last_word(at).meaning is not Meaning.ORDINARY
        return None if abbreviated else Kind.SENTENCE

    # --- the full stop --------------------------------------------------------------------------

    def _last_word(self, at: int) -> LastWord:
        return last_word_of(self._text[max(at - LAST_WORD_CHARACTERS, 0) : at], self._words)

    def _after_full_stop(self, at: int, word: int, *, final: bool) -> Kind | None:
        last = self._last_word(at)
        head = self._at(word, final=final)
        if last.meaning is Meaning.NEVER_LAST or self._is_list_marker(last.text, at):
            return None
        if last.meaning is Meaning.ORDINARY:
            return Kind.SENTENCE
        if last.meaning is Meaning.BEFORE_NUMBER or head.isdigit():
            return None if head.isdigit() else Kind.SENTENCE
        return Kind.SENTENCE if self._starts_sentence(word, final=final) else None

    def _is_list_marker(self, last_word: str, at: int) -> bool:
        short = len(last_word) == 1 or (last_word.isdigit() and len(last_word) < 4)
        start = max(self._sentence_start, 0)
        return short and at - start < _LOOK_AHEAD_CHARACTERS and self._text[start:at].lstrip(_BULLETS) == last_word

    def _starts_sentence(self, word: int, *, final: bool) -> bool:
        """Return whether the capitalised word at an index begins a sentence and not a name."""
        end = word
        while end - word < _LOOK_AHEAD_CHARACTERS and self._at(end, final=final).isalpha():
            end += 1
        if end == word:
            return True
        if not self._text[word].isupper():
            return False  # the script has no case, as in Korean
        is_initial = end < len(self._text) and self._text[end] == "."
        return not is_initial and self._text[word:end].lower() in self._words.starters


def sentences(text: str, language: str) -> list[str]:
    """Return the sentences of a complete text, stripped; an unfinished last sentence is included."""
    scanner = SentenceScanner(language)
    scanner.push(text)
    ends: list[int] = []
    quoted: list[int] = []
    for boundary in scanner.advance(final=True):
        if boundary.kind is Kind.QUOTED:
            quoted.append(boundary.end)
        elif boundary.kind is Kind.UNQUOTED:
            ends += [end for end in quoted if end > boundary.end]
        elif boundary.kind >= Kind.SENTENCE:
            quoted.clear()
            ends.append(boundary.end)
    starts = [0, *ends]
    pieces = [scanner.slice(start, end).strip() for start, end in zip(starts, [*ends, scanner.end], strict=True)]
    return [piece for piece in pieces if piece]
