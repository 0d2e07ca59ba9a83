"""Owns the forms that plain numbers, percentages, ranges, ordinals and amounts of money are written in.

A form is a pattern and what reads it; named groups are unique among all forms of a language, because they become one
pattern. Dates and times are :mod:`serve_app.date_forms`'. Nothing here looks for a place in a text.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from serve_app.number_grammar import Grammar
from serve_app.number_words import MOST_DIGITS, NumberWords

LETTER: Final = "A-Za-zÀ-ÖØ-öø-ɏЀ-ӿ"
"""Letters of the scripts that part words by spaces, as a part of a class; digits next to one belong to its word."""

_SIGNS: Final = {
    "US$": "USD", "CA$": "CAD", "AU$": "AUD", "HK$": "HKD", "NT$": "TWD", "NZ$": "NZD", "R$": "BRL", "C$": "CAD",
    "A$": "AUD", "S$": "SGD", "$": "USD", "€": "EUR", "£": "GBP", "¥": "JPY", "₩": "KRW", "₽": "RUB", "₹": "INR",
}  # fmt: skip
_CODES: Final = (
    "USD", "EUR", "GBP", "JPY", "CNY", "KRW", "RUB", "INR", "BRL", "CAD", "AUD", "HKD", "TWD", "NZD", "SGD", "CHF",
    "SEK", "NOK", "DKK", "PLN", "CZK", "MXN", "ARS", "TRY", "ZAR", "THB",
)  # fmt: skip
# Digits are [0-9] throughout, because \d is those of all scripts.
_MINUS = rf"(?:(?<![0-9{LETTER})\]%])[-−])?"
_ORDINAL_PREFIXES = ("第", "제")
_MOST_BARE_DIGITS = 9
"""More digits without a mark between thousands are a telephone, an account or a card, and read one by one."""

_MOST_ORDINAL_DIGITS = 4
"""CLDR's Russian ordinals end soon after."""

