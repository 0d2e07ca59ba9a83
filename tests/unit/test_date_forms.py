"""Dates, years and clock times as they are written in ten languages."""

from datetime import date

import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st

from serve_app.text.numbers.grammar import GRAMMARS
from serve_app.text.numbers.normalize import normalize

WRITTEN = {
    "english": [
        ("2024-05-03", "May third, twenty twenty-four"),
        ("5/3/2024", "May third, twenty twenty-four"),
        ("13/5/2024", "May thirteenth, twenty twenty-four"),
        ("On May 3rd, 2024 and Jan. 5.", "On May third, twenty twenty-four and January fifth."),
        ("on 3 May 1905, the 3rd of May", "on the third of May, nineteen oh-five, the third of May"),
        ("in 1999, since 2007", "in nineteen ninety-nine, since two thousand seven"),
        ("2024 people", "two thousand twenty-four people"),
        ("Year 1999", "Year nineteen ninety-nine"),
        ("Year 1999 and 2024", "Year nineteen ninety-nine and twenty twenty-four"),
        ("the years 1999, 2004 and 2010", "the years nineteen ninety-nine, two thousand four and twenty ten"),
        ("in 2010–2012 (1999)", "in twenty ten to twenty twelve (nineteen ninety-nine)"),
        ("The year is 1999, 1999 was", "The year is nineteen ninety-nine, nineteen ninety-nine was"),
        ("1066 AD, the class of 1999", "ten sixty-six AD, the class of nineteen ninety-nine"),
        ("from 1914 to 1918", "from nineteen fourteen to nineteen eighteen"),
        ("1990–1995", "nineteen ninety to nineteen ninety-five"),
        ("the 1990s, '80s", "the nineteen nineties, eighties"),
        ("14:30, 10:00, 00:00, 9:05", "fourteen thirty, ten o'clock, zero hundred hours, nine oh five"),
        ("3pm, 3:05 p.m. and 12:30 AM", "three pm, three oh five p.m. and twelve thirty AM"),
        ("2024‑05‐03", "May third, twenty twenty-four"),
        (
            "the 1970's, 1990’s, 80's, (the '70's)",
            "the nineteen seventies, nineteen nineties, eighties, (the seventies)",
        ),
        ("in her 30s, the early 60s", "in her thirties, the early sixties"),
        ("Wait 30s, a 60s timeout, 1h 30m, 5m ago", "Wait 30s, a 60s timeout, 1h 30m, 5m ago"),
        (
            "May 5–7, 2024, Dec. 24-26",
            "May fifth to seventh, twenty twenty-four, December twenty-fourth to twenty-sixth",
        ),
        ("Sept 11, 2001, Dec 2024", "September eleventh, two thousand one, Dec twenty twenty-four"),
        (
            "9am–5pm, 9:30 a.m.-5 p.m., 10:00–12:00",
            "nine am to five pm, nine thirty a.m. to five p.m., ten o'clock to twelve o'clock",
        ),
        ("founded 1984, World Cup 2026", "founded nineteen eighty-four, World Cup twenty twenty-six"),
        ("5.30 pm, AD 1066", "five thirty pm, AD ten sixty-six"),
    ],
    "german": [
        ("Am 3. Mai 2024, vom 3. bis 5. Mai", "Am dritten Mai zweitausendvierundzwanzig, vom dritten bis fünften Mai"),
        ("Der 3. Mai, 03.05.1999", "Der dritte Mai, dritter Mai neunzehnhundertneunundneunzig"),
        ("1999, 2024", "neunzehnhundertneunundneunzig, zweitausendvierundzwanzig"),
        ("14:30 Uhr, 14.30 Uhr, 1 Uhr", "vierzehn Uhr dreißig, vierzehn Uhr dreißig, ein Uhr"),
        ("3.–5. Mai, 3. bis 5. Mai 2024", "dritter bis fünfter Mai, dritter bis fünfter Mai zweitausendvierundzwanzig"),
        ("1. – 3. Klasse", "1. – 3. Klasse"),
        ("8:00–12:00 Uhr", "acht Uhr bis zwölf Uhr"),
    ],
    "french": [
        ("le 1er mai 2024, le 1 mai", "le premier mai deux mille vingt-quatre, le premier mai"),
        ("03/05/1998", "trois mai mille neuf cent quatre-vingt-dix-huit"),
        ("14h30, 1h, 21:00", "quatorze heures trente, une heure, vingt-et-une heures"),
        ("9h–17h, 9h-17h30", "neuf heures à dix-sept heures, neuf heures à dix-sept heures trente"),
    ],
    "spanish": [
        ("1 de mayo de 2024", "primero de mayo de dos mil veinticuatro"),
        ("25/12/1999", "veinticinco de diciembre de mil novecientos noventa y nueve"),
        ("a la 1:30, 20:00, 14:05 h", "a la una y treinta, veinte en punto, catorce y cinco"),
        ("9:00–12:00", "nueve en punto a doce en punto"),
    ],
    "portuguese": [
        ("1 de maio de 2024", "primeiro de maio de dois mil e vinte e quatro"),
        ("03/05/2024", "três de maio de dois mil e vinte e quatro"),
        ("14h30, 1h, 2:15", "catorze e trinta, uma hora, duas e quinze"),
    ],
    "italian": [
        ("1 maggio 2024, 1° maggio, 8 marzo", "primo maggio duemilaventiquattro, primo maggio, otto marzo"),
        ("14:30, 1:00, alle 14.30", "quattordici e trenta, una, alle quattordici e trenta"),
    ],
    "russian": [
        ("3 мая 2024 года", "третьего мая две тысячи двадцать четвертого года"),
        ("03.05.2024", "третьего мая две тысячи двадцать четвертого года"),
        ("в 2024 году", "в две тысячи двадцать четвертом году"),
        ("Год 1999", "Год тысяча девятьсот девяносто девятый"),
        ("в 1999 и 2024 годах", "в тысяча девятьсот девяносто девятом и две тысячи двадцать четвертом годах"),
        ("к 2024 году", "к две тысячи двадцать четвертому году"),
        ("до 1999 г.", "до тысяча девятьсот девяносто девятого года."),
        ("14:31, 14:00, 1:05", "четырнадцать тридцать одна, четырнадцать часов, один ноль пять"),
        ("3–5 мая 2024, с 3 по 5 мая", "3–5 мая 2024, с третьего по пятое мая"),
    ],
    "chinese": [
        ("2024年5月3日，2024-05-03", "二零二四年五月三日，二零二四年五月三日"),
        ("1999-2024年，1999和2024年", "一九九九到二零二四年，一九九九和二零二四年"),
        ("公元1999", "公元一九九九"),
        ("14:30，2:00，2:05，10：30", "十四点三十分，两点，两点零五分，十点三十分"),
        ("10:00~12:00", "十点到十二点"),
        ("90后和00后，10后", "九零后和零零后，一零后"),
        ("身高1米75", "身高一米七五"),
    ],
    "japanese": [
        ("2024年5月3日、2024/5/3", "二千二十四年五月三日、二千二十四年五月三日"),
        ("14:30、2:00", "十四時三十分、二時"),
    ],
    "korean": [
        ("2024년 6월 3일, 2024. 10. 3", "이천이십사년 유월 삼일, 이천이십사년 시월 삼일"),
        ("14:30, 2:00, 3시 30분", "십사 시 삼십 분, 두 시, 세 시 삼십분"),
        ("3.1절, 6.25전쟁", "삼일절, 육이오전쟁"),
    ],
}


