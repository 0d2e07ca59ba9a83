"""Defines forms, and the forms of plain numbers, percentages, ranges, powers and ordinals.

A form is a pattern and a function that puts its matches into words. Named groups are unique among all forms of a
language, because the forms are combined into one pattern. This module does not search a text.
"""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, Literal

from serve_app.text.numbers.grammar import Grammar
from serve_app.text.numbers.words import MAX_DIGITS, NumberWords, ends_in_one

LETTER: Final = "A-Za-zÀ-ÖØ-öø-ɏЀ-ӿ"
"""Letters of scripts with spaces between words, for a character class; digits next to one belong to its word."""

# Patterns use [0-9], because \d matches the digits of all scripts.
_WIDE: Final = "぀-ヿ一-鿿가-힣"
MINUS: Final = rf"(?:(?<![0-9{LETTER})\]%])(?<![0-9][{_WIDE}])(?<![0-9][{_WIDE}]{{2}})[-−])?"
"""The pattern of an optional minus sign that is neither a hyphen nor the dash of ``10点-12点``."""

SPACE: Final = "[ \u00a0\u2009\u202f]"
"""The pattern of one space inside a form."""

_DASH: Final = r" ?[–—] ?|-"
_WIDE_DASH: Final = r" ?[–—~〜] ?|-"
_ALWAYS_GROUPS: Final = "\u00a0\u2009\u202f'’"
"""Marks that may stand between thousands in any language; they never separate two numbers."""

_COUNTED_DASH: Final = " ?(?:[-~〜–]|—{1,2}) ?"
_BEFORE_SECOND: Final = (
    "(?:第|上午|下午|中午|晚上|凌晨|早上|次日|当日|同年|午前|午後|翌日?|夜|朝"
    "|제|(?:오전|오후|밤|새벽|아침|저녁|다음 ?날) ?)"
)
"""Words that may stand between the dash and the second number of a range of counts."""

_DATED: Final = "年月日号號点點时時分秒년월일시분초"
"""Counters that may be mixed in one range: ``5日~4月8日``."""

_MAX_GROUPS: Final = 6
_ORDINAL_PREFIXES = ("第", "제")
_MAX_BARE_DIGITS = 9
"""More digits without marks between thousands are a telephone, account or card number, read digit by digit."""

_MAX_ORDINAL_DIGITS = 4
"""CLDR's Russian ordinals do not go much further."""

_YEAR = re.compile(r"1[1-9][0-9][0-9]|20[0-9][0-9]")


_RUSSIAN_GENITIVE = re.compile(
    r"\b(?:от|до|около|более|менее|больше|меньше|свыше|из|без|для|после|кроме|у|порядка|выше|ниже) $", re.IGNORECASE
)
_RUSSIAN_OTHER_CASE = re.compile(r"\b(?:в|во|к|ко|о|об|по|при|с|со|под|над|между|перед) $", re.IGNORECASE)

_RUSSIAN_ACCUSATIVE = re.compile(r"\b(?:на|за|через) $", re.IGNORECASE)

Case = Literal["nominative", "accusative", "genitive", "other"]
"""The case of a Russian number and its noun; ``other`` is a case that is not supported."""


@dataclass(frozen=True, slots=True)
class Place:
    """A match of a form in a text.

    Attributes:
        words: the words of the text's language.
        groups: the form's named groups that matched.
        text: the matched text.
        before: some text before the match.
        after: some text after the match.
    """

    words: NumberWords
    groups: dict[str, str]
    text: str
    before: str
    after: str

    @property
    def grammar(self) -> Grammar:
        """The grammar of the text's language."""
        return self.words.grammar

    @property
    def case(self) -> Case:
        """The case that a preposition before the match requires; always nominative except in Russian."""
        if self.grammar.code != "ru":
            return "nominative"
        if _RUSSIAN_GENITIVE.search(self.before):
            return "genitive"
        if _RUSSIAN_ACCUSATIVE.search(self.before):
            return "accusative"
        return "other" if _RUSSIAN_OTHER_CASE.search(self.before) else "nominative"


@dataclass(frozen=True, slots=True)
class Form:
    """One way to write something with digits.

    Attributes:
        pattern: a pattern for :mod:`re`.
        read: returns the words of a match; None if the text should stay as it is written.
    """

    pattern: str
    read: Callable[[Place], str | None]


def after_any(*words: str) -> str:
    """Return the pattern of a position after one of some words and a space."""
    return "(?:" + "|".join(rf"(?<=\b{word} )" for word in words) + ")"


def end(grammar: Grammar) -> str:
    """Return the pattern of a position where a number ends and no character adjoins it."""
    hyphen = f"(?!-[0-9A-ZÀ-ÖØ-Þ])(?!-[{LETTER}]*[0-9])" if grammar.hyphenated else f"(?!-[0-9{LETTER}])"
    return rf"(?![0-9{LETTER}])(?![._/:][0-9{LETTER}])(?!(?<=[0-9])[,'’][0-9])(?!://){hyphen}"


