"""The forms of dates, years and clock times; :mod:`serve_app.text.numbers.forms` defines what a form is.

A date that does not exist in the calendar stays as it is written.
"""

import re
from datetime import date
from typing import Final

from serve_app.text.numbers.forms import LETTER, Form, Place, after_any, end
from serve_app.text.numbers.grammar import NEVER, Grammar
from serve_app.text.numbers.words import NumberWords

_DAY: Final = r"(?:0?[1-9]|[12][0-9]|3[01])"
_MONTH: Final = r"(?:0?[1-9]|1[0-2])"
_YEAR: Final = r"[1-9][0-9]{3}"
_DATIVE = ("am", "vom", "zum", "bis", "dem", "den", "des", "im", "beim", "ab", "seit", "zur", "einem", "jedem")
_NOMINATIVE = ("der", "die", "das", "Der", "Die", "Das")
_GERMAN_DATIVE = re.compile(rf"\b(?:{'|'.join(_DATIVE)}|Am|Vom|Zum|Bis|Im|Ab|Seit) $")
_GERMAN_ARTICLE = re.compile(rf"\b(?:{'|'.join(_NOMINATIVE)}) $")
_ENGLISH_YEAR: Final = r"(?:1[1-9][0-9][0-9]|20[0-9][0-9])"
_ENGLISH_YEARS: Final = (
    rf"{_ENGLISH_YEAR}(?:(?:, {_ENGLISH_YEAR}){{0,6}},? (?:and|or) {_ENGLISH_YEAR}"
    rf"|(?: to | through | until | ?– ?|-){_ENGLISH_YEAR})?"
)
_ENGLISH_BEFORE_YEARS: Final = (
    r"(?i:in|since|from|between|until|till|by|before|after|during|years?(?: is| was| of)?|circa|ca?\.|early|late|mid"
    r"|spring|summer|autumn|fall|winter|christmas|easter|copyright|\(c\)|©|fiscal"
    r"|founded|born|died|established|World Cup|Olympics"
    r"|(?:class|season|spring|summer|autumn|fall|winter|end|start|beginning|elections?) of)|AD|FY"
)
_BEFORE_A_DECADE: Final = after_any(
    *(
        "the",
        "The",
        "in",
        "In",
        "his",
        "her",
        "my",
        "your",
        "our",
        "their",
        "early",
        "mid",
        "late",
        "Early",
        "Mid",
        "Late",
    )
)
_DECADES: Final = ("decade", "short_decade", "owned_decade")
_RUSSIAN_YEARS = {
    "год": "ordinal-masculine",
    "года": "ordinal-masculine-genitive",
    "годом": "ordinal-masculine-ablative",
    "годе": "ordinal-masculine-locative",
}


def dates(words: NumberWords) -> list[Form]:
    """Return the forms of dates in digits and of dates with the name of a month."""
    grammar, over = words.grammar, end(words.grammar)
    year_first = "|".join(f"{mark}{_MONTH}{mark}{_DAY}" for mark in ("-", "/", r"\.", r"\. "))
    forms = [Form(rf"{_YEAR}(?:{year_first}){over}", _year_first)]
    for mark, order in grammar.numeric_dates:
        pattern = rf"{_DAY}{re.escape(mark)}{_DAY}{re.escape(mark)}{_YEAR}{over}"
        forms.append(Form(pattern, _month_first if order == "mdy" else _day_first))
    if not words.months_are_numbers:
        forms += _dates_with_names(words)
    return forms


