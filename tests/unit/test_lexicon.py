"""What a lexicon makes of a text: whole words, the case rule, the longest match, and nothing else."""

import re
import unicodedata

import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st

from serve_app.text.lexicon import Lexicon


def spoken(text, **entries):
    return Lexicon.of(entries).spoken(text)


@pytest.mark.parametrize(
    ("entries", "text", "expected"),
    [
        ({"sql": "sequel"}, "SQL, Sql, sql; NoSQL, sqlite, my_sql.", "sequel, sequel, sequel; NoSQL, sqlite, my_sql."),
        ({"SQL": "sequel"}, "SQL and sql", "sequel and sql"),
        ({"US": "U S", "us": "all of us"}, "US, us, Us", "U S, all of us, all of us"),
        ({"it": "eye tee"}, "it's it-like (it) “it”", "eye tee's eye tee-like (eye tee) “eye tee”"),
        ({"don't": "do not"}, "Don’t!", "do not!"),
        ({"new york": "N Y", "new": "gnu", "york": "pork"}, "New York, new\nyork, new  york", "N Y, N Y, gnu  pork"),
        ({"new": "gnu", "new york city": "N Y C"}, "new york new york city", "gnu york N Y C"),
        ({"c++": "see plus plus", "c": "see"}, "C, C++ and C++-like", "see, see plus plus and see plus plus-like"),
        ({"&": "and", "%": "percent"}, "R&D, 5%, A & B", "R and D, 5 percent, A and B"),
        ({"4": "four"}, "4, 4.5, 1,4, 14, 4:30, 4.", "four, 4.5, 1,4, 14, 4:30, four."),
        ({"gpt-4": "G P T four"}, "GPT-4. GPT-4.5", "G P T four. GPT-4.5"),
        ({"重庆": "崇庆", "서울": "서우울"}, "我在重庆市。서울은 크다", "我在崇庆市。서우울은 크다"),
        ({"gpu": "显卡"}, "用GPU算", "用显卡算"),
        ({"cafe\u0301": "coffee house", "cafe": "no"}, "Café, cafe\u0301s, cafe", "coffee house, cafés, no"),
        ({"straße": "Strasse"}, "STRASSE Straße", "STRASSE Strasse"),
        ({"gif": "jif", "jif": "gif"}, "GIF jif gifs", "jif gif gifs"),
        ({"a\x00b": "x\x00 \n y"}, "ab", "x y"),
    ],
)  # fmt: skip
def test_words_are_spoken_as_their_entry_says(entries, text, expected):
    assert Lexicon.of(entries).spoken(text) == expected


def test_without_entries_the_text_is_the_very_same():
    text = "cafe\u0301 GIF"
    assert Lexicon().spoken(text) is text


def test_later_entries_replace_those_of_the_same_word():
    base = Lexicon.of({"SQL": "a", "gif": "b", "US": "c", "json": "d"})
    text = "SQL sql GIF US us JSON"
    assert base.extended({}) is base
    assert base.extended({"sql": "1", "GIF": "2"}).spoken(text) == "1 1 2 c us d"
    assert base.extended({"US": "3", "json": "json"}).spoken(text) == "a sql b 3 us json"
    assert base.spoken(text) == "a sql b c us d"


WORDS = ("gif", "Gif", "GIF", "new", "york", "New York", "c#", "déjà", "us", "US", "4", "重庆", "नमस्ते")
PLAIN = st.text(st.sampled_from("abnéйя4_"), min_size=1, max_size=5)
MARKS = st.sampled_from([" ", ", ", ". ", "\n", " (", ") ", "-", "'", " – ", "! "])
ENTRIES = st.dictionaries(st.sampled_from(WORDS), st.text(st.sampled_from("xyz"), min_size=1, max_size=6))


@given(st.text(max_size=60), ENTRIES)
def test_any_text_is_accepted(text, entries):
    kept = Lexicon.of(entries).spoken(text)
    expected = unicodedata.normalize("NFC", text) if entries else text
    assert kept == expected or any(said in kept for said in entries.values())


@given(
    st.lists(st.tuples(st.sampled_from(["gif", "Gif", "sql", "SQL", "us", "or"]) | PLAIN, MARKS), max_size=12), ENTRIES
)
def test_a_text_is_spoken_word_by_word(parts, entries):
    """Each word as if it stood alone; nothing between the words changes."""
    entries = {word: said for word, said in entries.items() if word.isalpha() and word.isascii()}
    lexicon = Lexicon.of(entries)
    text = "".join(word + mark for word, mark in parts)
    alone = "".join(lexicon.spoken(word) + mark for word, mark in parts)
    assert lexicon.spoken(text) == alone


@examples(200)
@given(st.text(st.sampled_from("gifGIF ab.-4"), max_size=40))
def test_only_whole_words_are_replaced(text):
    expected = re.sub(r"(?<!\w)gif(?!\w)", "Z", text, flags=re.IGNORECASE)
    assert spoken(text, gif="Z") == expected


@given(st.lists(st.sampled_from(["new", "york", "city", "hall"]), max_size=12))
def test_the_longest_match_counts_first(words):
    text = " ".join(words)
    entries = {"new": "1", "new york": "2", "new york city": "3", "york city": "4", "city": "5"}
    expected = re.sub(r"\b(new york city|new york|york city|new|city)\b", lambda found: entries[found.group()], text)
    assert Lexicon.of(entries).spoken(text) == expected


@given(st.lists(st.sampled_from(["gif", "jif", "other"]), max_size=12))
def test_what_is_spoken_is_not_searched_again(words):
    swap = Lexicon.of({"gif": "jif", "jif": "gif"})
    text = " ".join(words)
    assert swap.spoken(swap.spoken(text)) == text
    assert Lexicon.of({word: word for word in words}).spoken(text) == text