def number(grammar: Grammar, *, noun: bool = False) -> str:
    """Return the pattern of a number as the language writes it, without a sign; it may begin with its decimal mark.

    Args:
        grammar: the rules of the language.
        noun: whether a unit or a currency stands with the number. If so, digits in groups of three that are separated
            by spaces are one number (``5 100 €``), and one or two decimals may follow the decimal mark of other
            languages (``$674.03`` in German). If not, and if the language does not separate thousands by spaces, such
            groups are one number only if the last one is ``000``, or if there are at least three groups and the first
            has one or two digits.
    """
    point = re.escape(grammar.decimal)
    marks = "".join(dict.fromkeys(grammar.groups + _ALWAYS_GROUPS + (" " if noun else "")))
    grouped = [
        rf"[0-9]{{1,3}}(?:{re.escape(mark)}[0-9]{{3}}){{1,{_MAX_GROUPS}}}(?!{' ?' if mark == ' ' else ''}[0-9])"
        for mark in marks
    ]
    if " " not in grammar.groups:
        grouped += [
            rf"[1-9][0-9]{{0,2}}(?: [0-9]{{3}}){{0,{_MAX_GROUPS - 1}}} 000(?! ?[0-9])",
            rf"[1-9][0-9]?(?: [0-9]{{3}}){{2,{_MAX_GROUPS}}}(?! ?[0-9])",
        ]
    if grammar.code == "en":
        grouped.append(r"[1-9][0-9]?(?:,[0-9]{2}){1,4},[0-9]{3}(?!,?[0-9])")  # Indian thousands: 1,00,000
    # Most numbers have no marks, so one look-ahead skips all the alternatives.
    whole = rf"(?:(?=[0-9]{{1,3}}[ {re.escape(marks)}])(?:{'|'.join(grouped)})|[0-9]+)"
    begins = rf"(?<![^\s(\[{{«„“\"'‘’–—\-−$€£¥₩₽₹:，、。；！？（「『【《{_WIDE}])(?<![0-9]:)"
    return rf"(?:{_foreign(grammar) if noun else ''}{whole}(?:{point}[0-9]+)?|{begins}{point}[0-9]+)"


def _foreign(grammar: Grammar) -> str:
    """Return the pattern of a number with one or two decimals after other languages' mark, followed by ``|``."""
    mark, group = re.escape(_other(grammar)), re.escape(grammar.decimal)
    whole = rf"(?:[0-9]{{1,3}}(?:{group}[0-9]{{3}}){{1,{_MAX_GROUPS}}}|[0-9]+)"
    return rf"(?=[0-9{group}]+{mark}){whole}{mark}[0-9]{{1,2}}(?![0-9{group}{mark}])|"


def quantity(grammar: Grammar, name: str, *, before: str = "", after: str = "") -> str:
    """Return the pattern of a number or a range with a noun, with groups ``from``, ``dash`` and ``to``.

    Args:
        grammar: the rules of the language.
        name: the suffix of the groups' names.
        before: the pattern that may precede the second number: the sign in ``$5-$10``.
        after: the pattern that may follow the first number: the sign in ``5%-10%``.
    """
    written = number(grammar, noun=True)
    first = rf"(?P<from{name}>{written}){f'(?:{after})?' if after else ''}(?P<dash{name}>{_dash(grammar)})"
    return rf"(?:{first}{f'(?:{before})?' if before else ''})?(?P<to{name}>{written})"


def up_to(place: Place, name: str) -> str | None:
    """Return the words of a range's first number and dash; empty for a single number, None if this is not a range."""
    first = place.groups.get(f"from{name}")
    if first is None:
        return ""
    dash, last = place.groups[f"dash{name}"], place.groups[f"to{name}"]
    if place.case in ("genitive", "other") or not _is_range(place.words, first, dash, last):
        return None
    return f"{spoken_number(place.words, first)}{place.grammar.until or dash}"


def _dash(grammar: Grammar) -> str:
    return _DASH if grammar.digit_gap else _WIDE_DASH


def numbers(grammar: Grammar) -> list[Form]:
    """Return the forms of percentages, powers and ranges, and last that of a plain number."""
    written, over = number(grammar), end(grammar)
    return [
        Form(rf"(?P<minus_percent>{MINUS}){quantity(grammar, '_percent', after=' ?%')}{SPACE}?%{over}", _percent),
        Form(
            rf"(?P<base>{MINUS}{written})(?:\^(?P<exponent>[-−]?[0-9]{{1,4}})|(?P<raised>[⁻]?[⁰¹²³⁴-⁹]{{1,4}})){over}",
            _power,
        ),
        Form(rf"(?P<from>{written})(?P<dash>{_dash(grammar)})(?P<to>{written}){over}", _range),
        Form(rf"(?P<plain>{MINUS}{written}){over}", _plain),
    ]


