"""The forms of amounts of money with a sign, a code or both, and the names of cents.

The names and plural forms of currencies are CLDR's. CLDR has no names for cents, so they are listed here.
"""

import re
from functools import cache
from typing import Final

from babel.numbers import get_currency_precision, get_currency_symbol

from serve_app.text.numbers.forms import (
    LETTER,
    MINUS,
    SPACE,
    Form,
    Place,
    counted,
    end,
    parts_of,
    quantity,
    spoken_number,
    up_to,
    value_of,
)
from serve_app.text.numbers.grammar import NEVER, Grammar
from serve_app.text.numbers.words import NumberWords

_PLAIN_SIGNS: Final = {
    "$": "USD", "€": "EUR", "£": "GBP", "¥": "JPY", "₩": "KRW", "₽": "RUB", "₹": "INR", "₴": "UAH", "₺": "TRY",
    "₫": "VND", "฿": "THB", "₪": "ILS", "₦": "NGN", "₱": "PHP", "₸": "KZT",
}  # fmt: skip
"""Signs that are read without a country."""

_SIGNS: Final = _PLAIN_SIGNS | {
    "US$": "USD", "CA$": "CAD", "C$": "CAD", "Can$": "CAD", "AU$": "AUD", "A$": "AUD", "HK$": "HKD", "NT$": "TWD",
    "NZ$": "NZD", "S$": "SGD", "R$": "BRL", "MX$": "MXN", "Mex$": "MXN", "CN¥": "CNY", "JP¥": "JPY", "RMB": "CNY",
    "Rs": "INR", "Rs.": "INR", "₨": "INR",
}  # fmt: skip
_NATIVE_SIGNS: Final = {"円": "JPY", "元": "CNY", "원": "KRW", "zł": "PLN", "RMB": "CNY"}
"""Signs after a number, in languages that put spaces between words."""

_UNKNOWN: Final = rf"(?:kr|Kč|Ft)(?![{LETTER}])"
"""Short currency names that are ambiguous or not supported: amounts with them stay as they are written."""

_CODES: Final = (
    "USD", "EUR", "GBP", "JPY", "CNY", "KRW", "RUB", "INR", "BRL", "CAD", "AUD", "HKD", "TWD", "NZD", "SGD", "CHF",
    "SEK", "NOK", "DKK", "PLN", "CZK", "MXN", "ARS", "TRY", "ZAR", "THB", "UAH", "ILS", "VND", "PHP", "IDR", "AED",
)  # fmt: skip
_NATIVE_NAMES: Final = {
    "元": "CNY", "圆": "CNY", "人民币": "CNY", "块钱": "CNY", "块": "CNY", "円": "JPY", "日元": "JPY", "원": "KRW",
    "美元": "USD", "美金": "USD", "ドル": "USD", "달러": "USD", "欧元": "EUR", "ユーロ": "EUR", "유로": "EUR",
    "英镑": "GBP", "ポンド": "GBP", "파운드": "GBP", "港币": "HKD", "엔": "JPY",
}  # fmt: skip
"""Native currency names that may follow a number in a text of any language."""

_ANY_DOLLAR: Final = ("元", "圆", "块", "块钱")
"""Chinese uses these names for any dollar: ``HK$100元``."""

_THOUSANDS: Final = frozenset({"thousand", "Tausend", "mille", "mil", "mila", "тысяч", "тысяча", "тысячи", "тыс."})
"""Scales that are followed by the currency directly, without a word between them."""

_SHORT_SCALES: Final[dict[str, dict[str, tuple[str, str]]]] = {
    "en": {
        "bn": ("billion", "billion"), "mn": ("million", "million"), "lakh": ("lakh", "lakh"),
        "crore": ("crore", "crore"), "Cr": ("crore", "crore"),
    },
    "de": {"Tsd.": ("Tausend", "Tausend")},
    "fr": {
        "k": ("mille", "mille"), "M": ("million", "millions"), "Md": ("milliard", "milliards"),
        "Mds": ("milliard", "milliards"), "Mrd": ("milliard", "milliards"),
    },
    "es": {"M": ("millón", "millones")},
    "pt": {"mi": ("milhão", "milhões"), "bi": ("bilhão", "bilhões"), "tri": ("trilhão", "trilhões")},
    "it": {"mln": ("milione", "milioni"), "mld": ("miliardo", "miliardi")},
}  # fmt: skip
"""Abbreviated scales with their singular and plural words."""

