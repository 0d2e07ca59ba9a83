"""No form is ever half spoken: what a reader takes for one thing is read whole, or left whole."""

import re
import unicodedata

import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st

from serve_app.text.numbers.grammar import GRAMMARS
from serve_app.text.numbers.normalize import normalize, readings
from serve_app.text.numbers.tokens import whole_spans

CJK = (
    "\u2e80-\u2fdf\u3001-\u30ff\u3131-\u318e\u31f0-\u9fff\uac00-\ud7a3\uf900-\ufaff"
    "\uff01\uff08\uff09\uff0c\uff1a\uff1b\uff1f"
)
TOKEN = re.compile(rf"[^\s\"“”„«»‹›‚‘`…•¡¿|{CJK}]+")
PIECES = (
    "3", "12", "1/2", "½", "²", "^", "$", "€", "¥", "US$", "A$", "%", "°C", " km", "km", "/", "h", "x", "=", "+", "-",
    "–", " ", " ", " ", ".", ",", ":", "(", ")", "'", "*", "#", "§", "№", "_", "@", "a.org", "www.", "元", "個", "인",
    "Chapter ", "IV", "th", "1,000", "1.5", "1 000", "2024", " and ", "GPT-4", "m/s²", "dB", " AD", "?", "!", "s", "~",
)  # fmt: skip

texts = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=14).map("".join),
    st.text(max_size=40),
    st.text(alphabet="0123456789 .,:/^$€%½²°-–+=()kmx", max_size=30),
)
languages = st.sampled_from(list(GRAMMARS))


def is_remainder(character: str) -> bool:
    """A digit of any script, or a sign of money or arithmetic."""
    return character in "%‰°^@#_*/№§" or unicodedata.category(character) in {"Nd", "Nl", "No", "Sc", "Sm"}


@given(text=texts, language=languages)
@examples(600)
def test_no_token_has_words_that_were_made_beside_digits_or_signs_that_were_left(text, language):
    made = readings(text, language)
    covered = {index for reading in made for index in range(reading.begin, reading.end)}
    for token in TOKEN.finditer(text):
        inside = range(*token.span())
        if covered.intersection(inside):
            assert not [text[at] for at in inside if at not in covered and is_remainder(text[at])]


@given(text=texts, language=languages)
@examples(200)
def test_what_is_said_for_a_form_has_no_digit_and_is_not_empty(text, language):
    for reading in readings(text, language):
        assert reading.words.strip()
        assert not any(unicodedata.category(character) == "Nd" for character in reading.words)


@given(text=st.text(max_size=200) | texts, language=languages)
@examples(200)
def test_any_text_is_spelled_into_a_text_of_bounded_length(text, language):
    spelled = normalize(text, language)
    assert bool(spelled) == bool(text)
    assert len(spelled) <= 80 * len(text)


@pytest.mark.parametrize("language", GRAMMARS)
@pytest.mark.parametrize(
    "text",
    [
        "$E = mc^2$", "$x^2 + 5$", "$$5 + 5$$", "\\(x^2\\)", "mc^2", "2^x", "x²", "m²", "2*3", "2 + 2 = 4", "x = 5",
        "5+5", "±5", "~5", "≈5", "18+", "5‰", "5x", "5 m/s²", "5 dB", "5/day", "$5/day", "$100k", "f(5)", "row[2](x)",
        "5'11\"", "40° 26′ 46″", "#5", "§ 5", "№ 5", "5 - 3 = 2", "10:30-11:00", "1e5", "½½", "3 1/2=4", "24/7",
        "22/7", "1/0", "7/13", "5/3 km", "https://a.b/c?d=1", "a_1@b", "5@", "@5", "C++17", "2nd/3rd", "1½x", "10^6x",
        "$5€",
    ],
)  # fmt: skip
def test_what_cannot_be_read_whole_is_left_whole(language, text):
    assert normalize(text, language) == text


def test_a_span_is_whole_where_nothing_is_glued_to_it():
    def whole(text, *forms, hyphenated=False):
        spans = [(text.index(form), text.index(form) + len(form)) for form in forms]
        return whole_spans(text, spans, hyphenated=hyphenated)

    assert whole("a 5, b", "5") == [True]
    assert whole("a5", "5") == [False]
    assert whole("5-year", "5", hyphenated=True) == [True]
    assert whole("5-year", "5") == [False]
    assert whole("3 1/2", "3") == [False]
    assert whole("3 1/2", "3", "1/2") == [True, True]
    assert whole("3-4 =", "3", "4") == [False, False]
    assert whole("3 4 =", "3", "4") == [True, False]