def ranges_of_counts(grammar: Grammar) -> list[Form]:
    """Return the forms of ranges with two counters, ``10点-12点``, if the language joins numbers and counters."""
    if grammar.code not in ("zh", "ja", "ko"):
        return []
    written = number(grammar)
    # Equal counters may have up to four characters; different counters belong to dates and times.
    same = rf"(?P<counter_c>[{_WIDE}]{{1,4}}?){_COUNTED_DASH}(?P<way_c>{_BEFORE_SECOND}?)(?=[0-9.,−-]+(?P=counter_c))"
    dated = rf"(?P<counter_d>[{_DATED}]半?){_COUNTED_DASH}(?P<way_d>{_BEFORE_SECOND}?)(?=[0-9]+[{_DATED}])"
    second = rf"(?P<to_c>(?:(?<=[~〜])[-−])?{written}){end(grammar)}"
    return [
        # There is no word for the slash of a price per month: 3000元/月.
        Form(rf"{MINUS}(?:{written}(?:{_WIDE_DASH}))?{written}[{_WIDE}]{{1,2}}/(?=[{_WIDE}])", _leave),
        Form(rf"(?P<from_c>{MINUS}{written})(?:{same}|{dated}){second}", _range_of_counts),
    ]


def _range_of_counts(place: Place) -> str:
    groups = place.groups
    counter, way = (groups.get("counter_c") or groups["counter_d"]), (groups.get("way_c") or groups.get("way_d") or "")
    first, last = _counted(place, groups["from_c"], counter), _counted(place, groups["to_c"], place.after)
    return f"{first}{counter}{place.grammar.until}{way}{last}"


def _counted(place: Place, written: str, counter: str) -> str:
    """Read a number with its counter as if it stood alone: Chinese years by digits, Korean months by name."""
    words, code = place.words, place.grammar.code
    if code == "zh" and counter[:1] == "年" and re.fullmatch("[1-9][0-9]{3}", written):
        return words.year(int(written))
    if code == "ko" and counter[:1] == "월" and written.isdigit() and 1 <= int(written) <= 12:
        return words.month(int(written))
    spoken = spoken_number(words, written, counter)
    return f"{spoken} " if code == "ko" and spoken != spoken_number(words, written) else spoken


def rest() -> Form:
    """Return the form of any other text with digits (words, identifiers, versions, scores), which stays unchanged."""
    joint = rf"[._/:-][0-9{LETTER}]+|(?<=[0-9])[,'’][0-9][0-9{LETTER}]*"
    return Form(rf"[0-9{LETTER}]+(?:{joint})*", _leave)


def _other(grammar: Grammar) -> str:
    """Return the decimal mark of the other languages."""
    return "," if grammar.decimal == "." else "."


def parts_of(grammar: Grammar, written: str) -> tuple[str, str]:
    """Return a number's integer part, without its sign, and its decimals."""
    unsigned = written.lstrip("-−")
    foreign = re.search(rf"{re.escape(_other(grammar))}[0-9]{{1,2}}$", unsigned)
    mark = _other(grammar) if foreign else grammar.decimal
    whole, _, fraction = unsigned.rpartition(mark) if mark in unsigned else (unsigned, "", "")
    return whole.replace(grammar.decimal, grammar.groups[0]) if foreign else whole, fraction


def spoken_number(words: NumberWords, written: str, after: str = "", rule_set: str = "") -> str:
    """Return the words of a number as its language writes it, with or without a sign.

    Args:
        words: the words of the language.
        written: the number.
        after: the noun that it counts, for agreement.
        rule_set: the rule set for an integer, if not the default of the language.
    """
    whole, fraction = parts_of(words.grammar, written)
    digits = "".join(filter(str.isdigit, whole))
    most = _MAX_BARE_DIGITS if whole == digits else MAX_DIGITS
    if fraction:
        spoken = words.decimal(digits, fraction)
    elif rule_set and len(digits) <= most:
        spoken = words.spelled(int(digits), rule_set)
    else:
        spoken = words.whole(digits, after, most)
    return words.negative(spoken) if written[0] in "-−" else spoken


def value_of(words: NumberWords, written: str) -> int | Decimal:
    """Return the value of a number, for the words that agree with it."""
    whole, fraction = parts_of(words.grammar, written)
    digits = "".join(filter(str.isdigit, whole))[-18:] or "0"
    return Decimal(f"{digits}.{fraction[:18]}") if fraction else int(digits)