_EVEN: Final[dict[str, str]] = dict.fromkeys(("de", "fr", "es", "pt", "it", "ru"), r"(?:[,.][-–—]{1,2}(?![0-9]))?")
"""The pattern of a dash instead of cents: ``5,- €``."""

_HOME_SIGNS: Final = {"pt": "R$"}
_MILLION: Final = 1_000_000

_DOLLARS: Final = ("USD", "CAD", "AUD", "HKD", "TWD", "NZD", "SGD")
_PESOS: Final = ("MXN", "ARS", "PHP", "BRL")
_CENTS: Final[dict[str, dict[tuple[str, ...], tuple[str, ...]]]] = {
    "en": {
        (*_DOLLARS, "EUR", "ZAR"): ("cent", "cents"), ("GBP",): ("penny", "pence"),
        ("RUB", "UAH"): ("kopeck", "kopecks"), ("INR",): ("paisa", "paise"),
        _PESOS: ("centavo", "centavos"), ("CHF",): ("centime", "centimes"),
    },
    "de": {
        (*_DOLLARS, "EUR", "ZAR"): ("Cent",), ("GBP",): ("Penny", "Pence"), ("RUB", "UAH"): ("Kopeke", "Kopeken"),
        ("CHF",): ("Rappen",), _PESOS: ("Centavo", "Centavos"),
    },
    "fr": {
        _DOLLARS: ("cent", "cents"), ("EUR", "CHF"): ("centime", "centimes"), ("GBP",): ("penny", "pence"),
        ("RUB", "UAH"): ("kopeck", "kopecks"), _PESOS: ("centavo", "centavos"),
    },
    "es": {
        (*_DOLLARS, *_PESOS): ("centavo", "centavos"), ("EUR", "CHF"): ("céntimo", "céntimos"),
        ("GBP",): ("penique", "peniques"), ("RUB", "UAH"): ("kopek", "kopeks"),
    },
    "pt": {
        (*_DOLLARS, *_PESOS): ("centavo", "centavos"), ("EUR", "CHF"): ("cêntimo", "cêntimos"),
        ("GBP",): ("pêni", "pence"), ("RUB", "UAH"): ("copeque", "copeques"),
    },
    "it": {
        (*_DOLLARS, "EUR", "CHF"): ("centesimo", "centesimi"), ("GBP",): ("penny", "pence"),
        ("RUB", "UAH"): ("copeco", "copechi"), _PESOS: ("centavo", "centavos"),
    },
    "ru": {
        (*_DOLLARS, "EUR"): ("цент", "цента", "центов"), ("GBP",): ("пенс", "пенса", "пенсов"),
        ("RUB", "UAH"): ("копейка", "копейки", "копеек"), _PESOS: ("сентаво", "сентаво", "сентаво"),
    },
    "zh": {("USD",): ("美分",), ("EUR",): ("欧分",), ("GBP",): ("便士",)},
    "ja": {(*_DOLLARS, "EUR"): ("セント",), ("GBP",): ("ペンス",), ("RUB", "UAH"): ("コペイカ",)},
    "ko": {(*_DOLLARS, "EUR"): ("센트",), ("GBP",): ("펜스",), ("RUB", "UAH"): ("코페이카",)},
}  # fmt: skip
"""Names of hundredths of currencies by language: one, few, many. Without a name an amount is read with decimals."""