@pytest.mark.parametrize(
    ("language", "text", "spelled"), [(language, *pair) for language, pairs in WRITTEN.items() for pair in pairs]
)
def test_what_is_written_is_read_as_it_is_said(language, text, spelled):
    assert normalize(text, language) == spelled


@pytest.mark.parametrize("language", GRAMMARS)
@pytest.mark.parametrize("text", ["2024-02-30", "2024-13-01", "31.02.2024", "30/02/2024", "25:00", "12:60", "24:30"])
def test_what_no_calendar_and_no_clock_has_is_left(language, text):
    assert normalize(text, language) == text


@pytest.mark.parametrize("language", GRAMMARS)
@given(days=st.lists(st.dates(min_value=date(1000, 1, 1)), min_size=2, max_size=8, unique=True))
@examples(50)
def test_every_date_is_read_in_words_of_its_own(language, days):
    spelled = {normalize(day.isoformat(), language) for day in days}
    assert len(spelled) == len(days)
    assert not any(character.isdigit() for text in spelled for character in text)


@pytest.mark.parametrize("language", GRAMMARS)
def test_every_minute_of_a_day_is_read_in_words_of_its_own(language):
    spelled = [normalize(f"{hour}:{minute:02}", language) for hour in range(24) for minute in range(60)]
    assert not any(character.isdigit() for text in spelled for character in text)
    assert len(set(spelled)) == 24 * 60
