"""Cuts an utterance's text into text chunks; knows nothing about sessions, models or audio.

The chunks are a function of the text alone. The first is a clause, so that speech starts early. Later ones
are whole sentences, and they grow as the utterance goes on: while the audio that was already sent plays, there
is time to wait for longer ones. docs/chunking.md has the rules and the measurements.
"""

import re
import unicodedata
from bisect import bisect_right
from itertools import accumulate
from typing import Final

from serve_app.config import TextConfig
from serve_app.text.abbreviations import CONJUNCTIONS
from serve_app.text.characters import is_pronounceable
from serve_app.text.quotations import is_wide
from serve_app.text.sentences import Boundary, Kind, SentenceScanner

_STRONG_CLAUSE_MARKS = frozenset(";:；：")
_NOT_FIRST = frozenset(".,;:!?…%)]}»”’。、，；：！？）］】》〉」』｣ー々ぁぃぅぇぉっゃゅょァィゥェォッャュョ")
_WORD_AFTER_SPACE = re.compile(r"\s(?=(\w+)\s)")
_SPACE = re.compile(r"\s")
_JOINERS = frozenset("\u200c\u200d")
_LONGEST_CLUSTER_CHARACTERS: Final = 64


class Chunker:
    """Cuts one utterance's text, pushed in any pieces, into text chunks.

    However a text is split into pushes, with one flush at the end, the chunks are the same. Joined, they are the
    text, except for white space and for chunks with nothing to pronounce, such as ``…`` in a paragraph of its own.
    The configuration has the lengths of the chunks; a CJK or Hangul character is about one syllable and counts as two.
    The chunker keeps at most about ``longest_chunk_characters`` of text.
    """

    def __init__(self, language: str, config: TextConfig) -> None:
        self._config = config
        self._scanner = SentenceScanner(language)
        self._lengths = [0]  # _lengths[i]: spoken length of everything before index _origin + i
        self._origin = 0
        self._start = 0  # where the current chunk begins; all indices are the scanner's
        self._whole = 0  # end of the chunk's last whole sentence; at most _start if it has none
        self._inner: list[Boundary] = []  # places where the chunk could be cut
        self._line_ends: list[int] = []
        self._emitted = 0

    @property
    def buffered_characters(self) -> int:
        """Number of characters that no chunk has returned yet, white space collapsed."""
        return self._scanner.end - self._start

    def push(self, text: str) -> list[str]:
        """Accept more text; return the chunks that later text can no longer change."""
        self._measure(self._scanner.push(text))
        return self._chunks(final=False)

    def flush(self) -> list[str]:
        """Return everything that is left, in chunks; the next push continues the same utterance."""
        return self._chunks(final=True)

    def _chunks(self, *, final: bool) -> list[str]:
        chunks: list[str] = []
        for boundary in self._scanner.advance(final=final):
            self._keep_within_limits(boundary.seen, chunks)
            self._take(boundary, chunks)
        self._keep_within_limits(self._scanner.position, chunks)
        if final:
            self._emit(self._scanner.end, chunks)
        self._scanner.drop(self._start)
        del self._lengths[: self._start - self._origin]
        self._origin = self._start
        return chunks

    def _measure(self, text: str) -> None:
        steps = (2 if is_wide(character) else 1 for character in text)
        self._lengths += list(accumulate(steps, initial=self._lengths[-1]))[1:]

    def _length(self, end: int) -> int:
        """Return the spoken length that the current chunk would have if it ended at ``end``."""
        return self._lengths[end - self._origin] - self._lengths[self._start - self._origin]

    def _skip_white_space(self, before: int) -> None:
        while self._start < before and self._scanner.slice(self._start, self._start + 1).isspace():
            self._start += 1

    def _keep_within_limits(self, seen: int, chunks: list[str]) -> None:
        """Emit chunks until the rest of the text up to ``seen`` fits into one chunk."""
        self._skip_white_space(seen)
        while True:
            if self._whole > self._start and self._length(seen) > self._config.chunk_budget_characters:
                self._emit(self._whole, chunks)
            elif self._length(seen) > self._config.longest_chunk_characters and seen > self._start + 1:
                self._emit(self._best_inner_end(), chunks)
            else:
                return
            self._skip_white_space(seen)

    def _take(self, boundary: Boundary, chunks: list[str]) -> None:
        if boundary.kind is Kind.UNQUOTED:
            for inner in list(self._inner):
                if inner.kind is Kind.QUOTED and inner.end > boundary.end:
                    self._end_sentence(inner.end, chunks)
        elif boundary.kind in {Kind.CLAUSE, Kind.QUOTED}:
            self._end_clause(boundary, chunks)
        else:
            if boundary.kind is Kind.LINE:
                self._line_ends.append(boundary.end)
            self._end_sentence(boundary.end, chunks)
            if boundary.kind is Kind.PARAGRAPH and self._whole > self._start:
                self._emit(self._whole, chunks)

    def _end_clause(self, boundary: Boundary, chunks: list[str]) -> None:
        self._inner.append(boundary)
        ends_first = not self._emitted and boundary.kind is Kind.CLAUSE and not boundary.quoted
        if ends_first and self._length(boundary.end) >= self._wanted_length():
            self._keep_within_limits(boundary.end, chunks)
            self._emit(boundary.end, chunks)

    def _end_sentence(self, end: int, chunks: list[str]) -> None:
        self._keep_within_limits(end, chunks)
        self._whole = max(end, self._whole)
        if end > self._start and self._length(end) >= self._wanted_length():
            self._emit(end, chunks)

    def _wanted_length(self) -> int:
        """Return the minimum length of the current chunk; it grows with the number of chunks emitted."""
        if not self._emitted:
            return self._config.first_chunk_characters // 4
        return min(self._config.first_chunk_characters * self._emitted, self._config.chunk_budget_characters // 2)

    def _emit(self, end: int, chunks: list[str]) -> None:
        text = self._text_until(end)
        if is_pronounceable(text):
            chunks.append(text)
            self._emitted += 1
        self._start = max(end, self._start)
        self._inner = [inner for inner in self._inner if inner.end > end]
        self._line_ends = [line_end for line_end in self._line_ends if line_end > end]

    def _text_until(self, end: int) -> str:
        """Return the chunk's text; line ends inside it stay, because they are pauses, but wrapped lines are joined."""
        ends = [*(line_end for line_end in self._line_ends if self._start < line_end < end), end]
        lines = (self._scanner.slice(start, stop) for start, stop in zip([self._start, *ends], ends, strict=False))
        return "\n".join(" ".join(line.split()) for line in lines).strip()

    # --- overlong sentences -----------------------------------------------------------------------

    def _best_inner_end(self) -> int:
        """Return where to cut a sentence longer than the limit: the latest of the best kind of places."""
        first = self._start - self._origin
        longest = self._lengths[first] + self._config.longest_chunk_characters
        limit = max(bisect_right(self._lengths, longest) - 1 + self._origin, self._start + 1)
        return self._inner_end_at_mark(limit) or self._start + self._inner_end_at_word(limit)

    def _inner_end_at_mark(self, limit: int) -> int | None:
        earliest = self._config.longest_chunk_characters // 3
        ends = [at for at in self._inner if self._start < at.end <= limit and self._length(at.end) >= earliest]
        if not ends:
            return None
        return max(ends, key=lambda at: (at.kind, self._is_strong(at), at.end)).end

    def _is_strong(self, at: Boundary) -> bool:
        return self._scanner.slice(at.end - 1, at.end) in _STRONG_CLAUSE_MARKS

    def _inner_end_at_word(self, limit: int) -> int:
        text = self._scanner.slice(self._start, limit + 1)
        last = len(text) - 1
        gaps = [(gap.start(), gap[1].lower()) for gap in _WORD_AFTER_SPACE.finditer(text, last // 3)]
        if conjunctions := [gap for gap, word in gaps if word in CONJUNCTIONS]:
            return conjunctions[-1]
        spaces = [gap.start() for gap in _SPACE.finditer(text, 1)]
        if unbroken := [gap for gap in spaces if gap < last and _may_part(text[gap - 1], text[gap + 1])]:
            return unbroken[-1]
        return spaces[-1] if spaces else _last_break(text)


def _may_part(before: str, after: str) -> bool:
    """Return whether the space between two characters may be cut; not that of ``Dr. Smith``, ``1 000`` or ``Oui !``."""
    return before != "." and after not in _NOT_FIRST and not (before.isdigit() and after.isdigit())


def _last_break(text: str) -> int:
    """Return the last index where ``text``, which has no spaces, may be cut; at least one character follows it."""
    last = len(text) - 1
    places = range(last, max(last - _LONGEST_CLUSTER_CHARACTERS, 0), -1)
    breaks = [at for at in places if _is_cluster_break(text, at)]
    for at in breaks:
        joined = text[at - 1].isalnum() and text[at].isalnum() and not (is_wide(text[at - 1]) or is_wide(text[at]))
        if not joined and text[at] not in _NOT_FIRST:
            return at
    return breaks[0] if breaks else last


def _is_cluster_break(text: str, at: int) -> bool:
    """Return whether a cut at an index splits no grapheme cluster (implements a part of UAX #29)."""
    before, after = text[at - 1], text[at]
    if before in _JOINERS or after in _JOINERS or unicodedata.category(after) in {"Mn", "Mc", "Me", "Cs"}:
        return False
    is_flag = "\U0001f1e6" <= before <= "\U0001f1ff" and "\U0001f1e6" <= after <= "\U0001f1ff"
    is_skin = "\U0001f3fb" <= after <= "\U0001f3ff"
    is_jamo = "\u1160" <= after <= "\u11ff" and "\u1100" <= before <= "\ud7a3"
    return not (is_flag or is_skin or is_jamo)