def money(words: NumberWords) -> list[Form]:
    """Return the forms of amounts with a sign or a code before or after them, or both."""
    grammar = words.grammar
    over = end(grammar)
    signs = "|".join(sorted(map(re.escape, _SIGNS), key=len, reverse=True))
    plain = "[" + "".join(_PLAIN_SIGNS) + "]"
    codes = "|".join(_CODES)
    short = "|".join(sorted(map(re.escape, _SHORT_SCALES.get(grammar.code, {})), key=len, reverse=True)) or NEVER
    scale = rf"(?:{' ' if grammar.digit_gap else ' ?'}(?:{grammar.scales})|{SPACE}?(?:{short}))(?![{LETTER}])"
    parted = scale.replace(f"{SPACE}?", SPACE)  # without a space a scale is ambiguous: $100k
    even = _EVEN.get(grammar.code, "")
    names = "|".join(sorted(map(re.escape, _names(words)), key=len, reverse=True))
    named = rf"(?:{SPACE}?(?:{names})(?![{LETTER}]))"
    before = rf"(?<![0-9{LETTER}])(?:{codes})(?:{SPACE}?{plain})?(?={SPACE}?[0-9.,])|(?<![0-9{LETTER}])(?:{signs})"
    native = "|".join(_NATIVE_SIGNS) if grammar.digit_gap else NEVER
    behind = rf"(?:{native})(?![{LETTER}])|(?:US|CA|HK)\$|{plain}(?:{SPACE}?(?:US|CA|CAD|USD)(?![{LETTER}]))?|{codes}|¢"
    first = quantity(grammar, "_money1", before=signs)
    second = quantity(grammar, "_money2", after=rf"{SPACE}?{plain}")
    return [
        Form(rf"{MINUS}{quantity(grammar, '_money3')}{SPACE}?{_UNKNOWN}", _leave),
        Form(rf"{plain}{SPACE}?{quantity(grammar, '_money4')} (?:bucks|quid)(?![{LETTER}])", _leave),
        Form(
            rf"(?P<minus_money1>{MINUS})(?P<sign_money1>{before}){SPACE}?(?P<minus_amount>[-−]?){first}{even}"
            rf"(?P<scale_money1>{parted})?(?P<name_money1>{named})?{over}",
            _sign_first,
        ),
        Form(
            rf"(?P<minus_money2>{MINUS}){second}{even}(?P<scale_money2>{scale})?{SPACE}?(?P<sign_money2>{behind})(?P<name_money2>{named})?{over}",
            _sign_last,
        ),
    ]


def _leave(_: Place) -> None:
    return None


@cache
def _names(words: NumberWords) -> dict[str, tuple[str, ...]]:
    """Map each currency name of a language to the codes of the currencies with this name."""
    found: dict[str, list[str]] = {}
    for code in _CODES:
        names = {words.currency(code, number, short=short) for number in (1, 2, 5) for short in (True, False)}
        for name in (*names, code):
            found.setdefault(name, []).append(code)
            found.setdefault(name[0].upper() + name[1:], []).append(code)
    for name, code in _NATIVE_NAMES.items():
        found.setdefault(name, []).append(code)
    return {name: tuple(codes) for name, codes in found.items()}


def _sign_first(place: Place) -> str | None:
    groups = place.groups
    sign = groups["sign_money1"]
    return _signed(place, "_money1", sign, negative=bool(groups["minus_money1"] or groups["minus_amount"]))


def _sign_last(place: Place) -> str | None:
    sign = "".join(place.groups["sign_money2"].split())
    sign = _NATIVE_SIGNS.get(sign, sign)
    if sign == "¢":
        cents = _cents(place.words, "USD")
        return (
            counted(place, place.groups["to_money2"], lambda value: place.words.plural(cents, value)) if cents else None
        )
    if len(sign) > 1 and sign[0] in _PLAIN_SIGNS:
        sign = sign[1:].replace("USD", "US").replace("CAD", "CA") + sign[0]
    return _signed(place, "_money2", sign, negative=bool(place.groups["minus_money2"]))


def _signed(place: Place, name: str, sign: str, *, negative: bool) -> str | None:
    """Read an amount with a sign or code, and possibly a currency name after it."""
    code, short = _currency(place.grammar, sign)
    if called := place.groups.get(f"name{name}", "").strip():
        named = _named(place.words, sign, code, called)
        if named is None:
            return None
        code, short = named, short and named == code
    return _amount(place, name, code, negative=negative, short=short)


def _currency(grammar: Grammar, sign: str) -> tuple[str, bool]:
    """Return the ISO code of a sign or code, and whether it is read without its country."""
    if sign == "¥" and grammar.yuan:
        return "CNY", True
    if sign in _SIGNS:
        return _SIGNS[sign], sign in _PLAIN_SIGNS or _HOME_SIGNS.get(grammar.code) == sign
    return sign[:3], False