def counted(place: Place, written: str, forms: Callable[[int | Decimal], str]) -> str | None:
    """Return the words of a number and its noun in the right case; None if the case is unknown, as in Russian.

    Args:
        place: the match of the whole form.
        written: the number.
        forms: returns the noun that agrees with a number.
    """
    words, value = place.words, value_of(place.words, written)
    if place.case == "nominative" or (place.case == "accusative" and not (value % 1 == 0 and ends_in_one(int(value)))):
        noun = forms(value)
        return f"{spoken_number(words, written, noun)}{place.grammar.gap}{noun}"
    if place.case != "genitive" or not isinstance(value, int):
        return None
    # CLDR's plural form "few" is the genitive singular, and "many" the genitive plural.
    noun = forms(2 if ends_in_one(value) else 5)
    gender = "feminine" if ends_in_one(value) and noun.endswith(("ы", "и")) else "masculine"
    return f"{spoken_number(words, written, rule_set=f'cardinal-{gender}-genitive')} {noun}"


def ordinals(grammar: Grammar) -> list[Form]:
    """Return the forms of ordinals that are written with digits and a suffix."""
    if not grammar.ordinals:
        return []
    hyphen = "-" if grammar.code == "ru" else ""
    # An Italian 20° is an ordinal only before a word; elsewhere it means degrees.
    suffixes = [
        re.escape(hyphen + suffix) + (r"(?= [^\W\d_])(?! ?[CFK]\b)" if suffix == "°" else "")
        for suffix in sorted(grammar.ordinals, key=len, reverse=True)
    ]
    return [Form(rf"(?P<nth>[0-9]+)(?P<suffix>(?i:{'|'.join(suffixes)})){end(grammar)}", _ordinal)]


def _leave(_: Place) -> None:
    return None


def _plain(place: Place) -> str:
    written = place.groups["plain"]
    after = "" if place.before.endswith(_ORDINAL_PREFIXES) else place.after.lstrip()
    genitive = place.case == "genitive"
    spoken = spoken_number(place.words, written, after, "cardinal-masculine-genitive" if genitive else "")
    # Korean separates a native number from its counter: 3개 is 세 개.
    native = place.grammar.code == "ko" and spoken != spoken_number(place.words, written)
    return f"{spoken} " if native and not place.after[:1].isspace() else spoken


def _percent(place: Place) -> str | None:
    grammar, words, written = place.grammar, place.words, place.groups["to_percent"]
    begun = up_to(place, "_percent")
    if begun is None:
        return None
    if begun and not grammar.percent.startswith("{number}"):
        begun = grammar.percent.format(number=begun)
    if grammar.percents:
        spoken = counted(place, written, lambda value: words.plural(grammar.percents, value))
    else:
        noun = "Prozent" if grammar.code == "de" else ""
        spoken = grammar.percent.format(number=spoken_number(words, written, noun))
    if spoken is None:
        return None
    return words.negative(begun + spoken) if place.groups["minus_percent"] else begun + spoken


def _power(place: Place) -> str | None:
    """Read a power, such as ``10^6``."""
    raised = unicodedata.normalize("NFKC", place.groups.get("raised", ""))
    exponent = place.groups.get("exponent") or raised
    if exponent in "-−" or exponent[-1] in "-−":
        return None
    words = place.words
    return place.grammar.power.format(
        base=spoken_number(words, place.groups["base"]), exponent=spoken_number(words, exponent)
    )


def _range(place: Place) -> str | None:
    first, dash, last = place.groups["from"], place.groups["dash"], place.groups["to"]
    words = place.words
    if not _is_range(words, first, dash, last):
        return None
    until = place.grammar.until or dash
    if _YEAR.fullmatch(first) and _YEAR.fullmatch(last) and place.grammar.code in ("en", "de"):
        return f"{words.year(int(first))}{until}{words.year(int(last))}"
    return f"{spoken_number(words, first)}{until}{spoken_number(words, last, place.after.lstrip())}"


def _is_range(words: NumberWords, first: str, dash: str, last: str) -> bool:
    """Return whether two numbers form an ascending range. With a hyphen, 99-100 is a range but 555-1234 is not."""
    if value_of(words, first) >= value_of(words, last):
        return False
    return dash != "-" or not (last[0] == "0" or (len(last) > 3 and len(last) != len(first)))


def _ordinal(place: Place) -> str | None:
    digits, suffix = place.groups["nth"], place.groups["suffix"].lstrip("-")
    if len(digits) > _MAX_ORDINAL_DIGITS:
        return None
    if place.grammar.code == "ru" and suffix in ("х", "ми") and not digits.endswith("0"):
        return None  # 2-х is usually the cardinal двух
    if suffix == "е" and digits.endswith("0"):
        suffix = "ые"  # Russian 1990-е is plural: the years of a decade
    return place.words.year(int(digits), place.grammar.ordinals[suffix.lower()])
