"""Enforces one rule: a token, which readers see as one unit, is put into words completely or not at all.

The words of a form replace a span of text. Spans that touch, or that only a hyphen or a dash separates, belong to
one token. So does a sign, a letter or a digit next to a span. If any part of a token would stay as it is written,
the whole token does.
"""

import re
import unicodedata
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from serve_app.text.numbers.fractions import VULGAR

_CJK = re.compile(
    r"[\u2e80-\u2fdf\u3005-\u3007\u3041-\u30ff\u3131-\u318e\u31f0-\u31ff\u3400-\u9fff\uac00-\ud7a3\uf900-\ufaff]"
)
"""Letters that may stand next to a number without belonging to its token."""

_SPACES: Final = " \u00a0\u2009\u202f"
_DASHES: Final = frozenset("-–—―−")
_DASH = re.compile(rf"[{_SPACES}]?[-–—―−~〜]{{1,3}}[{_SPACES}]?")
_COUNTED_DASH = re.compile(rf"(?:{_CJK.pattern}){{1,2}}(?:{_DASH.pattern})")
"""A counter and a dash that separate the two numbers of one range: ``10点~12点``."""

_EVEN = re.compile(r"[.,][-–—]{1,2}(?!\w)")
"""Follows an amount without cents, as in ``5,-``."""

_QUOTES = re.compile("[\"„“”'‘’]")
_BRACKETS: Final = frozenset("()[]{}")
_FREE: Final = frozenset('"“”„«»‹›‚‘`…•¡¿、。，！？；：「」『』（）【】《》〈〉〔〕・|')
"""Punctuation that separates tokens."""

_INNER: Final = frozenset(".,;:!?'’")
"""Punctuation that separates tokens if white space follows, and belongs to a token if a letter or digit follows."""

_GLUED: Final = frozenset("%‰#@&*/\\_§†‡′″·")
_SYMBOLS: Final = frozenset("°℃℉№©®™℗")
"""Characters of Unicode's category "other symbol" that belong to their neighbours; the other ones are pictures."""

_OPERATORS: Final = frozenset("=+×÷±<>≈≠≤≥^/·⋅∙√∞∑∫~%‰°℃℉")
"""Signs that belong to the number before them, even across a space."""

_PREFIXES: Final = _OPERATORS | frozenset("#§№") - frozenset("%‰°℃℉")
"""Signs that belong to the number after them, even across a space."""

_SIGNS: Final = _PREFIXES | _SYMBOLS | _OPERATORS | _GLUED
_TOKEN_CHARACTERS: Final = 40
_HALF_OF_A_FORM = re.compile(rf"[0-9]\S*[/⁄′″°^²³{VULGAR}]|[{VULGAR}]|[-–−][0-9]")
"""A token that continues the number before it: ``3 1/2``, ``40° 26′``."""

_STRANGE_UNIT = re.compile(
    r"(?:[A-Za-zµμ°]{1,4}[/·⋅^][A-Za-z0-9·⋅^/²³-]+|[A-Za-zµμ]{1,4}[²³⁻]|[a-zµμ]{1,2}[A-Z][A-Za-z]{0,2}"
    r"|[kMGT]?Ω|[kMGT]b(?:ps|its?/s)|(?:[kcdm]?m|[кcсдм]?м|in|ft|yd|mi)[23])(?![A-Za-z0-9])"
)
"""Text that is written like a unit but is not a known one: ``m/s²``, ``dB``."""

_GAP = re.compile(rf"[\s{''.join(map(re.escape, sorted(_FREE)))}]|{_CJK.pattern}")
"""Characters that always separate tokens."""

TextSpan = tuple[int, int]


def whole_spans(text: str, spans: Sequence[TextSpan], *, hyphenated: bool) -> list[bool]:
    """Return for each span whether its words may replace it.

    Args:
        text: the whole text.
        spans: the spans of forms that have words, in order, without overlaps.
        hyphenated: whether a number before a hyphen and a lower-case letter is a separate word: ``20-year-old``.
    """
    tokens = _Tokens(text, spans, hyphenated=hyphenated)
    kept = [False] * len(spans)
    group_end = len(spans)
    for index in reversed(range(len(spans))):
        if index and tokens.linked(index - 1):
            continue
        group = range(index, group_end)
        group_end = index
        follows_left_one = group.stop < len(spans) and not kept[group.stop]
        kept[group.start : group.stop] = [tokens.is_whole(group, left_follows=follows_left_one)] * len(group)
    return kept


