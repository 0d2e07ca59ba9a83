"""What is read aloud, what is seen, and halves of characters."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.text.characters import HalvesJoiner, is_pronounceable, visible, with_halves_kept


@pytest.mark.parametrize(
    "text",
    [
        "a", "é", "ß", "Ж", "你", "한", "あ", "ア", "ー", "々", "ª", "ا", "अ", "7", "٣", "²", "½", "①", "Ⅳ", "№", "™",
        "㎏", "℃", "㈱", "％", "%", "‰", "€", "$", "£", "¥", "￥", "₩", "₽", "元", "&", "+", "=", "<", ">", "±", "×",
        "÷", "°", "@", "#", "§", "©", "®", "√", "…a", "— 5 —",
    ],
)  # fmt: skip
def test_a_letter_a_digit_or_a_symbol_that_is_read_aloud_is_pronounceable(text):
    assert is_pronounceable(text)


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "\n", ".", "...", "…", "。", "！？", "、", "・", "·", "—", "–", "-", "¿", "¡", "«»", "「」", "“”", "'",
        '"', "()", "*", "**", "_", "~", "|", "/", "\\", "^", "`", "´", "†", "•", "→", "⇒", "★", "♥", "✓", "☺", "👍",
        "👩\u200d👧", "🇫🇷", "😀 😀!", "\u200b", "\ufe0f", "\u0301", "\u3164", "\ufffd", "\U0010d83d", "│", "■",
    ],
)  # fmt: skip
def test_punctuation_and_pictures_are_not(text):
    assert not is_pronounceable(text)


@pytest.mark.parametrize(
    "sentence",
    ["Yes.", "是。", "はい。", "네.", "Ja.", "Où ?", "Да.", "É.", "¿Qué?", "È."],
)  # fmt: skip
def test_the_shortest_sentences_of_every_language_are(sentence):
    assert is_pronounceable(sentence)


@given(st.text())
def test_text_is_pronounceable_if_one_of_its_characters_is(text):
    assert is_pronounceable(text) == any(is_pronounceable(character) for character in text)


def test_a_typeset_hyphen_is_a_hyphen():
    assert visible("well\u2010known GPT\u20114") == "well-known GPT-4"


@given(st.text())
def test_what_is_visible_can_be_encoded_and_is_visible_again(text):
    assert visible(text).encode().decode() == visible(visible(text))


def test_every_hyphen_is_one_character():
    assert visible("555\u2011123\u20114567, GPT\u20104, 5–6, 5\u22123") == "555-123-4567, GPT-4, 5–6, 5\u22123"


@given(st.text(), st.lists(st.integers(0, 200)))
def test_text_cut_between_utf16_units_is_whole_again(text, cuts):
    units = text.encode("utf-16-le")
    edges = [0, *sorted(2 * cut for cut in cuts if 2 * cut < len(units)), len(units)]
    joiner = HalvesJoiner()
    joined = ""
    for start, end in pairwise(edges):
        message = json.dumps({"text": units[start:end].decode("utf-16-le", "surrogatepass")})
        read = json.loads(with_halves_kept(message))["text"]
        assert read.encode().decode() == read
        joined += joiner.push(read)
    assert visible(joined) == visible(text)


@pytest.mark.parametrize(
    ("json_text", "kept"),
    [
        (r'"\ud83d\ude00"', r'"\ud83d\ude00"'),
        (r'"\ud83d x"', '"\U0010d83d x"'),
        (r'"\ud83d\ud83d\ude00"', '"\U0010d83d\\ud83d\\ude00"'),
        (r'"\\ud83d"', r'"\\ud83d"'),
        (r'"\\\uDE00"', '"\\\\\U0010de00"'),
        (r'"\ud83"', r'"\ud83"'),
        (r'"\u00e9"', r'"\u00e9"'),
    ],
)
def test_escapes_of_lone_surrogates_alone_are_replaced(json_text, kept):
    assert with_halves_kept(json_text) == kept
