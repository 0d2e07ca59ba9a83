"""Rules for numbers in each of the ten languages: marks, agreement, and the wording of dates and times.

These rules were written by hand. Number words, month names, currency names and plural forms come from CLDR, in
:mod:`serve_app.text.numbers.words`. This module knows nothing about scanning.
"""

from dataclasses import dataclass, field
from typing import Final, Literal

Order = Literal["dmy", "mdy", "ymd"]
NEVER: Final = r"(?!)"
"""A pattern that never matches."""


@dataclass(frozen=True, slots=True)
class TimeOfDay:
    """Templates for a clock time; ``{hours}`` is the word of :attr:`Grammar.hours` that agrees with the hour.

    Attributes:
        full: for an hour and a minute.
        on_the_hour: for minute zero.
        early: for minutes one to nine; if empty, ``full`` is used.
        late: for minute zero from 13 on and at midnight; if empty, ``on_the_hour`` is used.
        noun: the noun that the hour agrees with.
        minutes: the rule set of the minutes; if empty, ``Grammar.counting`` is used.
        written: the pattern of further ways to write a time, with groups ``h2`` and ``m2``: ``14h30``.
        after: the pattern of text after ``14:30`` that ``full`` already says.
    """

    full: str
    on_the_hour: str
    early: str = ""
    late: str = ""
    noun: str = ""
    minutes: str = ""
    written: str = NEVER
    after: str = ""


@dataclass(frozen=True, slots=True)
class Grammar:
    """The rules of one language. Patterns are for :mod:`re`; rule sets are CLDR's names without ``spellout-``.

    Attributes:
        code: CLDR's code of the language.
        time: templates for clock times.
        day_of_month: template for a day and a month.
        dated: template for such a ``{date}`` and its year.
        day_first: template for a day before its month, if it differs from ``day_of_month``.
        percent: template for ``{number}`` and a percent sign; ``{percent}`` is the agreeing word of ``percents``.
        point: the word for the decimal mark.
        until: the word for the dash of ``10-20``; if empty, the dash stays.
        decimal: the decimal mark.
        groups: the marks between thousands, one character each.
        digit_gap: the separator between digits that are read one by one.
        gap: the separator between a number and its currency.
        counting: the rule set of a plain cardinal.
        agreements: pairs of a pattern and a rule set that replaces ``counting``; the first match counts. The patterns
            are matched against the number in digits, a space and the text that follows. Gender is guessed from a
            noun's ending.
        ordinals: maps the suffix of a written ordinal to its rule set.
        ordinal_day: the rule set of the day of a date; empty for a cardinal.
        first_of_month: the rule set of the first day, if only that is an ordinal.
        year: the rule set of a year; ``digits`` reads it digit by digit.
        numeric_dates: marks and order of dates in digits; dates that begin with a four-digit year are always read.
        fraction_is_a_number: whether ``3,14`` is read as three, fourteen.
        minor: the words between ``5 euros`` and ``50``; None reads an amount as a decimal.
        of: the word between a million and a currency.
        scales: the pattern of words that may stand between an amount and its currency.
        hours: the word for hours, by plural form.
        percents: the word for percent, by plural form.
        currency_noun: the pattern of the noun in CLDR's currency name: ``US dollars`` becomes ``dollars``.
        yuan: the word for CNY, if CLDR names the currency and not its unit.
        names_cents: whether the word for cents is always said; if not, it is left out from ten on: five dollars fifty.
        plus: the word for the plus sign before a telephone number.
        power: template for ``{base}`` and ``{exponent}``.
        marks: the words for ``. @ / - _`` in an address.
        hyphenated: whether a number before a hyphen and a lower-case letter is a separate word: ``20-year-old``.
    """

    code: str
    time: TimeOfDay
    day_of_month: str
    dated: str
    percent: str
    point: str
    until: str
    day_first: str = ""
    decimal: str = ","
    groups: str = ". \u00a0\u202f"
    digit_gap: str = " "
    gap: str = " "
    counting: str = "numbering"
    agreements: tuple[tuple[str, str], ...] = ()
    ordinals: dict[str, str] = field(default_factory=dict[str, str])
    ordinal_day: str = ""
    first_of_month: str = ""
    year: str = "numbering-year"
    numeric_dates: tuple[tuple[str, Order], ...] = ()
    fraction_is_a_number: bool = False
    minor: str | None = None
    of: str = ""
    scales: str = NEVER
    hours: dict[str, str] = field(default_factory=dict[str, str])
    percents: dict[str, str] = field(default_factory=dict[str, str])
    currency_noun: str = r"\S+"
    yuan: str = ""
    hyphenated: bool = False
    names_cents: bool = False
    plus: str = "plus"
    power: str = ""
    marks: tuple[str, str, str, str, str] = ("", "", "", "", "")


