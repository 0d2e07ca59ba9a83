"""Maps the signs and abbreviations of units to CLDR's units.

CLDR, through Babel, supplies their names, plural forms and positions. Abbreviations that are also words (English
``in``, Russian ``с``) are left out. So are single letters that may mean something else after a number: ``5A``.
"""

import re
from collections.abc import Iterable
from decimal import Decimal
from functools import cache
from typing import Final

from babel.numbers import format_decimal
from babel.units import format_unit

from serve_app.text.numbers.forms import (
    LETTER,
    MINUS,
    SPACE,
    Form,
    Place,
    counted,
    end,
    quantity,
    spoken_number,
    up_to,
    value_of,
)
from serve_app.text.numbers.words import NumberWords

_UNITS: Final = {
    "length-kilometer": ("km", "Km", "KM", "км", "㎞"), "length-meter": ("m", "м"),
    "length-centimeter": ("cm", "см", "㎝"),
    "length-millimeter": ("mm", "мм", "㎜"), "length-micrometer": ("µm", "μm", "мкм"), "length-nanometer": ("nm", "нм"),
    "length-mile": ("mi",), "length-foot": ("ft",), "length-yard": ("yd",),
    "area-square-kilometer": ("km²", "км²", "km2", "км2", "㎢"), "area-square-meter": ("m²", "м²", "m2", "м2", "㎡"),
    "area-hectare": ("ha", "га"),
    "area-square-centimeter": ("cm²", "см²", "cm2", "см2", "㎠"), "area-square-foot": ("sq ft", "ft²"),
    "volume-cubic-meter": ("m³", "м³", "m3", "м3", "㎥"), "volume-cubic-centimeter": ("cm³", "см³", "cm3", "см3", "㎤"),
    "volume-liter": ("l", "L", "л"),
    "volume-milliliter": ("ml", "mL", "мл", "㎖"), "volume-centiliter": ("cl",), "volume-gallon": ("gal",),
    "mass-kilogram": ("kg", "Kg", "KG", "кг", "㎏"),
    "mass-gram": ("g", "г"),
    "mass-milligram": ("mg", "мг", "㎎"),
    "mass-tonne": ("t", "т"), "mass-pound": ("lb", "lbs"), "mass-ounce": ("oz",),
    "temperature-celsius": ("°C", "° C", "℃", "°С"), "temperature-fahrenheit": ("°F", "° F", "℉"),
    "angle-degree": ("°",),
    "speed-kilometer-per-hour": ("km/h", "kmh", "kph", "км/ч"), "speed-mile-per-hour": ("mph",),
    "speed-meter-per-second": ("m/s", "м/с"),
    "duration-hour": ("h", "hr", "hrs", "ч", "Std."), "duration-minute": ("min", "мин", "Min."),
    "duration-second": ("s", "sec", "сек", "Sek."), "duration-millisecond": ("ms", "мс"),
    "digital-kilobyte": ("kB", "KB", "КБ"), "digital-megabyte": ("MB", "МБ"), "digital-gigabyte": ("GB", "ГБ"),
    "digital-terabyte": ("TB", "ТБ"), "power-watt": ("W", "Вт"), "power-kilowatt": ("kW", "кВт"),
    "power-megawatt": ("MW", "МВт"), "energy-kilowatt-hour": ("kWh", "кВт·ч", "кВт⋅ч"), "electric-volt": ("V", "В"),
    "electric-milliampere": ("mA", "мА"),
    "frequency-hertz": ("Hz", "Гц", "㎐"), "frequency-kilohertz": ("kHz", "кГц", "㎑"),
    "frequency-megahertz": ("MHz", "МГц", "㎒"), "frequency-gigahertz": ("GHz", "ГГц", "㎓"),
    "pressure-hectopascal": ("hPa",),
    "energy-kilocalorie": ("kcal", "ккал"), "energy-kilojoule": ("kJ",),
}  # fmt: skip
_FRENCH: Final = {
    "Ko": "digital-kilobyte", "ko": "digital-kilobyte", "Mo": "digital-megabyte", "Go": "digital-gigabyte",
    "To": "digital-terabyte",
}  # fmt: skip
_NEVER_GLUED: Final = frozenset({"h", "s", "t", "ч", "т", "г", "В", "л", "м", "ha", "ms", "mi"})
"""Abbreviations that are units only after a space: ``5s`` may be a plural, and ``5t`` a name."""