def years(words: NumberWords) -> list[Form]:
    """Return the forms of years, ordinals and days that need rules of their own in a language."""
    over = end(words.grammar)
    match words.grammar.code:
        case "en":
            short = "|".join(words.month_abbreviations)
            names = rf"{'|'.join(words.month_names)}|(?:{short})\.?"
            cues = rf"(?<![{LETTER}])(?:{_ENGLISH_BEFORE_YEARS}|{names})"
            return [
                Form(rf"(?P<cue_en>{cues} )(?P<years_en>{_ENGLISH_YEARS}){over}", _english_years),
                Form(rf"(?P<years_d>{_ENGLISH_YEAR})(?= (?:was|saw|season|elections?)\b)", _english_years),
                Form(rf"(?<=\()(?P<years_b>{_ENGLISH_YEARS})(?=\))", _english_years),
                Form(r"(?P<cue_ad>\bAD )(?P<years_ad>1?[1-9][0-9]{2}|10[0-9]{2})" + over, _english_years),
                Form(r"(?P<years_c>[1-9][0-9]{2,3})(?= (?:AD|BC|BCE|CE)\b)", _english_years),
                Form(rf"['’]?(?P<decade>(?:1[1-9]|20)(?:[1-9]0|00))['’]?s{over}", _decade),
                # Without such a word, 30s may just as well mean seconds.
                Form(rf"(?:['’]|(?<=['’])|{_BEFORE_A_DECADE})(?P<short_decade>[1-9]0)['’]?s{over}", _decade),
                Form(rf"(?P<owned_decade>[1-9]0)['’]s{over}", _decade),
            ]
        case "de":
            articles = after_any(*_DATIVE, *_NOMINATIVE)
            return [
                Form(
                    rf"{articles}(?P<nth_de>[1-9][0-9]{{0,2}})\.(?= (?:[A-ZÄÖÜ]|bis [0-9]|und [0-9]))", _german_ordinal
                ),
                Form(rf"(?P<year_de>1[1-9][0-9][0-9]){over}(?! ?[%€$£])", lambda place: _year(place, "year_de")),
            ]
        case "ru":
            names = "годом|года|году|годе|год|г\\."
            return [
                Form(rf"(?P<year_ru>{_YEAR}) ?(?P<name_ru>{names})(?![А-яЁё])", _russian_year),
                Form(
                    rf"(?P<years_ru>{_YEAR}(?:(?: и |, | ?[-–—] ?){_YEAR}){{1,6}}) "
                    r"(?P<plural_ru>годы|годов|годах|гг\.)(?![А-яЁё])",
                    _russian_years,
                ),
                Form(rf"(?P<cue_ru>\b[Гг]од )(?P<after_ru>{_YEAR}){over}", _russian_year_after),
            ]
        case "zh":
            return [
                # Generations are named after the decade of their birth.
                Form(
                    r"(?<![0-9.])(?P<born_zh>[0-9][05])(?=后(?![面来退方续台天])|[、和]?[0-9][05]后)",
                    lambda place: place.words.digits(place.groups["born_zh"]),
                ),
                # A person's height.
                Form(
                    rf"(?P<meters_zh>[12])米(?P<rest_zh>[0-9]{{2}})(?![0-9.{LETTER}厘])",
                    lambda place: (
                        f"{place.words.cardinal(int(place.groups['meters_zh']), '米')}米"
                        f"{place.words.digits(place.groups['rest_zh'])}"
                    ),
                ),
                Form(rf"(?P<years_zh>{_YEAR}[-–—~至到]{_YEAR})(?=年)", _chinese_years),
                Form(rf"(?P<year_zh>{_YEAR})(?=年|[、和与及]{_YEAR}年)", lambda place: _year(place, "year_zh")),
                Form(
                    rf"(?P<cue_zh>(?:年份|公元前?)[是为:：]? ?)(?P<after_zh>{_YEAR}){over}",
                    lambda place: place.groups["cue_zh"] + _year(place, "after_zh"),
                ),
            ]
        case "ko":
            return [
                Form(
                    r"(?P<day_ko>3[.·]1(?=절|운동)|4[.·]19(?=혁명)|5[.·]18(?=민주)|6[.·]25(?=전쟁)|8[.·]15(?=광복))",
                    lambda place: place.words.digits(re.sub("[^0-9]", "", place.groups["day_ko"])),
                ),
                Form(r"(?P<month_ko>0?6|10)(?= ?월)", lambda place: place.words.month(int(place.groups["month_ko"]))),
                Form(r"(?P<nth_ko>[0-9]{1,3}) ?번째", _korean_ordinal),
            ]
        case _:
            return []


