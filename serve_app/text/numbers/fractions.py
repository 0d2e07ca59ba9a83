"""Fractions: ``1/2``, ``3 1/2``, ``2½``. Halves, thirds and quarters are listed; other names come from CLDR."""

import re
import unicodedata
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from serve_app.text.numbers.forms import LETTER, MINUS, Form, Place, end
from serve_app.text.numbers.units import units_of
from serve_app.text.numbers.words import NumberWords, ends_in_one

VULGAR: Final = "½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅐⅛⅜⅝⅞⅑⅒"
_DENOMINATORS: Final = frozenset({*range(2, 11), 12, 16, 20, 24, 25, 32, 50, 60, 64, 100, 1000})
"""Quotients with other denominators are usually dates, scores or names, not fractions: 9/11, 24/7."""

_DATE_BEFORE = re.compile(r"\b(?:on|le|el|dia|día|il|am|vom|bis|em|al|dal) $", re.IGNORECASE)
_NOUN_FOLLOWS = re.compile(
    r" (?!(?:und|oder|et|ou|y|o|e|de|d|del|do|da|di|des|du|della|dei|à|a|est|es|è|é|ist|por|per|par|pour|von|mal)\b)"
    rf"[{LETTER}]"
)
_SPANISH_PARTS = ("avo", "avos")


@dataclass(frozen=True, slots=True)
class _Parts:
    """How a language names the parts of a whole.

    Attributes:
        names: singular and plural names, by denominator.
        rule_set: CLDR's rule set of the other denominators.
        one: the singular ending, after ``cut`` characters were removed from the ordinal.
        several: the plural ending.
        fraction: template for ``{number}`` and ``{parts}``.
        mixed: template for ``{whole}`` and ``{fraction}``.
        half: template for ``{whole}`` and a half.
        inflects: a noun after a fraction changes its form, so such a fraction stays as it is written.
        takes_units: a unit may follow a fraction.
    """

    names: dict[int, tuple[str, str]]
    rule_set: str
    mixed: str
    half: str
    one: str = ""
    several: str = ""
    cut: int = 0
    fraction: str = "{number} {parts}"
    inflects: bool = False
    takes_units: bool = False


_PARTS: Final = {
    "en": _Parts(
        {2: ("half", "halves"), 4: ("quarter", "quarters")}, "ordinal", "{whole} and {fraction}", "{whole} and a half",
        several="s", takes_units=True,
    ),
    "de": _Parts(
        {2: ("halb", "Halbe")}, "ordinal", "{whole} und {fraction}", "{whole}einhalb", one="el", several="el", cut=1,
    ),
    "fr": _Parts(
        {2: ("demi", "demis"), 3: ("tiers", "tiers"), 4: ("quart", "quarts")}, "ordinal-masculine",
        "{whole} et {fraction}", "{whole} et demi", several="s", inflects=True,
    ),
    "es": _Parts(
        {2: ("medio", "medios"), 3: ("tercio", "tercios"), 4: ("cuarto", "cuartos")}, "ordinal-masculine",
        "{whole} y {fraction}", "{whole} y medio", several="s", inflects=True,
    ),
    "pt": _Parts(
        {2: ("meio", "meios"), 3: ("terço", "terços"), 4: ("quarto", "quartos")}, "ordinal-masculine",
        "{whole} e {fraction}", "{whole} e meio", several="s", inflects=True,
    ),
    "it": _Parts(
        {2: ("mezzo", "mezzi"), 3: ("terzo", "terzi"), 4: ("quarto", "quarti")}, "ordinal-masculine",
        "{whole} e {fraction}", "{whole} e mezzo", one="o", several="i", cut=1, inflects=True,
    ),
    "ru": _Parts(
        {3: ("треть", "трети"), 4: ("четверть", "четверти")}, "ordinal-feminine", "{whole} {wholes} {fraction}",
        "{whole} с половиной",
    ),
    "zh": _Parts(
        {}, "", "{whole}又{fraction}", "{whole}又{fraction}", fraction="{parts}分之{number}", takes_units=True,
    ),
    "ja": _Parts(
        {}, "", "{whole}と{fraction}", "{whole}と{fraction}", fraction="{parts}分の{number}", takes_units=True,
    ),
    "ko": _Parts(
        {}, "", "{whole}과 {fraction}", "{whole}과 {fraction}", fraction="{parts}분의 {number}", takes_units=True,
    ),
}  # fmt: skip