class _Tokens:
    """A text and the spans that were found in it."""

    def __init__(self, text: str, spans: Sequence[TextSpan], *, hyphenated: bool) -> None:
        self._text = text
        self._spans = spans
        self._hyphenated = hyphenated
        self._lengths = _marks_of_length(text)
        self._links = [self._are_linked(first[1], second[0]) for first, second in pairwise(spans)]

    def linked(self, index: int) -> bool:
        """Return whether a span and the next one belong to one token."""
        return self._links[index]

    def is_whole(self, group: range, *, left_follows: bool) -> bool:
        """Return whether the spans of a token cover all of it.

        Args:
            group: the token's spans.
            left_follows: whether the span after them stays as it is written.
        """
        for index in group:
            begin, end = self._spans[index]
            before = self._spans[index - 1][1] if index else 0
            after = self._spans[index + 1][0] if index + 1 < len(self._spans) else len(self._text)
            if index and before == begin:
                return False  # the words of two forms would run together
            if self._is_glued(begin - 1, -1, before - 1) or self._is_glued(end, 1, after):
                return False
            if self._has_rest(before, begin, from_end=True) or self._has_rest(end, after):
                return False
            if self._continues_before(begin, before) or self._continues_after(end, after, left_follows=left_follows):
                return False
        return True

    def _are_linked(self, end: int, begin: int) -> bool:
        between = self._text[end:begin]
        if self._run(end, begin) == begin:
            return True
        return len(between) <= 7 and bool(_DASH.fullmatch(between) or _COUNTED_DASH.fullmatch(between))

    def _run(self, begin: int, end: int) -> int:
        """Return the index of the first gap between two indices; the second index if there is no gap."""
        gap = _GAP.search(self._text, begin, end)
        return gap.start() if gap else end

    def _has_rest(self, begin: int, end: int, *, from_end: bool = False) -> bool:
        """Return whether a digit or a sign stands next to a span, without a gap between them."""
        if from_end:
            *_, last = (begin, *(gap.end() for gap in _GAP.finditer(self._text, begin, end)))
            return any(map(_is_rest, self._text[last:end]))
        return any(map(_is_rest, self._text[begin : self._run(begin, end)]))

    def _is_glued(self, at: int, step: int, stop: int) -> bool:
        """Return whether the character at an index, or after the dashes there, belongs to the span next to it."""
        dashed = False
        while at != stop and self._text[at] in _DASHES:
            beyond = self._beyond(at, step)
            if self._hyphenated and self._text[at] == "-" and step > 0 and beyond.isalpha() and not _CJK.match(beyond):
                return False
            if self._text[at] in "–—―" and not beyond.isdigit():
                return False
            dashed = True
            at += step
        return at != stop and (at in self._lengths or self._belongs(at, step, dashed=dashed))

    def _beyond(self, at: int, step: int) -> str:
        return self._text[at + step] if 0 <= at + step < len(self._text) else " "

    def _belongs(self, at: int, step: int, *, dashed: bool) -> bool:
        """Return whether a character belongs to the span next to it; ``step`` points away from the span."""
        character, beyond = self._text[at], self._beyond(at, step)
        if character.isspace() or character in _FREE or _CJK.match(character):
            return False
        if step > 0 and _EVEN.match(self._text, at):
            return True
        if character in _INNER:
            return _is_inside(character, beyond, step)
        if character in _BRACKETS:
            return beyond in _OPERATORS or beyond == "_" or (beyond.isalnum() and not _CJK.match(beyond))
        category = unicodedata.category(character)
        if category == "So":
            return character in _SYMBOLS or "㌀" <= character <= "㏿"  # units written as one character
        return dashed or category[0] in "LNMSC" or character in _GLUED

    def _continues_before(self, begin: int, before: int) -> bool:
        """Return whether a sign and a space before a span belong to it."""
        if begin - 1 <= before or self._text[begin - 1] not in _SPACES:
            return False
        sign = self._text[begin - 2]
        return sign in _PREFIXES or unicodedata.category(sign) == "Sc"

    def _continues_after(self, end: int, after: int, *, left_follows: bool) -> bool:
        """Return whether the text after a span and a space, which stays as it is written, belongs to the span."""
        begin = end + 1
        if self._text[end : end + 1] not in tuple(_SPACES) or (begin == after and not left_follows):
            return False
        token = self._text[begin : begin + _TOKEN_CHARACTERS].split(maxsplit=1)[:1]
        if not token or self._text[begin].isspace():
            return False
        if token[0] in _DASHES:
            return begin + 2 != after and self._text[begin + 2 : begin + 3].isdigit()
        starts = token[0][0] in _OPERATORS or unicodedata.category(token[0][0]) == "Sc"
        return starts or bool(_HALF_OF_A_FORM.match(token[0]) or _STRANGE_UNIT.match(token[0]))


def _marks_of_length(text: str) -> set[int]:
    """Return the indices of quotation marks that mean inches or feet: after a digit, and closing no quotation."""
    found: set[int] = set()
    is_open = {"inch": False, "foot": False}
    for mark in _QUOTES.finditer(text):
        kind = "inch" if mark.group() in '"„“”' else "foot"
        before, after = text[mark.start() - 1 : mark.start()], text[mark.end() : mark.end() + 1]
        if is_open[kind]:
            is_open[kind] = kind == "foot" and before.isalpha() and after.isalpha()
        elif mark.group() in "\"'’" and before.isnumeric() and (kind == "inch" or not after.isalpha()):
            found.add(mark.start())
        else:
            is_open[kind] = kind == "inch" or (not before.isalnum() and after.isalnum())
    return found


def _is_inside(mark: str, beyond: str, step: int) -> bool:
    """Return whether a mark next to a span belongs to its token, judging by the character on its other side."""
    if step < 0 and beyond.isspace():
        return mark in ".,"  # a decimal mark without digits before it, in a language that does not write such numbers
    if mark in "'’" or (step < 0 and mark in ",:;!"):
        return _is_numeric(beyond)
    return (beyond.isalnum() and not _CJK.match(beyond)) or beyond in _OPERATORS


def _is_numeric(character: str) -> bool:
    return character.isnumeric() and not _CJK.match(character)


def _is_rest(character: str) -> bool:
    """Return whether a character that stays as it is written would leave its token only partly in words."""
    return (
        character in _SIGNS
        or "㌀" <= character <= "㏿"
        or unicodedata.category(character) in {"Sc", "Sm"}
        or _is_numeric(character)
    )
