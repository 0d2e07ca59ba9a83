"""Owns the words of numbers, months and currencies in ten languages; knows nothing of the text that they stand in.

The words are CLDR's: number words by unicode-rbnf, names and plural forms by Babel. Importing them takes 50 ms, and a
language 15 to 60 ms at its first number, so they are imported by who needs numbers spelled, when he first does.
"""

import re
from collections.abc import Collection, Iterable
from decimal import Decimal
from functools import cache, lru_cache

from babel import Locale
from babel.dates import get_month_names
from babel.numbers import get_currency_name
from unicode_rbnf import RbnfEngine

from serve_app.text.numbers.grammar import GRAMMARS, Grammar

MOST_DIGITS = 12
"""Digits of the largest number that has words here."""

_REMEMBERED_NUMBERS = 8192
_FRACTIONS = {
    1: ("десятая", "десятых"),
    2: ("сотая", "сотых"),
    3: ("тысячная", "тысячных"),
}
"""What Russian calls the parts of one, by their number of decimals."""


@cache
def _rules(code: str) -> RbnfEngine:
    return RbnfEngine.for_language(code)


@lru_cache(_REMEMBERED_NUMBERS)
def _spelled(code: str, rule_set: str, number: int) -> str:
    return _rules(code).format_number(number, ruleset_names=[f"spellout-{rule_set}"]).text


class NumberWords:
    """The words of one language.

    Attributes:
        grammar: how they agree.
        months: number of a month by its name or abbreviation, lower case, without full stops.
        month_names: as they are written, the longest first.
        month_abbreviations: those that are no whole names, without full stops.
        months_are_numbers: a date has no names of months.
    """

    def __init__(self, grammar: Grammar) -> None:
        self.grammar = grammar
        self._locale = Locale.parse(grammar.code)
        self._months = {number: str(name) for number, name in get_month_names("wide", locale=grammar.code).items()}
        short = {number: str(name) for number, name in get_month_names("abbreviated", locale=grammar.code).items()}
        more = {9: ["Sept"]} if grammar.code == "en" else {}
        self.months_are_numbers = self._months[1][0].isdigit() or not grammar.digit_gap
        self.month_names = _as_written(self._months.values())
        self.month_abbreviations = _as_written([*short.values(), *more.get(9, [])], but=self.month_names)
        self.months = {
            name.lower().rstrip("."): number for names in (short, self._months) for number, name in names.items()
        }
        self.months |= {name.lower(): number for number, names in more.items() for name in names}
        self._agreements = [(re.compile(pattern), rule_set) for pattern, rule_set in grammar.agreements]
        self._currency_noun = re.compile(grammar.currency_noun)

    def cardinal(self, number: int, before: str = "") -> str:
        """A whole number below a million millions, as it stands before some text."""
        assert 0 <= number < 10**MOST_DIGITS
        counted = f"{number} {before}"
        rule_sets = (rule_set for pattern, rule_set in self._agreements if pattern.match(counted))
        return self.spelled(number, next(rule_sets, self.grammar.counting))

    def spelled(self, number: int, rule_set: str) -> str:
        """A whole number by one of CLDR's rule sets."""
        words = _spelled(self.grammar.code, rule_set, number)
        # CLDR's ring is a numeral, and read as one only inside a row of them.
        return "零" if words == "〇" else words

    def digits(self, digits: str) -> str:
        """Any digits, one by one."""
        words = (self.spelled(int(digit), self.grammar.counting) for digit in digits)
        return self.grammar.digit_gap.join(words)

    def negative(self, words: str) -> str:
        """A number's words with the word for less than nothing before them."""
        one = self.spelled(1, self.grammar.counting)
        return self.spelled(-1, self.grammar.counting).removesuffix(one) + words

    def whole(self, digits: str, before: str = "", most: int = MOST_DIGITS) -> str:
        """Digits as a number, or one by one where they are more than ``most`` or begin with a nought."""
        if len(digits) > most or (digits[0] == "0" and len(digits) > 1):
            return self.digits(digits)
        return self.cardinal(int(digits), before)

    def decimal(self, whole: str, fraction: str) -> str:
        """A number with decimals; without a whole part it begins with the word of the decimal mark."""
        grammar = self.grammar
        if not whole and grammar.code != "ru":
            return f"{grammar.point.lstrip()}{self.digits(fraction)}"
        whole = whole or "0"
        if grammar.code == "ru" and len(fraction) in _FRACTIONS and len(whole) <= MOST_DIGITS:
            return self._russian_fraction(int(whole), fraction)
        as_number = grammar.fraction_is_a_number and len(fraction) <= 3 and fraction[0] != "0"
        decimals = self.cardinal(int(fraction)) if as_number else self.digits(fraction)
        return f"{self.whole(whole)}{grammar.point}{decimals}"

    def _russian_fraction(self, whole: int, fraction: str) -> str:
        parts = int(fraction)
        wholes = "целая" if ends_in_one(whole) else "целых"
        one, many = _FRACTIONS[len(fraction)]
        name = one if ends_in_one(parts) else many
        feminine = "cardinal-feminine"
        return f"{self.spelled(whole, feminine)} {wholes} {self.spelled(parts, feminine)} {name}"

    def year(self, number: int, rule_set: str = "") -> str:
        """A year, as it stands in a date."""
        rule_set = rule_set or self.grammar.year
        if rule_set == "digits":
            return self.digits(str(number))
        words = self.spelled(number, rule_set)
        return words.removeprefix("одна ") if self.grammar.code == "ru" else words

    def day(self, number: int, rule_set: str = "") -> str:
        """The day of a date."""
        grammar = self.grammar
        rule_set = rule_set or grammar.ordinal_day or (grammar.first_of_month if number == 1 else "")
        return self.spelled(number, rule_set or grammar.counting)

    def month(self, number: int) -> str:
        """A month as it stands in a date; where months are numbers, its number."""
        if not self.months_are_numbers:
            return self._months[number]
        if self.grammar.code == "ko" and number in (6, 10):
            return {6: "유", 10: "시"}[number]
        return self.spelled(number, self.grammar.counting)

    def plural_form(self, number: int | Decimal) -> str:
        """CLDR's name of the plural form that agrees with a number."""
        return self._locale.plural_form(number)

    def plural(self, forms: dict[str, str], number: int | Decimal) -> str:
        """The word that agrees with a number; empty where there are no words."""
        return forms.get(self.plural_form(number), forms.get("other", ""))

    def currency(self, code: str, number: int | Decimal, *, short: bool) -> str:
        """A currency's name, as it stands after a number.

        Args:
            code: ISO 4217.
            number: what it agrees with.
            short: the noun alone, for a sign, whose country everybody knows.
        """
        if code == "CNY" and self.grammar.yuan:
            return self.grammar.yuan
        name = get_currency_name(code, number, locale=self._locale)
        name = name.lower() if self.grammar.code == "pt" else name
        noun = self._currency_noun.search(name) if short else None
        return noun.group() if noun else name


def _as_written(names: Iterable[str], but: Collection[str] = ()) -> list[str]:
    """Names without full stops, at the beginning of a sentence too, the longest first."""
    plain = [name.rstrip(".") for name in names]
    written = {*plain, *(name[0].upper() + name[1:] for name in plain)} - {*but}
    return sorted(written, key=lambda name: (-len(name), name))


def ends_in_one(number: int) -> bool:
    """Whether the last word of a number is one: 1, 21, 101, not 11."""
    return number % 10 == 1 and number % 100 != 11


@cache
def words_of(language: str) -> NumberWords:
    """The words of one of the ten languages, by its name."""
    return NumberWords(GRAMMARS[language])
