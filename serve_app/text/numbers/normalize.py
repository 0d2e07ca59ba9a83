"""Puts the numbers of a text into words; knows nothing about chunks or sessions.

One pass goes from left to right. At each position it reads the first form that matches; text that matches no form
stays as it is written. :mod:`serve_app.text.numbers.tokens` then rejects readings that cover only a part of a token.
The words come from :mod:`serve_app.text.numbers.words`. docs/chunking.md lists what is read.
"""

import re
from dataclasses import dataclass, replace
from functools import cache
from itertools import takewhile
from typing import Final

from serve_app.text.numbers.addresses import ADDRESS_SIGNS, FORMULA_SIGNS, addresses, left_alone
from serve_app.text.numbers.dates import dates, times, years
from serve_app.text.numbers.forms import LETTER, Form, Place, numbers, ordinals, ranges_of_counts, rest
from serve_app.text.numbers.fractions import VULGAR, fractions
from serve_app.text.numbers.grammar import GRAMMARS
from serve_app.text.numbers.money import money
from serve_app.text.numbers.romans import ROMAN, romans
from serve_app.text.numbers.telephones import telephones
from serve_app.text.numbers.tokens import whole_spans
from serve_app.text.numbers.units import units
from serve_app.text.numbers.words import NumberWords, words_of

_NARROW = str.maketrans("０１２３４５６７８９．：％＄￥￡￦～∼－\u2010\u2011", "0123456789.:%$¥£₩~~---")
_SIGN_OF_A_FORM = re.compile(rf"[0-9{VULGAR}]|{ADDRESS_SIGNS}|{FORMULA_SIGNS}|{ROMAN}")
_CONTEXT_CHARACTERS: Final = 24
"""How much text before and after a form may influence how it is read."""

_WORDS_BEFORE: Final = 4
_CHARACTERS_BEFORE: Final = 64
"""A form may have at most this many characters before its first digit or sign."""

_BEGINNING = re.compile(rf"(?<![{LETTER}])[{LETTER}]|[^\s{LETTER}]")
"""The positions where a form may begin: not inside a word."""

_WIDE_CHARACTERS_BEFORE: Final = 8
"""The same limit for scripts without spaces, in which every character may begin a form."""

_HANGUL = re.compile("[가-힣]")
_KANA = re.compile("[ぁ-ゖァ-ヺ]")
_HAN = re.compile("[一-鿿]")
_COUNTED_HAN = re.compile("[年月日号號时時分秒点點元円圆万萬億亿千百第回人]")
_CYRILLIC = re.compile("[А-яЁё]")
_NOT_RUSSIAN = re.compile("[ІіЇїЄєҐґЎўЂђЈјЉљЊњЋћЏџ]")


@dataclass(frozen=True, slots=True)
class Reading:
    """The words that replace a span of a text.

    Attributes:
        begin: index of the span's first character.
        end: index after its last character.
        words: the replacement.
    """

    begin: int
    end: int
    words: str


def normalize(text: str, language: str, otherwise: str = "auto") -> str:
    """Put numbers, dates, times, money, units, fractions and addresses into words.

    This never raises. All other text is returned unchanged. A form is read completely or not at all. The function
    is idempotent.

    Args:
        text: any text.
        language: one of :data:`serve_app.config.Language`. For ``auto``, the script of ``text`` decides.
        otherwise: the language if that script identifies none, as Latin script; ``auto`` leaves such a text unchanged.
    """
    pieces: list[str] = []
    done = 0
    for reading in readings(text, language, otherwise):
        pieces += [text[done : reading.begin], reading.words]
        done = reading.end
    return "".join([*pieces, text[done:]])


def readings(text: str, language: str, otherwise: str = "auto") -> list[Reading]:
    """Return the readings of a text in order, without overlaps; see :func:`normalize`."""
    narrow = text.translate(_NARROW)
    if not _SIGN_OF_A_FORM.search(narrow):
        return []
    language = _by_script(text) if language == "auto" else language
    language = otherwise if language == "auto" else language
    if language not in GRAMMARS:
        return []
    return [_as_written(reading, text, narrow) for reading in _normalizer(language).readings(narrow)]