def times(grammar: Grammar) -> list[Form]:
    """Return the forms of clock times."""
    over = end(grammar)
    after = f"(?:{grammar.time.after}(?!\\w))?" if grammar.time.after else ""
    forms = [
        Form(rf"(?P<h1>[01]?[0-9]|2[0-4]):(?P<m1>[0-5][0-9]){after}{over}", lambda place: _time(place, "1")),
        Form(rf"{grammar.time.written}{over}", lambda place: _time(place, "2")),
    ]
    if grammar.code == "en":
        half = rf" ?(?P<half3>[ap]m|[AP]M|[ap]\.m\.|[AP]\.M\.){over}"
        forms.insert(0, Form(rf"(?P<h3>0?[1-9]|1[0-2])(?:[:.](?P<m3>[0-5][0-9]))?{half}", _time_of_half))
    return [*_ranges_of_times(grammar, after, over), *forms]


def _ranges_of_times(grammar: Grammar, after: str, over: str) -> list[Form]:
    """Return the forms of two clock times with a dash; a hyphen counts only if the times contain letters."""
    if not grammar.until:
        return []
    dash = " ?[–—] ?" if grammar.digit_gap else " ?[–—~〜] ?"
    clock = r"(?P<h{0}>[01]?[0-9]|2[0-4]):(?P<m{0}>[0-5][0-9])"
    both = rf"{clock.format('6')}{after}{dash}{clock.format('7')}{after}{over}"
    first, last = (grammar.time.written.replace("<h2>", f"<h{n}>").replace("<m2>", f"<m{n}>") for n in (4, 5))
    forms = [
        Form(rf"{first}(?:{dash}| ?- ?){last}{over}", lambda place: _two(_time(place, "4"), _time(place, "5"), place)),
        Form(both, lambda place: _two(_time(place, "6"), _time(place, "7"), place)),
    ]
    if grammar.code == "en":
        half = r"(?P<h{0}>0?[1-9]|1[0-2])(?:[:.](?P<m{0}>[0-5][0-9]))? ?(?P<half{0}>[ap]m|[AP]M|[ap]\.m\.|[AP]\.M\.)"
        forms.append(
            Form(
                rf"{half.format('8')}(?:{dash}| ?- ?){half.format('9')}{over}",
                lambda place: _two(_time_of_half(place, "8"), _time_of_half(place, "9"), place),
            )
        )
    return forms


def _two(first: str | None, last: str | None, place: Place) -> str | None:
    """Return the words of a range, or None if either time is invalid."""
    return None if first is None or last is None else f"{first}{place.grammar.until}{last}"


def _dates_with_names(words: NumberWords) -> list[Form]:
    grammar, over = words.grammar, end(words.grammar)
    names = "|".join(map(re.escape, words.month_names))
    short = "|".join(map(re.escape, words.month_abbreviations))
    named = rf"(?:(?:{names})(?!\w)|(?:{short})(?:\.|(?!\w)))"
    nth = "|".join(map(re.escape, grammar.ordinals)) or NEVER
    day = rf"(?P<day_a>{_DAY})(?:\.|-?(?:{nth}))? (?:of |de )?(?P<month_a>{named})"
    forms = [Form(rf"{day}(?:,? (?:de |del )?(?P<year_a>{_YEAR})(?: года| г\.)?{over})?", _day_then_month)]
    forms = [*_ranges_of_days(words, named), *forms]
    if grammar.code == "en":
        month = rf"(?<![{LETTER}])(?P<month_b>{named}) (?P<day_b>{_DAY})(?:{nth})?"
        forms.append(Form(rf"{month}(?:,? (?P<year_b>{_YEAR}))?{over}", _month_then_day))
    return forms