# Nouns that may follow a number and that it agrees with; they are listed or guessed by their endings.
_GERMAN_FEMININE = r"(?!(?:Ende|Auge|Name|Kunde)\b)(?:[MB]illion|Frau|\w+(?:e|ung|heit|keit|schaft|tion|tät))\b"
_GERMAN_NOUN = r"(?!(?:und|oder|bis|von|zu|ist|war|in|im|an|am|auf|mit|plus|mal)\b)[^\W\d_]"
_FRENCH_FEMININE = (
    r"(?:heures?|minutes?|secondes?|journées?|semaines?|années?|fois|personnes?|femmes?|filles?|pages?|villes?|places?"
    r"|voitures?|maisons?|tonnes?|livres? sterling|roupies?|\w+(?:tion|sion|té|ette|ance)s?)\b"
)
_SPANISH_FEMININE = (
    r"(?!(?:días?|mapas?|planetas?|\w*mas?|las?|para)\b)(?:vez|veces|\w+(?:as?|[cs]ión|[cs]iones|dad|dades))\b"
)
_SPANISH_NOUN = r"(?!(?:\w{1,2}|que|con|por|para|del|los|las)\b)[^\W\d_]"
_PORTUGUESE_FEMININE = (
    r"(?!(?:dias?|mapas?|planetas?|\w*mas?|[dn]as?|para)\b)(?:vez|vezes|\w+(?:as?|ção|ções|dades?|gens?))\b"
)
_ITALIAN_FEMININE = r"(?!(?:\w*ma|[dn]?alla|la)\b)\w+(?:a|zione|sione|tà|trice)\b"
_ITALIAN_NOUN = r"(?!(?:\w{1,2}|che|con|per|del|dei|non)\b)[^\W\d_]"
_CHINESE_MEASURE = (
    "(?:年(?!级)|小时|分钟|公[里斤]|[米斤升秒份项首句封步趟遍个位条只张本件次天周岁名家]"
    "|[种倍块元辆台部支杯瓶双对套座间片朵头匹点人百千万亿])"
)
_KOREAN_COUNTER = (
    r"(?:개(?![월년국])|명|마리|살|시간|달(?!러)|권|잔|병|장|대|곳|가지|사람|그릇|송이|켤레|자루|채|쌍|배|군데)"
)