_METERS: Final = (
    r"m(?= (?:long|tall|wide|high|deep|thick|away|apart|across|ahead|below|above|underwater|in (?:length|height|width)"
    r"|race|sprint|dash|hurdles|relay|freestyle|backstroke|swim|run|radius|diameter)\b)"
)
"""English ``5m`` may also be minutes or millions; it is read as meters only before a word of length."""

_FEET_AND_INCHES: Final = (
    r"(?<![0-9.,])(?P<feet>[0-9]{1,3}) ?(?:ft|foot|feet)\.?,? ?(?P<inches>[0-9]{1,2})"
    rf" ?(?:in|inch|inches)(?![0-9{LETTER}])"
)


class Units:
    """The units of one language.

    Attributes:
        pattern: matches a unit after a number, and the space between them.
    """

    def __init__(self, words: NumberWords) -> None:
        symbols = {symbol: unit for unit, symbols in _UNITS.items() for symbol in symbols}
        if words.grammar.code == "fr":
            symbols |= _FRENCH
        if words.grammar.code == "en":
            del symbols["t"]
        self._words = words
        self._units = symbols
        self._patterns: dict[tuple[str, str], str] = {}
        glued = _any_of(symbols.keys() - _NEVER_GLUED - ({"m"} if words.grammar.code == "en" else set()))
        if words.grammar.code == "en":
            glued += f"|{_METERS}"
        self.pattern = rf"(?:{SPACE}(?:{_any_of(symbols)})|(?:{glued}))(?![²³])"

    def around(self, symbol: str, number: int | Decimal) -> tuple[str, str]:
        """Return CLDR's words before and after a number with a unit, in the form that agrees with the number."""
        unit, plural = self._units[symbol.lstrip("\u00a0\u2009\u202f ")], self._words.plural_form(number)
        if (unit, plural) not in self._patterns:
            self._patterns[unit, plural] = self._cldr(unit, number)
        before, _, behind = self._patterns[unit, plural].partition("{}")
        return before, behind

    def _cldr(self, unit: str, number: int | Decimal) -> str:
        locale = self._words.grammar.code
        shown = format_decimal(number, locale=locale)
        # If CLDR has no long name, Babel returns the unit's id; then the short name serves as the long one.
        length = "short" if unit in format_unit(number, unit, locale=locale) else "long"
        named = format_unit(number, unit, length=length, locale=locale).replace(shown, "{}", 1)
        named = named.replace("\u00a0", " ").replace("\u202f", " ")
        return named if self._words.grammar.gap else named.replace(" ", "")


def units(words: NumberWords) -> list[Form]:
    """Return the forms of numbers and ranges with a unit."""
    known = units_of(words)
    feet = [Form(_FEET_AND_INCHES, _feet_and_inches)] if words.grammar.code == "en" else []
    written = quantity(words.grammar, "_unit", after=known.pattern)
    return [
        *feet,
        Form(
            rf"(?P<minus_unit>{MINUS}){written}(?P<unit>{known.pattern}){end(words.grammar)}",
            lambda place: _unit(place, known),
        ),
    ]


def _feet_and_inches(place: Place) -> str:
    feet, inches = int(place.groups["feet"]), int(place.groups["inches"])
    spoken = (place.words.cardinal(number) for number in (feet, inches))
    names = ("foot" if feet == 1 else "feet", "inch" if inches == 1 else "inches")
    return " ".join(f"{number} {name}" for number, name in zip(spoken, names, strict=True))


@cache
def units_of(words: NumberWords) -> Units:
    """Return the units of a language."""
    return Units(words)


def _any_of(symbols: Iterable[str]) -> str:
    return "|".join(sorted(map(re.escape, symbols), key=len, reverse=True))


def _unit(place: Place, known: Units) -> str | None:
    words, written, symbol = place.words, place.groups["to_unit"], place.groups["unit"]
    begun = up_to(place, "_unit")
    if begun is None:
        return None
    before, behind = known.around(symbol, value_of(words, written))
    if place.grammar.code == "ru":
        spoken = counted(place, written, lambda value: known.around(symbol, value)[1].strip())
    else:
        agreeing = "" if words.grammar.code == "ko" else behind.strip()
        spoken = f"{spoken_number(words, written, agreeing)}{behind}"
    if spoken is None:
        return None
    spoken = begun + spoken
    return before + (words.negative(spoken) if place.groups["minus_unit"] else spoken)