def _ranges_of_days(words: NumberWords, named: str) -> list[Form]:
    """Return the forms of two days of one month: ``May 5–7``, ``3.–5. Mai``, ``3–5 мая``."""
    code, over = words.grammar.code, end(words.grammar)
    year = rf"(?P<year_r>{_YEAR})"
    match code:
        case "en":
            nth = "(?:st|nd|rd|th)?"
            days = rf"(?P<day_r1>{_DAY}){nth}(?: ?[–—] ?|-| to )(?P<day_r2>{_DAY}){nth}"
            return [Form(rf"(?<![{LETTER}])(?P<month_r>{named}) {days}(?:,? {year})?{over}", _days_of_month)]
        case "de":
            days = rf"(?P<day_r1>{_DAY})\.(?: ?[–—-] ?| bis (?:zum )?)(?P<day_r2>{_DAY})\."
            return [
                Form(rf"{days} (?P<month_r>{named})(?: {year})?{over}", _days_of_month),
                # Without a month, neither half of a range of ordinals is read.
                Form(r"[0-9]{1,3}\. ?[–—-] ?[0-9]{1,3}\. ?(?=[A-ZÄÖÜa-zäöü])", lambda _: None),
            ]
        case "ru":
            of_month = rf"(?P<month_r>{named})(?: {year}(?: года| г\.)?)?{over}"
            return [
                Form(
                    rf"(?P<from_r>\b[Сс] )(?P<day_r1>{_DAY}) по (?P<day_r2>{_DAY}) {of_month}",
                    _days_of_month,
                ),
                Form(rf"(?P<dash_r>(?<![0-9])){_DAY} ?[–—-] ?{_DAY} {of_month.replace('_r>', '_s>')}", lambda _: None),
            ]
        case _:
            return []


def _digits_of(text: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"[0-9]+", text)]


def _year_first(place: Place) -> str | None:
    year, month, day = _digits_of(place.text)
    return _date(place, day, month, year)


def _day_first(place: Place) -> str | None:
    day, month, year = _digits_of(place.text)
    return _date(place, day, month, year)


def _month_first(place: Place) -> str | None:
    """Read a date in American order, unless the first number cannot be a month."""
    month, day, year = _digits_of(place.text)
    return _date(place, day, month, year) if month <= 12 else _date(place, month, day, year)


def _day_then_month(place: Place) -> str | None:
    month = place.words.months[place.groups["month_a"].lower().rstrip(".")]
    year = place.groups.get("year_a")
    return _date(place, int(place.groups["day_a"]), month, int(year) if year else None, day_first=True)


def _month_then_day(place: Place) -> str | None:
    month = place.words.months[place.groups["month_b"].lower().rstrip(".")]
    year = place.groups.get("year_b")
    return _date(place, int(place.groups["day_b"]), month, int(year) if year else None)


def _date(place: Place, day: int, month: int, year: int | None, *, day_first: bool = False) -> str | None:
    words, grammar = place.words, place.grammar
    if not _exists(day, month, year):
        return None
    spoken_day = words.day(day, _german_ending(place) if grammar.code == "de" else "")
    of_month = grammar.day_first if day_first and grammar.day_first else grammar.day_of_month
    if place.before.endswith("the "):
        of_month = of_month.removeprefix("the ")
    spoken = of_month.format(day=spoken_day, month=words.month(month))
    if year is not None:
        spoken = grammar.dated.format(date=spoken, year=words.year(year))
    # The full stop of the abbreviation also ends the sentence.
    return f"{spoken}." if place.text.endswith(".") and not place.after.strip() else spoken


def _days_of_month(place: Place) -> str | None:
    """Read two days of one month; the second must be later than the first."""
    groups, words, code = place.groups, place.words, place.grammar.code
    first, last = int(groups["day_r1"]), int(groups["day_r2"])
    month = words.months[groups["month_r"].lower().rstrip(".")]
    year = int(groups["year_r"]) if "year_r" in groups else None
    if first >= last or not _exists(last, month, year):
        return None
    name, until = words.month(month), place.grammar.until
    match code:
        case "en":
            spoken = f"{name} {words.day(first)}{until}{words.day(last)}"
        case "de":
            ending = _german_ending(place)
            spoken = f"{words.day(first, ending)}{until}{words.day(last, ending)} {name}"
        case _:
            after = words.day(last, "ordinal-neuter")
            spoken = f"{groups['from_r']}{words.day(first)} по {after} {name}"
    if year is not None:
        spoken = place.grammar.dated.format(date=spoken, year=words.year(year))
    return f"{spoken}." if place.text.endswith(".") and not place.after.strip() else spoken


def _exists(day: int, month: int, year: int | None) -> bool:
    try:
        date(2000 if year is None else year, month, day)
    except ValueError:
        return False
    return True


def _year(place: Place, group: str) -> str:
    return place.words.year(int(place.groups[group]))