def _named(words: NumberWords, sign: str, code: str, name: str) -> str | None:
    """Return the currency of a sign and a name, as in ``$5 CAD``; None if they contradict each other."""
    codes = _names(words)[name]
    if code in codes or (name in _ANY_DOLLAR and sign.endswith("$")):
        return code
    if sign not in _PLAIN_SIGNS:
        return None
    fitting = [other for other in codes if get_currency_symbol(other, "en").endswith(sign) or _SIGNS.get(sign) == other]
    return fitting[0] if fitting else None


def _amount(place: Place, name: str, code: str, *, negative: bool, short: bool) -> str | None:
    begun = up_to(place, name)
    if begun is None:
        return None
    spoken = _sum(place, place.groups[f"to{name}"], place.groups.get(f"scale{name}", ""), code, short=short)
    if spoken is None:
        return None
    return place.words.negative(begun + spoken) if negative else begun + spoken


def _sum(place: Place, amount: str, scale: str, code: str, *, short: bool) -> str | None:
    """Read an amount with its currency: ``5.50`` as five euros fifty, ``5 million`` as five million euros."""
    words, grammar = place.words, place.grammar
    if scale:
        if place.case != "nominative":
            return None
        return _scaled(words, amount, scale, code, short=short)
    value = value_of(words, amount)
    whole, fraction = parts_of(grammar, amount)
    if len(fraction) == 2 and get_currency_precision(code) == 2:
        spoken = _with_cents(place, whole, int(fraction), code, short=short)
        if spoken is not None:
            return spoken
    name = words.currency(code, value, short=short)
    of = _of(grammar, name) if value >= _MILLION and value % _MILLION == 0 else ""
    if of:
        return f"{spoken_number(words, amount, name)}{grammar.gap}{of}{name}"
    return counted(place, amount, lambda value: words.currency(code, value, short=short))


def _scaled(words: NumberWords, amount: str, scale: str, code: str, *, short: bool) -> str:
    """Read an amount with a scale (thousands or more), which may be abbreviated."""
    grammar, written = words.grammar, scale.lstrip("\u00a0\u2009\u202f ")
    value = value_of(words, amount)
    one, several = _SHORT_SCALES.get(grammar.code, {}).get(written, (written, written))
    called = one if words.plural_form(value) == "one" else several
    gap = scale[: len(scale) - len(written)] if called == written else grammar.gap
    if called == "mila":
        gap = ""  # Italian writes thousands as one word
    name = words.currency(code, 5000 if called in _THOUSANDS else _MILLION, short=short)
    of = "" if called in _THOUSANDS else _of(grammar, name)
    if value == 1 and called in ("mille", "mil"):
        return f"{called}{grammar.gap}{name}"
    return f"{spoken_number(words, amount, called)}{gap}{called}{grammar.gap}{of}{name}"


def _with_cents(place: Place, whole: str, cents: int, code: str, *, short: bool) -> str | None:
    """Read two decimals as cents; None if the language reads them as decimals or has no name for the cents."""
    words, grammar = place.words, place.grammar
    names = _cents(words, code)
    units = value_of(words, whole) if whole else 0
    spoken_cents = f"{{}}{grammar.gap}".format(words.cardinal(cents, words.plural(names, cents))) + words.plural(
        names, cents
    )
    if not units:
        return spoken_cents if cents and names and place.case == "nominative" else None
    if grammar.minor is None and cents:
        return None
    spoken = counted(place, whole, lambda value: words.currency(code, value, short=short))
    if spoken is None or not cents:
        return spoken
    if place.case != "nominative":
        return None
    if cents >= 10 and not grammar.names_cents:
        return f"{spoken}{grammar.minor}{words.cardinal(cents)}"
    return f"{spoken}{grammar.minor}{spoken_cents}" if names else None


def _cents(words: NumberWords, code: str) -> dict[str, str]:
    """Return the plural forms of the name of a currency's hundredth; empty if there is no name."""
    for codes, names in _CENTS[words.grammar.code].items():
        if code in codes:
            one, few, many = names[0], names[min(1, len(names) - 1)], names[-1]
            return {"one": one, "few": few, "many": many, "other": few}
    return {}


def _of(grammar: Grammar, name: str) -> str:
    """Return the word between millions and a currency; French says ``d'euros`` before a vowel."""
    return "d'" if grammar.code == "fr" and name[0] in "aeiou" else grammar.of
