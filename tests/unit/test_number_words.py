"""The libraries' words: every rule set that a grammar names covers the numbers it is used for."""

import pytest

from serve_app.text.numbers.grammar import GRAMMARS
from serve_app.text.numbers.words import MAX_DIGITS, words_of

SAMPLES = sorted({*range(130), *(digit * 10**power for digit in (1, 2, 9) for power in range(2, 12)), 10**12 - 1})


def _used(grammar):
    """Rule sets with the largest number that each is asked for."""
    cardinals = {grammar.counting, grammar.time.minutes or grammar.counting, *(name for _, name in grammar.agreements)}
    ordinals = {grammar.ordinal_day, grammar.first_of_month, *grammar.ordinals.values()} - {""}
    years = {grammar.year} - {"digits"}
    return dict.fromkeys(years | ordinals, 9999) | dict.fromkeys(cardinals, 10**MAX_DIGITS - 1)


@pytest.mark.parametrize("language", GRAMMARS)
def test_every_rule_set_has_words_for_every_number_it_is_asked_for(language):
    words = words_of(language)
    for rule_set, largest in _used(words.grammar).items():
        for number in SAMPLES:
            if number <= largest:
                spelled = words.spelled(number, rule_set)
                assert spelled.strip()
                assert not any(character.isdigit() for character in spelled), (rule_set, number, spelled)


@pytest.mark.parametrize("language", GRAMMARS)
def test_months_are_those_of_their_language_whatever_was_loaded_before(language):
    for other in GRAMMARS:
        words_of(other)
    words = words_of(language)
    if not words.months_are_numbers:
        assert len({words.month(number) for number in range(1, 13)}) == 12
        for number in range(1, 13):
            assert words.months[words.month(number).lower()] == number


def test_korean_june_and_october_lose_a_sound():
    assert [words_of("korean").month(number) for number in (5, 6, 10)] == ["오", "유", "시"]


@pytest.mark.parametrize(
    ("language", "code", "number", "sign", "name"),
    [
        ("english", "USD", 1, "dollar", "US dollar"),
        ("english", "GBP", 2, "pounds", "British pounds"),
        ("german", "USD", 2, "Dollar", "US-Dollar"),
        ("french", "GBP", 2, "livres sterling", "livres sterling"),
        ("spanish", "USD", 2, "dólares", "dólares estadounidenses"),
        ("portuguese", "BRL", 2, "reais", "reais brasileiros"),
        ("italian", "GBP", 2, "sterline", "sterline britanniche"),
        ("russian", "RUB", 2, "рубля", "российских рубля"),
        ("russian", "GBP", 5, "фунтов", "британских фунтов стерлингов"),
        ("chinese", "CNY", 5, "元", "元"),
        ("japanese", "USD", 5, "ドル", "米ドル"),
        ("korean", "JPY", 5, "엔", "일본 엔화"),
    ],
)
def test_a_sign_is_said_without_its_country_and_a_code_with_it(language, code, number, sign, name):
    words = words_of(language)
    assert words.currency(code, number, short=True) == sign
    assert words.currency(code, number, short=False) == name


def test_numbers_of_the_libraries_are_those_of_this_release():
    """A reminder: what is spelled comes from outside, and a new release of either may say it differently."""
    assert words_of("french").cardinal(91) == "quatre-vingt-onze"
    assert words_of("german").year(1984) == "neunzehnhundertvierundachtzig"
    assert words_of("italian").cardinal(23) == "ventitré"