def fractions(words: NumberWords) -> list[Form]:
    """Return the forms of fractions, with or without an integer part and a unit."""
    unit = rf"(?P<part_unit>{units_of(words).pattern})?"
    return [
        Form(
            rf"(?P<minus_part>{MINUS})(?P<whole_part>[0-9]{{1,9}})?(?:(?<![0-9]) ?|(?<=[0-9])[ \u00a0\u2009\u202f-]?)"
            rf"(?P<vulgar>[{VULGAR}]){unit}{end(words.grammar)}",
            _fraction,
        ),
        Form(
            rf"(?P<minus_quotient>{MINUS})(?:(?P<whole_quotient>[0-9]{{1,4}})[ \u00a0\u2009\u202f-])?"
            rf"(?P<quotient>[0-9]{{1,4}}[/⁄][0-9]{{1,4}})"
            rf"{unit.replace('part_unit', 'quotient_unit')}{end(words.grammar)}",
            _fraction,
        ),
    ]


def _fraction(place: Place) -> str | None:
    groups, words = place.groups, place.words
    numerator, _, denominator = (
        (groups.get("quotient") or unicodedata.normalize("NFKC", groups.get("vulgar", "")))
        .replace("⁄", "/")
        .partition("/")
    )
    number, parts = int(numerator), int(denominator)
    whole = groups.get("whole_part") or groups.get("whole_quotient")
    unit = groups.get("part_unit") or groups.get("quotient_unit")
    how = _PARTS[place.grammar.code]
    if parts not in _DENOMINATORS or not 0 < number < parts:
        return None
    if "quotient" in groups and (_DATE_BEFORE.search(place.before) or numerator[0] == "0" or denominator[0] == "0"):
        return None
    noun_follows = how.inflects and _NOUN_FOLLOWS.match(place.after)
    if place.case in ("genitive", "other") or noun_follows or (unit and not how.takes_units):
        return None
    if place.grammar.code == "de" and not whole and parts == 2 and _NOUN_FOLLOWS.match(place.after):
        return None
    spoken = _mixed(words, how, int(whole), number, parts) if whole else _parts(words, how, number, parts)
    if unit:
        before, behind = units_of(words).around(unit, 2 if whole else 1)
        spoken = f"{before}{spoken}{behind}"
    minus = groups.get("minus_part") or groups.get("minus_quotient")
    return words.negative(spoken) if minus else spoken


def _mixed(words: NumberWords, how: _Parts, whole: int, number: int, parts: int) -> str:
    fraction = _parts(words, how, number, parts)
    if words.grammar.code == "ru" and parts != 2:
        wholes = "целая" if ends_in_one(whole) else "целых"
        return how.mixed.format(whole=words.spelled(whole, "cardinal-feminine"), wholes=wholes, fraction=fraction)
    is_half = Fraction(number, parts) == Fraction(1, 2)
    spoken = words.cardinal(whole) if words.grammar.code != "de" else words.spelled(whole, "cardinal-masculine")
    if is_half and words.grammar.code == "de" and whole > 12:
        return f"{spoken} und ein halb"
    if words.grammar.code == "en" and (number, parts) == (1, 4):
        fraction = "a quarter"
    return (how.half if is_half else how.mixed).format(whole=spoken, fraction=fraction)


def _parts(words: NumberWords, how: _Parts, number: int, parts: int) -> str:
    """Read a numerator and a denominator."""
    code = words.grammar.code
    if code == "ru":
        return _russian(words, how, number, parts)
    if not how.rule_set:
        return how.fraction.format(number=words.cardinal(number), parts=words.cardinal(parts))
    return f"{_count(words, number)} {_name(words, how, number, parts)}"


def _count(words: NumberWords, number: int) -> str:
    if number == 1 and words.grammar.code != "en":
        return {"de": "ein", "es": "un", "it": "un"}.get(words.grammar.code, words.cardinal(1))
    return words.cardinal(number)


def _name(words: NumberWords, how: _Parts, number: int, parts: int) -> str:
    code = words.grammar.code
    if parts in how.names:
        return how.names[parts][number > 1]
    if code == "es" and parts > 10 and parts not in (100, 1000):
        return words.cardinal(parts) + _SPANISH_PARTS[number > 1]
    if code == "pt" and parts > 10 and parts not in (100, 1000):
        return f"{words.cardinal(parts)} avos"
    ordinal = words.spelled(parts, how.rule_set)
    stem = ordinal[: len(ordinal) - how.cut]
    name = stem + (how.several if number > 1 else how.one)
    return name[0].upper() + name[1:] if code == "de" else name


def _russian(words: NumberWords, how: _Parts, number: int, parts: int) -> str:
    counted = words.spelled(number, "cardinal-feminine")
    if parts in how.names:
        several = number % 10 in (2, 3, 4) and number not in (12, 13, 14)
        return f"{counted} {how.names[parts][several]}"
    rule_set = "ordinal-feminine" if ends_in_one(number) else "ordinal-plural-genitive"
    return f"{counted} {words.spelled(parts, rule_set)}"
