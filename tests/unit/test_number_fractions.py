"""Fractions and numbers with one, in ten languages."""

import pytest

from serve_app.text.numbers.normalize import normalize

WRITTEN = {
    "english": [
        ("1/2", "one half"),
        ("3/4", "three quarters"),
        ("2½", "two and a half"),
        ("3 1/2 cups", "three and a half cups"),
        ("½ cup", "one half cup"),
        ("5 ½", "five and a half"),
        ("⅔", "two thirds"),
        ("2/5", "two fifths"),
        ("7/8", "seven eighths"),
        ("1 1/4 miles", "one and a quarter miles"),
        ("3 1/2 km", "three and a half kilometers"),
        ("-1/2", "minus one half"),
    ],
    "german": [
        ("1/2", "ein halb"),
        ("3/4 Liter", "drei Viertel Liter"),
        ("2½ Stunden", "zweieinhalb Stunden"),
        ("1½", "eineinhalb"),
        ("1/3, 5/8", "ein Drittel, fünf Achtel"),
        ("20½", "zwanzig und ein halb"),
    ],
    "french": [
        ("1/2", "un demi"),
        ("2½", "deux et demi"),
        ("1/3", "un tiers"),
        ("2/3 des gens", "deux tiers des gens"),
        ("3/5", "trois cinquièmes"),
    ],
    "spanish": [
        ("1/2", "un medio"),
        ("3/4 de", "tres cuartos de"),
        ("2½", "dos y medio"),
        ("1/12", "un doceavo"),
        ("2/5", "dos quintos"),
    ],
    "portuguese": [
        ("1/2", "um meio"),
        ("2½", "dois e meio"),
        ("5/12", "cinco doze avos"),
        ("2/3", "dois terços"),
    ],
    "italian": [
        ("1/2", "un mezzo"),
        ("2½", "due e mezzo"),
        ("3/4", "tre quarti"),
        ("2/5", "due quinti"),
    ],
    "russian": [
        ("1/2", "одна вторая"),
        ("3/4", "три четверти"),
        ("2½", "два с половиной"),
        ("2/3", "две трети"),
        ("2¾", "две целых три четверти"),
        ("4/5", "четыре пятых"),
        ("21/100", "двадцать одна сотая"),
    ],
    "chinese": [
        ("1/2", "二分之一"),
        ("3/4杯", "四分之三杯"),
        ("2½", "二又二分之一"),
    ],
    "japanese": [
        ("1/2", "二分の一"),
        ("3/4", "四分の三"),
        ("2½", "二と二分の一"),
    ],
    "korean": [
        ("1/2", "이분의 일"),
        ("3/4", "사분의 삼"),
        ("2½", "이과 이분의 일"),
    ],
}


@pytest.mark.parametrize(
    ("language", "text", "spelled"), [(language, *pair) for language, pairs in WRITTEN.items() for pair in pairs]
)
def test_what_is_written_is_read_as_it_is_said(language, text, spelled):
    assert normalize(text, language) == spelled