def _as_written(reading: Reading, text: str, narrow: str) -> Reading:
    """Restore the original characters before the number of a reading: only the forms need narrow signs."""
    same = takewhile(
        lambda pair: pair[0] == pair[1], zip(narrow[reading.begin : reading.end], reading.words, strict=False)
    )
    kept = sum(1 for _ in same)
    return replace(reading, words=text[reading.begin : reading.begin + kept] + reading.words[kept:])


def _by_script(text: str) -> str:
    """Return the language that a text's script identifies, or ``auto``."""
    if _HANGUL.search(text):
        return "korean"
    if _KANA.search(text):
        return "japanese"
    if _HAN.search(_COUNTED_HAN.sub("", text)):
        return "chinese"
    return "russian" if _CYRILLIC.search(text) and not _NOT_RUSSIAN.search(text) else "auto"


class _Normalizer:
    """Reads the forms of one language."""

    def __init__(self, words: NumberWords) -> None:
        self._words = words
        self._forms = {f"form{index}": form for index, form in enumerate(_forms(words))}
        self._any = re.compile("|".join(f"(?P<{name}>{form.pattern})" for name, form in self._forms.items()))

    def readings(self, text: str) -> list[Reading]:
        """Return the readings of a text in this language, in order, without overlaps."""
        found: list[Reading] = []
        position = 0
        while sign := _SIGN_OF_A_FORM.search(text, position):
            form = self._form_at(text, max(position, _words_before(text, sign.start())), sign)
            if form is None:
                position = sign.end()
                continue
            position = form.end()
            words = self._forms[_name_of(form)].read(self._place(text, form))
            if words is not None:
                found.append(Reading(form.start(), form.end(), words))
        spans = [(reading.begin, reading.end) for reading in found]
        whole = whole_spans(text, spans, hyphenated=self._words.grammar.hyphenated)
        return [reading for reading, is_whole in zip(found, whole, strict=True) if is_whole]

    def _form_at(self, text: str, begin: int, sign: re.Match[str]) -> re.Match[str] | None:
        """Return the first form that includes ``sign`` and does not begin before ``begin``."""
        for beginning in _BEGINNING.finditer(text, begin, sign.start() + 1):
            at = beginning.start()
            if sign.start() - at > _WIDE_CHARACTERS_BEFORE and text[at] >= "\u3000":
                continue
            form = self._any.match(text, at)
            if form is not None and form.end() > sign.start():
                return form
        return None

    def _place(self, text: str, form: re.Match[str]) -> Place:
        begin, end = form.span()
        groups = {name: group for name, group in form.groupdict().items() if group is not None}
        before = text[max(begin - _CONTEXT_CHARACTERS, 0) : begin]
        return Place(self._words, groups, form.group(), before, text[end : end + _CONTEXT_CHARACTERS])


def _name_of(form: re.Match[str]) -> str:
    """Return the name of the form that matched; its group is the outermost, so it ends last."""
    assert form.lastgroup is not None
    return form.lastgroup


def _words_before(text: str, at: int) -> int:
    """Return the earliest index where a form whose first sign is at ``at`` may begin."""
    begin, earliest = at, max(at - _CHARACTERS_BEFORE, 0)
    for _ in range(_WORDS_BEFORE):
        begin = text.rfind(" ", earliest, begin)
        if begin < 0:
            return earliest
    return begin + 1


def _forms(words: NumberWords) -> list[Form]:
    """Return all forms of a language; if two match at the same position, the earlier one in the list is read."""
    grammar = words.grammar
    return [
        *left_alone(),
        *addresses(),
        *ranges_of_counts(grammar),
        *dates(words),
        *years(words),
        *times(grammar),
        *telephones(words),
        *romans(words),
        *money(words),
        *fractions(words),
        *ordinals(grammar),
        *units(words),
        *numbers(grammar),
        rest(),
    ]


@cache
def _normalizer(language: str) -> _Normalizer:
    return _Normalizer(words_of(language))
