"""Owns the reading of digits in a text: which of them are a number, a date, a time or an amount, and which are none.

One pass from left to right; at each place the first form that fits is read, and what fits none is left as it is
written. The words are :mod:`serve_app.number_words`'; knows nothing of chunks or sessions. docs/chunking.md says what
is read and what is left.
"""

import re
from functools import cache
from typing import Final

from serve_app.date_forms import dates, times, years
from serve_app.number_forms import Form, Place, amounts, left_alone, rest, telephones
from serve_app.number_grammar import GRAMMARS
from serve_app.number_words import NumberWords, words_of

_NARROW = str.maketrans("０１２３４５６７８９．：％＄￥", "0123456789.:%$¥")
_DIGIT = re.compile("[0-9]")
_CONTEXT_CHARACTERS: Final = 24
"""How much text before a number, and after it, decides how it is read."""

_HANGUL = re.compile("[가-힣]")
_KANA = re.compile("[ぁ-ゖァ-ヺ]")
_HAN = re.compile("[一-鿿]")
_COUNTED_HAN = re.compile("[年月日号號时時分秒点點元円圆万萬億亿千百第回人]")
_CYRILLIC = re.compile("[А-яЁё]")
_NOT_RUSSIAN = re.compile("[ІіЇїЄєҐґЎўЂђЈјЉљЊњЋћЏџ]")


def spell(text: str, language: str) -> str:
    """Put numbers, dates, clock times and amounts of money into words.

    Never raises; a text without digits is returned as it is, and so is everything else of a text with them. Spelling
    twice is spelling once.

    Args:
        text: any.
        language: one of :data:`serve_app.config.Language`. ``auto`` is decided by the script of ``text``; Latin
            script names no language, so its digits stay.
    """
    if not _DIGIT.search(text.translate(_NARROW)):
        return text
    language = _by_script(text) if language == "auto" else language
    return _speller(language).spell(text) if language in GRAMMARS else text


def _by_script(text: str) -> str:
    """The one of the ten languages that a text's script names, or ``auto``."""
    if _HANGUL.search(text):
        return "korean"
    if _KANA.search(text):
        return "japanese"
    if _HAN.search(_COUNTED_HAN.sub("", text)):
        return "chinese"
    return "russian" if _CYRILLIC.search(text) and not _NOT_RUSSIAN.search(text) else "auto"


class _Speller:
    """Reads one language."""

    def __init__(self, words: NumberWords) -> None:
        self._words = words
        self._forms = {f"form{index}": form for index, form in enumerate(_forms(words))}
        self._any = re.compile("|".join(f"(?P<{name}>{form.pattern})" for name, form in self._forms.items()))

    def spell(self, text: str) -> str:
        """See :func:`spell`."""
        narrow = text.translate(_NARROW)
        pieces: list[str] = []
        done = position = 0
        while digit := _DIGIT.search(narrow, position):
            found = self._any.search(narrow, max(position, _word_before(narrow, digit.start())))
            assert found is not None
            begin, position = found.span()
            spoken = self._forms[str(found.lastgroup)].read(self._place(narrow, found))
            if spoken is not None:
                pieces += [text[done:begin], spoken]
                done = position
        return "".join([*pieces, text[done:]])

    def _place(self, text: str, found: re.Match[str]) -> Place:
        begin, end = found.span()
        groups = {name: group for name, group in found.groupdict().items() if group is not None}
        before = text[max(begin - _CONTEXT_CHARACTERS, 0) : begin]
        return Place(self._words, groups, found.group(), before, text[end : end + _CONTEXT_CHARACTERS])


def _word_before(text: str, at: int) -> int:
    """Where the word before the one at an index begins: nothing that is read begins earlier."""
    return text.rfind(" ", 0, max(text.rfind(" ", 0, at), 0)) + 1


def _forms(words: NumberWords) -> list[Form]:
    """All forms of a language; of two that fit at a place, the earlier one is read."""
    grammar = words.grammar
    return [
        *left_alone(),
        *dates(words),
        *years(words),
        *times(grammar),
        *telephones(grammar),
        *amounts(grammar),
        rest(),
    ]


@cache
def _speller(language: str) -> _Speller:
    return _Speller(words_of(language))
