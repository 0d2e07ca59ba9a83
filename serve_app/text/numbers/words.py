"""Words for numbers, months and currencies in ten languages; knows nothing about the text around them.

The words are CLDR's: unicode-rbnf supplies the number words, and Babel the names and plural forms. Importing them takes
50 ms, and the first number of a language 15 to 60 ms. Import this module only when numbers have to be normalized.
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

MAX_DIGITS = 12
"""Number of digits of the largest number that can be put into words."""

_REMEMBERED_NUMBERS = 8192
_FRACTIONS = {
    1: ("десятая", "десятых"),
    2: ("сотая", "сотых"),
    3: ("тысячная", "тысячных"),
}
"""Russian names of decimal fractions, singular and plural, by the number of decimals."""


@cache
def _rules(code: str) -> RbnfEngine:
    return RbnfEngine.for_language(code)


@lru_cache(_REMEMBERED_NUMBERS)
def _spelled(code: str, rule_set: str, number: int) -> str:
    return _rules(code).format_number(number, ruleset_names=[f"spellout-{rule_set}"]).text


class NumberWords:
    """The words of one language.

    Attributes:
        grammar: the rules of agreement.
        months: the number of a month by its name or abbreviation, in lower case, without full stops.
        month_names: the names as they are written, longest first.
        month_abbreviations: the abbreviations that are not full names, without full stops.
        months_are_numbers: whether the language numbers the months instead of naming them.
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
        """Return the words of an integer below 10**12; they agree with the text that follows the number, ``before``."""
        assert 0 <= number < 10**MAX_DIGITS
        counted = f"{number} {before}"
        rule_sets = (rule_set for pattern, rule_set in self._agreements if pattern.match(counted))
        return self.spelled(number, next(rule_sets, self.grammar.counting))

    def spelled(self, number: int, rule_set: str) -> str:
        """Return the words of an integer by one of CLDR's rule sets."""
        words = _spelled(self.grammar.code, rule_set, number)
        # CLDR gives 〇, which is read as zero only among other numerals.
        return "零" if words == "〇" else words

    def digits(self, digits: str) -> str:
        """Return the words of digits, one by one."""
        words = (self.spelled(int(digit), self.grammar.counting) for digit in digits)
        return self.grammar.digit_gap.join(words)

    def negative(self, words: str) -> str:
        """Return a number's words with the word for minus before them."""
        one = self.spelled(1, self.grammar.counting)
        return self.spelled(-1, self.grammar.counting).removesuffix(one) + words

    def whole(self, digits: str, before: str = "", most: int = MAX_DIGITS) -> str:
        """Read digits as one number, or one by one if there are more than ``most`` or the first is a zero."""
        if len(digits) > most or (digits[0] == "0" and len(digits) > 1):
            return self.digits(digits)
        return self.cardinal(int(digits), before)

    def decimal(self, whole: str, fraction: str) -> str:
        """Return the words of a decimal number; without an integer part they begin with the decimal mark's word."""
        grammar = self.grammar
        if not whole and grammar.code != "ru":
            return f"{grammar.point.lstrip()}{self.digits(fraction)}"
        whole = whole or "0"
        if grammar.code == "ru" and len(fraction) in _FRACTIONS and len(whole) <= MAX_DIGITS:
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
        """Return the words of a year in a date."""
        rule_set = rule_set or self.grammar.year
        if rule_set == "digits":
            return self.digits(str(number))
        words = self.spelled(number, rule_set)
        return words.removeprefix("одна ") if self.grammar.code == "ru" else words

    def day(self, number: int, rule_set: str = "") -> str:
        """Return the words of the day in a date."""
        grammar = self.grammar
        rule_set = rule_set or grammar.ordinal_day or (grammar.first_of_month if number == 1 else "")
        return self.spelled(number, rule_set or grammar.counting)

    def month(self, number: int) -> str:
        """Return the name of a month in a date; if the language numbers its months, the words of its number."""
        if not self.months_are_numbers:
            return self._months[number]
        if self.grammar.code == "ko" and number in (6, 10):
            return {6: "유", 10: "시"}[number]
        return self.spelled(number, self.grammar.counting)

    def plural_form(self, number: int | Decimal) -> str:
        """Return CLDR's name of the plural form that agrees with a number."""
        return self._locale.plural_form(number)

    def plural(self, forms: dict[str, str], number: int | Decimal) -> str:
        """Return the word that agrees with a number; empty if ``forms`` has no such word."""
        return forms.get(self.plural_form(number), forms.get("other", ""))

    def currency(self, code: str, number: int | Decimal, *, short: bool) -> str:
        """Return a currency's name as it follows a number.

        Args:
            code: ISO 4217 code.
            number: the number that the name agrees with.
            short: return only the noun, for a sign that is said without its country.
        """
        if code == "CNY" and self.grammar.yuan:
            return self.grammar.yuan
        name = get_currency_name(code, number, locale=self._locale)
        name = name.lower() if self.grammar.code == "pt" else name
        noun = self._currency_noun.search(name) if short else None
        return noun.group() if noun else name


def _as_written(names: Iterable[str], but: Collection[str] = ()) -> list[str]:
    """Return names without full stops, longest first; capitalised variants for sentence starts are included."""
    plain = [name.rstrip(".") for name in names]
    written = {*plain, *(name[0].upper() + name[1:] for name in plain)} - {*but}
    return sorted(written, key=lambda name: (-len(name), name))


def ends_in_one(number: int) -> bool:
    """Return whether the last word of a number is "one": 1, 21, 101, but not 11."""
    return number % 10 == 1 and number % 100 != 11


@cache
def words_of(language: str) -> NumberWords:
    """Return the words of a language, by its name."""
    return NumberWords(GRAMMARS[language])