GRAMMARS: Final[dict[str, Grammar]] = {
    "english": Grammar(
        code="en",
        time=TimeOfDay("{hour} {minute}", "{hour} o'clock", early="{hour} oh {minute}", late="{hour} hundred hours"),
        day_of_month="{month} {day}",
        dated="{date}, {year}",
        day_first="the {day} of {month}",
        percent="{number} percent",
        point=" point ",
        until=" to ",
        decimal=".",
        groups=",",
        ordinals={"st": "ordinal", "nd": "ordinal", "rd": "ordinal", "th": "ordinal"},
        ordinal_day="ordinal",
        numeric_dates=(("/", "mdy"),),
        minor=" ",
        scales=r"thousand|million|billion|trillion",
        currency_noun=r"\S+$",
        hyphenated=True,
        power="{base} to the power of {exponent}",
        marks=("dot", "at", "slash", "dash", "underscore"),
    ),
    "german": Grammar(
        code="de",
        time=TimeOfDay(
            "{hour} Uhr {minute}",
            "{hour} Uhr",
            noun="Uhr",
            written=r"(?P<h2>[0-9]{1,2})\.(?P<m2>[0-5][0-9]) ?Uhr",
            after=" ?Uhr",
        ),
        day_of_month="{day} {month}",
        dated="{date} {year}",
        percent="{number} Prozent",
        point=" Komma ",
        until=" bis ",
        agreements=((f"1 {_GERMAN_FEMININE}", "cardinal-feminine"), (f"1 {_GERMAN_NOUN}", "cardinal-masculine")),
        ordinal_day="ordinal-r",
        numeric_dates=((".", "dmy"),),
        minor=" ",
        scales=r"Tausend|Million(?:en)?|Milliarden?|Billion(?:en)?|Mio\.|Mrd\.",
        currency_noun=r"\w+$",
        hyphenated=True,
        power="{base} hoch {exponent}",
        marks=("Punkt", "at", "Schrägstrich", "Bindestrich", "Unterstrich"),
    ),
    "french": Grammar(
        code="fr",
        time=TimeOfDay(
            "{hour} {hours} {minute}",
            "{hour} {hours}",
            noun="heure",
            minutes="cardinal-feminine",
            written=r"(?P<h2>[0-9]{1,2}) ?h(?: ?(?P<m2>[0-5][0-9]))?",
        ),
        day_of_month="{day} {month}",
        dated="{date} {year}",
        percent="{number} pour cent",
        point=" virgule ",
        until=" à ",
        agreements=((rf"[0-9]*1 {_FRENCH_FEMININE}", "cardinal-feminine"),),
        ordinals={
            "er": "ordinal-masculine", "re": "ordinal-feminine", "ère": "ordinal-feminine", "e": "ordinal-masculine",
            "ème": "ordinal-masculine", "eme": "ordinal-masculine", "è": "ordinal-masculine",
            "nd": "ordinal-masculine", "nde": "ordinal-feminine",
            "es": "ordinal-masculine-plural", "èmes": "ordinal-masculine-plural",
        },
        first_of_month="ordinal-masculine",
        year="numbering",
        numeric_dates=(("/", "dmy"), (".", "dmy")),
        fraction_is_a_number=True,
        minor=" ",
        of="de ",
        scales=r"mille|millions?|milliards?",
        hours={"one": "heure", "other": "heures"},
        currency_noun=r"livres? sterling|\S+",
        power="{base} puissance {exponent}",
        marks=("point", "arobase", "slash", "tiret", "tiret bas"),
    ),
    "spanish": Grammar(
        code="es",
        time=TimeOfDay("{hour} y {minute}", "{hour} en punto", noun="hora", after=" ?(?:hs|h)"),
        day_of_month="{day} de {month}",
        dated="{date} de {year}",
        percent="{number} por ciento",
        point=" coma ",
        until=" a ",
        agreements=(
            (rf"[0-9]+ {_SPANISH_FEMININE}", "cardinal-feminine"),
            (rf"[0-9]+ {_SPANISH_NOUN}", "cardinal-masculine"),
        ),
        ordinals={
            "º": "ordinal-masculine", "ª": "ordinal-feminine", ".º": "ordinal-masculine", ".ª": "ordinal-feminine",
            "er": "ordinal-masculine-adjective", "ro": "ordinal-masculine", "ra": "ordinal-feminine",
            "do": "ordinal-masculine", "da": "ordinal-feminine", "to": "ordinal-masculine", "ta": "ordinal-feminine",
        },
        first_of_month="ordinal-masculine",
        numeric_dates=(("/", "dmy"),),
        fraction_is_a_number=True,
        minor=" con ",
        of="de ",
        scales=r"mil|mill[oó]n|millones|mil millones|billones",
        plus="más",
        power="{base} elevado a {exponent}",
        marks=("punto", "arroba", "barra", "guion", "guion bajo"),
    ),
    "portuguese": Grammar(
        code="pt",
        time=TimeOfDay(
            "{hour} e {minute}",
            "{hour} {hours}",
            noun="hora",
            written=r"(?P<h2>[0-9]{1,2}) ?h(?: ?(?P<m2>[0-5][0-9]))?",
        ),
        day_of_month="{day} de {month}",
        dated="{date} de {year}",
        percent="{number} por cento",
        point=" vírgula ",
        until=" a ",
        agreements=((rf"[0-9]+ {_PORTUGUESE_FEMININE}", "cardinal-feminine"),),
        ordinals={
            "º": "ordinal-masculine", "ª": "ordinal-feminine", ".º": "ordinal-masculine", ".ª": "ordinal-feminine",
            "°": "ordinal-masculine",
        },
        first_of_month="ordinal-masculine",
        numeric_dates=(("/", "dmy"),),
        fraction_is_a_number=True,
        minor=" e ",
        of="de ",
        scales=r"mil|milhão|milhões|bilhão|bilhões|mil milhões",
        hours={"one": "hora", "other": "horas"},
        plus="mais",
        power="{base} elevado a {exponent}",
        marks=("ponto", "arroba", "barra", "hífen", "sublinhado"),
    ),
    "italian": Grammar(
        code="it",
        time=TimeOfDay(
            "{hour} e {minute}",
            "{hour}",
            noun="ora",
            written=r"(?:(?<=\bore )|(?<=\balle )|(?<=\bdalle ))(?P<h2>[0-9]{1,2})\.(?P<m2>[0-5][0-9])",
        ),
        day_of_month="{day} {month}",
        dated="{date} {year}",
        percent="{number} per cento",
        point=" virgola ",
        until=" a ",
        agreements=((f"1 {_ITALIAN_FEMININE}", "cardinal-feminine"), (f"1 {_ITALIAN_NOUN}", "cardinal-masculine")),
        ordinals={"º": "ordinal-masculine", "ª": "ordinal-feminine", "°": "ordinal-masculine"},
        first_of_month="ordinal-masculine",
        numeric_dates=(("/", "dmy"),),
        fraction_is_a_number=True,
        minor=" e ",
        of="di ",
        scales=r"mila|milione|milioni|miliardo|miliardi",
        plus="più",
        power="{base} elevato a {exponent}",
        marks=("punto", "chiocciola", "barra", "trattino", "trattino basso"),
    ),
    "russian": Grammar(
        code="ru",
        time=TimeOfDay("{hour} {minute}", "{hour} {hours}", early="{hour} ноль {minute}", minutes="cardinal-feminine"),
        day_of_month="{day} {month}",
        dated="{date} {year} года",
        percent="{number} {percent}",
        point=" запятая ",
        until="",
        groups=" \u00a0\u202f",
        agreements=(
            (r"(?:[0-9]*[^1])?(?:1 \w+[ая]|2 \w+[ыи])\b", "cardinal-feminine"),
            (r"(?:[0-9]*[^1])?1 (?!евро)\w+[ое]\b", "cardinal-neuter"),
        ),
        ordinals={
            "й": "ordinal-masculine", "ый": "ordinal-masculine", "ой": "ordinal-masculine", "я": "ordinal-feminine",
            "ая": "ordinal-feminine", "е": "ordinal-neuter", "ое": "ordinal-neuter", "го": "ordinal-masculine-genitive",
            "му": "ordinal-masculine-dative", "м": "ordinal-masculine-locative", "х": "ordinal-plural-genitive",
            "ю": "ordinal-feminine-accusative", "ми": "ordinal-plural-ablative", "ые": "ordinal-plural",
        },
        ordinal_day="ordinal-neuter-genitive",
        year="ordinal-masculine-genitive",
        numeric_dates=((".", "dmy"),),
        minor=" ",
        scales=r"тысяч[аи]?|миллион(?:а|ов)?|миллиард(?:а|ов)?|тыс\.|млн|млрд",
        hours={"one": "час", "few": "часа", "many": "часов", "other": "часа"},
        percents={"one": "процент", "few": "процента", "many": "процентов", "other": "процента"},
        currency_noun=r"\b(?!\S+ск(?:ий|ая|ие|их|ое)\b)\S+",
        plus="плюс",
        power="{base} в степени {exponent}",
        marks=("точка", "собака", "слэш", "дефис", "нижнее подчёркивание"),
    ),
    "chinese": Grammar(
        code="zh",
        time=TimeOfDay("{hour}点{minute}分", "{hour}点", early="{hour}点零{minute}分", noun="点"),
        day_of_month="{month}月{day}日",
        dated="{year}年{date}",
        percent="百分之{number}",
        point="点",
        until="到",
        decimal=".",
        groups=",",
        digit_gap="",
        gap="",
        counting="cardinal",
        agreements=((r"[0-9]{4,} ", "cardinal-alternate2"), (rf"[0-9]+ {_CHINESE_MEASURE}", "cardinal-alternate2")),
        year="digits",
        scales=r"[百千万亿]|百万|千万|万亿",
        yuan="元",
        plus="加",
        power="{base}的{exponent}次方",
        marks=("点", "艾特", "斜杠", "横杠", "下划线"),
    ),
    "japanese": Grammar(
        code="ja",
        time=TimeOfDay("{hour}時{minute}分", "{hour}時"),
        day_of_month="{month}月{day}日",
        dated="{year}年{date}",
        percent="{number}パーセント",
        point="点",
        until="から",
        decimal=".",
        groups=",",
        digit_gap="",
        gap="",
        year="numbering",
        scales=r"[百千万億兆]",
        currency_noun=r"(?:[ァ-ヶー]+|[円元])$",
        plus="プラス",
        power="{base}の{exponent}乗",
        marks=("ドット", "アットマーク", "スラッシュ", "ハイフン", "アンダーバー"),
        minor="",
        names_cents=True,
    ),
    "korean": Grammar(
        code="ko",
        time=TimeOfDay("{hour} 시 {minute} 분", "{hour} 시", noun="시"),
        day_of_month="{month}월 {day}일",
        dated="{year}년 {date}",
        percent="{number} 퍼센트",
        point="점",
        until="에서 ",
        decimal=".",
        groups=",",
        digit_gap="",
        counting="cardinal-sinokorean",
        agreements=(
            (r"(?:[0-9]|1[0-2]) 시", "cardinal-native-attributive"),
            # 20대 means people in their twenties, and 3대 2 is a score.
            (rf"(?![1-9]0 대|[0-9]+ 대 ?[0-9])[0-9]{{1,2}} {_KOREAN_COUNTER}", "cardinal-native-attributive"),
        ),
        numeric_dates=((".", "ymd"),),
        scales=r"[백천만억조]",
        currency_noun=r"[^\s화]+(?=화?$)",
        plus="플러스",
        power="{base}의 {exponent}제곱",
        marks=("점", "골뱅이", "슬래시", "하이픈", "밑줄"),
        minor=" ",
        names_cents=True,
    ),
}  # fmt: skip
