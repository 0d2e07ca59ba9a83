"""Owns the reading of a text's numbers: which form stands where, and that none is half spoken.

One pass from left to right; at each place the first form that fits is read, and what fits none is left as it is
written. :mod:`serve_app.text.numbers.tokens` then takes back what would leave the rest of its token behind. The words
are :mod:`serve_app.text.numbers.words`'; knows nothing of chunks or sessions. docs/chunking.md says what is read.
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
"""How much text before a form, and after it, decides how it is read."""

_WORDS_BEFORE: Final = 4
_CHARACTERS_BEFORE: Final = 64
"""How much of a form may stand before its first digit or sign."""

_BEGINNING = re.compile(rf"(?<![{LETTER}])[{LETTER}]|[^\s{LETTER}]")
"""Where a form may begin: not inside a word."""

_WIDE_CHARACTERS_BEFORE: Final = 8
"""The same in scripts without spaces, where every character is a place to look at."""

_HANGUL = re.compile("[가-힣]")
_KANA = re.compile("[ぁ-ゖァ-ヺ]")
_HAN = re.compile("[一-鿿]")
_COUNTED_HAN = re.compile("[年月日号號时時分秒点點元円圆万萬億亿千百第回人]")
_CYRILLIC = re.compile("[А-яЁё]")
_NOT_RUSSIAN = re.compile("[ІіЇїЄєҐґЎўЂђЈјЉљЊњЋћЏџ]")


@dataclass(frozen=True, slots=True)
class Reading:
    """What is said for a span of a text.

    Attributes:
        begin: index of its first character.
        end: index behind its last one.
        words: what is said for it.
    """

    begin: int
    end: int
    words: str


def spell(text: str, language: str) -> str:
    """Put numbers and what is written like them into words: dates, times, money, units, fractions, addresses.

    Never raises; a text without any such form is returned as it is, and so is everything else of a text with them.
    A form is read whole or left whole. Spelling twice is spelling once.

    Args:
        text: any.
        language: one of :data:`serve_app.config.Language`. ``auto`` is decided by the script of ``text``; Latin
            script names no language, so its digits stay.
    """
    pieces: list[str] = []
    done = 0
    for reading in readings(text, language):
        pieces += [text[done : reading.begin], reading.words]
        done = reading.end
    return "".join([*pieces, text[done:]])


def readings(text: str, language: str) -> list[Reading]:
    """The spans of a text that have words, in order, none overlapping; see :func:`spell`."""
    narrow = text.translate(_NARROW)
    if not _SIGN_OF_A_FORM.search(narrow):
        return []
    language = _by_script(text) if language == "auto" else language
    if language not in GRAMMARS:
        return []
    return [_as_written(reading, text, narrow) for reading in _speller(language).readings(narrow)]


def _as_written(reading: Reading, text: str, narrow: str) -> Reading:
    """A reading whose words before its number stay as the text has them: wide signs are narrow for the forms alone."""
    same = takewhile(
        lambda pair: pair[0] == pair[1], zip(narrow[reading.begin : reading.end], reading.words, strict=False)
    )
    kept = sum(1 for _ in same)
    return replace(reading, words=text[reading.begin : reading.begin + kept] + reading.words[kept:])


def _by_script(text: str) -> str:
    """The one of the ten languages that a text's script names, or ``auto``."""
    if _HANGUL.search(text):
        return "korean"
    if _KANA.search(text):
        return "japanese"
    if _HAN.search(_COUNTED_HAN.sub("", text)):
        return "chinese"
    return "russian" if _CYRILLIC.search(text) and not _NOT_RUSSIAN.search(text) else "auto"


class _Normalizer:
    """Reads one language."""

    def __init__(self, words: NumberWords) -> None:
        self._words = words
        self._forms = {f"form{index}": form for index, form in enumerate(_forms(words))}
        self._any = re.compile("|".join(f"(?P<{name}>{form.pattern})" for name, form in self._forms.items()))

    def readings(self, text: str) -> list[Reading]:
        """See :func:`readings`."""
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
        """The first form that has a sign of one in it, and begins no earlier than an index."""
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
    """The name of the form that matched: the last group to end is the outermost one."""
    assert form.lastgroup is not None
    return form.lastgroup


def _words_before(text: str, at: int) -> int:
    """Where the words begin that may be of the form at an index."""
    begin, earliest = at, max(at - _CHARACTERS_BEFORE, 0)
    for _ in range(_WORDS_BEFORE):
        begin = text.rfind(" ", earliest, begin)
        if begin < 0:
            return earliest
    return begin + 1


def _forms(words: NumberWords) -> list[Form]:
    """All forms of a language; of two that fit at a place, the earlier one is read."""
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
def _speller(language: str) -> _Normalizer:
    return _Normalizer(words_of(language))