_MILLION = 1_000_000
_YEAR = re.compile(r"1[1-9][0-9][0-9]|20[0-9][0-9]")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a form was found.

    Attributes:
        words: of the language that is read.
        groups: the form's named groups, those that took part.
        text: all of it.
        before: some text before it.
        after: some text after it.
    """

    words: NumberWords
    groups: dict[str, str]
    text: str
    before: str
    after: str

    @property
    def grammar(self) -> Grammar:
        """Of the language that is read."""
        return self.words.grammar


@dataclass(frozen=True, slots=True)
class Form:
    """One way to write something with digits.

    Attributes:
        pattern: for :mod:`re`.
        read: its words; None where it is no such thing after all, and stays as it is written.
    """

    pattern: str
    read: Callable[[Place], str | None]


def after_any(*words: str) -> str:
    """The pattern of a place after one of some words and a space."""
    return "(?:" + "|".join(rf"(?<=\b{word} )" for word in words) + ")"


def end(grammar: Grammar) -> str:
    """The pattern of a place where a number ends and nothing is glued to it."""
    hyphen = f"(?!-[0-9A-ZÀ-ÖØ-Þ])(?!-[{LETTER}]*[0-9])" if grammar.hyphenated else f"(?!-[0-9{LETTER}])"
    return rf"(?![0-9{LETTER}])(?![._/:][0-9{LETTER}])(?!(?<=[0-9])[,'’][0-9])(?!://){hyphen}"


def number(grammar: Grammar) -> str:
    """The pattern of a number as the language writes it, without a sign."""
    grouped = "|".join(
        rf"[0-9]{{1,3}}(?:{re.escape(mark)}[0-9]{{3}})+(?!{' ?' if mark == ' ' else ''}[0-9])"
        for mark in grammar.groups
    )
    return rf"(?:{grouped}|[0-9]+)(?:{re.escape(grammar.decimal)}[0-9]+)?"


def left_alone() -> list[Form]:
    """Web and e-mail addresses."""
    return [
        Form(rf"(?<![0-9{LETTER}])(?:[A-Za-z]+://|www\.)[!-~]+", _leave),
        Form(rf"(?<![0-9{LETTER}._%+-])[0-9A-Za-z._%+-]+@[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)+", _leave),
    ]


def telephones(grammar: Grammar) -> list[Form]:
    """Digits in several groups that are not thousands."""
    thousands = r"(?![0-9]{1,3}(?: [0-9]{3})+(?! ?[0-9]))" if " " in grammar.groups else ""
    return [
        Form(r"\+[0-9][0-9 ()./-]{5,}[0-9]", _leave),
        Form(r"\([0-9]{2,5}\) ?[0-9][0-9 -]{3,}[0-9]", _leave),
        Form(r"0[0-9]{1,5}(?:[ ./-][0-9]{2,})+", _leave),
        Form(rf"{thousands}[0-9]{{2,}}(?: [0-9]{{2,}}){{2,}}(?: [0-9]+)*", _leave),
    ]


def amounts(grammar: Grammar) -> list[Form]:
    """Money, percentages, ranges, ordinals, and at last the number that is nothing else."""
    written, over = number(grammar), end(grammar)
    signs = "|".join(map(re.escape, _SIGNS))
    codes = "|".join(_CODES)
    scale = rf"{' ' if grammar.digit_gap else ' ?'}(?:{grammar.scales})(?![{LETTER}])"
    return [
        Form(
            rf"(?P<minus1>{_MINUS})(?<![0-9{LETTER}])(?P<sign1>{signs}|(?:{codes})(?= ?[0-9])) ?"
            rf"(?P<amount1>{written})(?:(?P<scale1>{scale})|{over})",
            lambda place: _money(place, "1"),
        ),
        Form(
            rf"(?P<minus2>{_MINUS})(?P<amount2>{written})(?P<scale2>{scale})? ?"
            rf"(?P<sign2>[$€£¥₩₽₹]|{codes}){over}",
            lambda place: _money(place, "2"),
        ),
        Form(rf"(?P<from>{written})(?P<dash> ?[–—] ?|-)(?P<to>{written})(?P<parts> ?%)?{over}", _range),
        Form(rf"(?P<percent>{_MINUS}{written}) ?%{over}", _percent),
        *_ordinals(grammar),
        Form(rf"(?P<plain>{_MINUS}{written}){over}", _plain),
    ]


def rest() -> Form:
    """Whatever else has digits: a word or an identifier with some, a version, a score. Taken whole, and left."""
    joint = rf"[._/:-][0-9{LETTER}]+|(?<=[0-9])[,'’][0-9][0-9{LETTER}]*"
    return Form(rf"[0-9{LETTER}]+(?:{joint})*", _leave)


def spoken_number(words: NumberWords, written: str, after: str = "") -> str:
    """The words of a number as its language writes it, with or without a sign."""
    whole, _, fraction = written.lstrip("-−").partition(words.grammar.decimal)
    digits = "".join(filter(str.isdigit, whole))
    most = _MOST_BARE_DIGITS if whole == digits else MOST_DIGITS
    spoken = words.decimal(digits, fraction) if fraction else words.whole(digits, after, most)
    return spoken if written[0].isdigit() else words.negative(spoken)


def _value(words: NumberWords, written: str) -> int | Decimal:
    """What a number amounts to, for the words that agree with it."""
    whole, _, fraction = written.lstrip("-−").partition(words.grammar.decimal)
    digits = "".join(filter(str.isdigit, whole))[-18:]
    return Decimal(f"{digits}.{fraction[:18]}") if fraction else int(digits)


def _ordinals(grammar: Grammar) -> list[Form]:
    if not grammar.ordinals:
        return []
    hyphen = "-" if grammar.code == "ru" else ""
    # An Italian 20° is the twentieth before a word only, elsewhere it is degrees.
    suffixes = [
        re.escape(hyphen + suffix) + (r"(?= [^\W\d_])(?! ?[CFK]\b)" if suffix == "°" else "")
        for suffix in sorted(grammar.ordinals, key=len, reverse=True)
    ]
    return [Form(rf"(?P<nth>[0-9]+)(?P<suffix>{'|'.join(suffixes)}){end(grammar)}", _ordinal)]


def _leave(_: Place) -> None:
    return None


def _plain(place: Place) -> str:
    written = place.groups["plain"]
    after = "" if place.before.endswith(_ORDINAL_PREFIXES) else place.after.lstrip()
    spoken = spoken_number(place.words, written, after)
    # Korean parts a native number from its counter: 3개 is 세 개.
    native = place.grammar.code == "ko" and spoken != spoken_number(place.words, written)
    return f"{spoken} " if native and not place.after[:1].isspace() else spoken


def _percent(place: Place) -> str:
    return _percentage(place, place.groups["percent"])


def _percentage(place: Place, written: str) -> str:
    grammar = place.grammar
    noun = "Prozent" if grammar.code == "de" else ""
    spoken = spoken_number(place.words, written, noun)
    percent = place.words.plural(grammar.percents, _value(place.words, written))
    return grammar.percent.format(number=spoken, percent=percent)


def _range(place: Place) -> str | None:
    first, last = place.groups["from"], place.groups["to"]
    if _value(place.words, first) >= _value(place.words, last):
        return None
    # 555-1234 is no range, 99-100 and 1990-1995 are; a dash leaves no doubt.
    if place.groups["dash"] == "-" and (last[0] == "0" or (len(last) > 3 and len(last) != len(first))):
        return None
    until = place.grammar.until or place.groups["dash"]
    if "parts" in place.groups:
        return f"{spoken_number(place.words, first)}{until}{_percentage(place, last)}"
    if _YEAR.fullmatch(first) and _YEAR.fullmatch(last) and place.grammar.code in ("en", "de"):
        return f"{place.words.year(int(first))}{until}{place.words.year(int(last))}"
    return f"{spoken_number(place.words, first)}{until}{spoken_number(place.words, last, place.after.lstrip())}"


def _ordinal(place: Place) -> str | None:
    digits, suffix = place.groups["nth"], place.groups["suffix"].lstrip("-")
    if len(digits) > _MOST_ORDINAL_DIGITS:
        return None
    if suffix == "е" and digits.endswith("0"):
        suffix = "ые"  # Russian 1990-е are years, more than one
    return place.words.year(int(digits), place.grammar.ordinals[suffix])


def _money(place: Place, group: str) -> str:
    words, grammar, groups = place.words, place.grammar, place.groups
    sign, amount = groups[f"sign{group}"], groups[f"amount{group}"]
    scale = groups.get(f"scale{group}", "")
    code = _SIGNS.get(sign, sign)
    if sign == "¥" and grammar.yuan:
        code = "CNY"
    spoken = _sum(words, amount, scale, code, short=sign in _SIGNS)
    return words.negative(spoken) if groups[f"minus{group}"] else spoken


def _sum(words: NumberWords, amount: str, scale: str, code: str, *, short: bool) -> str:
    """An amount with its currency: ``5.50`` is five euros fifty, ``5 million`` five million euros."""
    grammar = words.grammar
    if scale:
        name = words.currency(code, _MILLION, short=short)
        return f"{spoken_number(words, amount, scale.lstrip())}{scale}{grammar.gap}{_of(grammar, name)}{name}"
    value = _value(words, amount)
    whole, _, cents = amount.partition(grammar.decimal)
    if len(cents) == 2 and grammar.minor is not None and value >= 1 and (cents == "00" or cents[0] != "0"):
        name = words.currency(code, int(value), short=short)
        spoken = f"{spoken_number(words, whole, name)} {name}"
        return spoken if cents == "00" else f"{spoken}{grammar.minor}{words.cardinal(int(cents))}"
    name = words.currency(code, value, short=short)
    of = _of(grammar, name) if value >= _MILLION and value % _MILLION == 0 else ""
    return f"{spoken_number(words, amount, name)}{grammar.gap}{of}{name}"


def _of(grammar: Grammar, name: str) -> str:
    """What stands between millions and a currency: French says ``d'euros`` before a vowel."""
    return "d'" if grammar.code == "fr" and name[0] in "aeiou" else grammar.of