def _english_years(place: Place) -> str:
    """Read one or several years; the dash of a range becomes "to"."""
    groups = place.groups
    written = next(groups[name] for name in ("years_en", "years_ad", "years_b", "years_c", "years_d") if name in groups)
    spoken = re.sub(r"[0-9]+", lambda year: place.words.year(int(year.group())), re.sub(" ?[–-] ?", " to ", written))
    return groups.get("cue_en", "") + groups.get("cue_ad", "") + spoken


def _chinese_years(place: Place) -> str:
    first, last = _digits_of(place.groups["years_zh"])
    return f"{place.words.year(first)}{place.grammar.until}{place.words.year(last)}"


def _decade(place: Place) -> str:
    """Read ``1990s`` and ``the 80s`` as the plural of the words for the number."""
    digits = next(iter(place.groups[name] for name in _DECADES if name in place.groups))
    spoken = place.words.year(int(digits)) if len(digits) == 4 else place.words.cardinal(int(digits))
    return f"{spoken.removesuffix('y')}ies" if spoken.endswith("y") else f"{spoken}s"


def _german_ending(place: Place) -> str:
    if _GERMAN_DATIVE.search(place.before):
        return "ordinal-n"
    return "ordinal" if _GERMAN_ARTICLE.search(place.before) else "ordinal-r"


def _german_ordinal(place: Place) -> str:
    return place.words.spelled(int(place.groups["nth_de"]), _german_ending(place))


def _russian_year(place: Place) -> str:
    name = place.groups["name_ru"]
    locative = re.search(r"\b[вВ]о? $", place.before) is not None
    if name == "г.":
        name = "году" if locative else "года"
    if name == "году":
        rule_set = "ordinal-masculine-locative" if locative else "ordinal-masculine-dative"
    else:
        rule_set = _RUSSIAN_YEARS[name]
    spoken = f"{place.words.year(int(place.groups['year_ru']), rule_set)} {name}"
    return f"{spoken}." if place.text.endswith(".") and not place.after.strip() else spoken


def _russian_years(place: Place) -> str | None:
    """Read ``в 1999 и 2024 годах`` with each year in the case of the noun."""
    name = place.groups["plural_ru"]
    if name == "гг.":
        name = {"nominative": "годы", "accusative": "годы", "genitive": "годов", "other": "годах"}[place.case]
        if name == "годах" and not re.search(r"\b[вВ]о? $", place.before):
            return None
    case = {"годы": "", "годов": "-genitive", "годах": "-locative"}[name]
    rule_set = f"ordinal-masculine{case}"
    spoken = re.sub(r"[0-9]+", lambda year: place.words.year(int(year.group()), rule_set), place.groups["years_ru"])
    spoken = f"{spoken} {name}"
    return f"{spoken}." if place.text.endswith(".") and not place.after.strip() else spoken


def _russian_year_after(place: Place) -> str:
    return place.groups["cue_ru"] + place.words.year(int(place.groups["after_ru"]), "ordinal-masculine")


def _korean_ordinal(place: Place) -> str:
    return place.words.spelled(int(place.groups["nth_ko"]), "ordinal-native-count")


def _time(place: Place, group: str) -> str | None:
    """Read a time of the 24-hour clock; 24:00 is the latest."""
    hour, minute = int(place.groups[f"h{group}"]), int(place.groups.get(f"m{group}") or 0)
    if hour > 24 or (hour == 24 and minute):
        return None
    words, time = place.words, place.grammar.time
    template = time.full if minute else time.on_the_hour
    if 0 < minute < 10 and time.early:
        template = time.early
    if not minute and time.late and not 0 < hour < 13:
        template = time.late
    return template.format(
        hour=words.cardinal(hour, time.noun),
        minute=words.spelled(minute, time.minutes or place.grammar.counting),
        hours=words.plural(place.grammar.hours, hour),
    )


def _time_of_half(place: Place, group: str = "3") -> str:
    """Read ``3:05 p.m.``; a.m. or p.m. stays as it is written."""
    hour, minute = int(place.groups[f"h{group}"]), int(place.groups.get(f"m{group}") or 0)
    time = place.grammar.time
    template = time.early if 0 < minute < 10 else time.full
    spoken = template.format(hour=place.words.cardinal(hour), minute=place.words.cardinal(minute))
    return f"{spoken if minute else place.words.cardinal(hour)} {place.groups[f'half{group}']}"
