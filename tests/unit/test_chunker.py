"""Text chunks: the laws of any text, then the cases a listener would notice."""

import json
import time
from itertools import pairwise
from pathlib import Path

import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st

from serve_app.config import TextConfig
from serve_app.text.characters import is_pronounceable
from serve_app.text.chunker import Chunker
from serve_app.text.sentences import sentences

TEST_SETS = Path(__file__).parent.parent / "data" / "segmentation"
LANGUAGES = (
    "auto", "chinese", "english", "japanese", "korean", "german", "french", "russian", "portuguese", "spanish",
    "italian",
)  # fmt: skip

# What benchmarks/segmentation.py printed when the rules were last changed: texts cut exactly as expected.
MEASURED = {
    "golden_rules_english": 36,
    "sentencex_chinese": 2,
    "sentencex_english": 51,
    "sentencex_french": 5,
    "sentencex_german": 29,
    "sentencex_italian": 34,
    "sentencex_japanese": 4,
    "sentencex_portuguese": 3,
    "sentencex_russian": 36,
    "sentencex_spanish": 29,
}

PIECES = (
    " ", " ", " ", "\n", "\n\n", "\t", "\u00a0", ". ", ".", "...", "…", "!", "? ", "?!", ",", ", ", ";", ": ", " — ",
    " - ", "-", '"', "'", "“", "”", "„", "«", "»", " »", "(", ")", "[1]", "[", "]", "。", "！", "，", "、", "「", "」",
    "《", "》", "：", "．", "a", "B", "I", "3", "14", "1,000.50", "Dr", "z. B", "e.g", "U.S", "p.m", "No", "The", "and",
    "hello", "World", "https://a.b/c?D=1", "me@x.org", "сказал", "т. е", "Он", "요", "했다", "你好", "说", "は", "はい",
    "é", "e\u0301", "👩\u200d👩\u200d👧", "🇫🇷", "\ud83d", "\ude00", "\u1112\u1161\u11ab", "x" * 50, "字" * 40,
)  # fmt: skip

texts = st.one_of(st.text(max_size=80), st.lists(st.sampled_from(PIECES), max_size=60).map("".join))
languages = st.sampled_from(LANGUAGES)


def lengths(first: int, budget: int, longest: int) -> TextConfig:
    """Lengths that may be below a configuration's bounds, so that short texts are cut."""
    return TextConfig.model_construct(
        first_chunk_characters=first, chunk_budget_characters=budget, longest_chunk_characters=longest
    )


limits = st.tuples(st.integers(1, 60), st.integers(0, 160), st.integers(0, 80)).map(
    lambda each: lengths(each[0], each[0] + each[1], each[0] + each[1] + each[2])
)


def chunks_of(pushes: list[str], language: str = "english", limits: TextConfig | None = None) -> list[str]:
    chunker = Chunker(language, limits or TextConfig())
    chunks = [chunk for text in pushes for chunk in chunker.push(text)]
    return chunks + chunker.flush()


def without_white_space(text: str) -> str:
    return "".join(text.split())


def said(text: str) -> str:
    return "".join(character for character in text if is_pronounceable(character))


@st.composite
def splits(draw: st.DrawFn) -> list[str]:
    text = draw(texts)
    cuts = draw(st.lists(st.integers(0, len(text)), max_size=20))
    return [text[start:end] for start, end in pairwise(sorted({0, *cuts, len(text)}))]


@given(pushes=splits(), language=languages, limits=limits)
@examples(400)
def test_any_split_gives_the_chunks_of_the_whole(pushes, language, limits):
    whole = "".join(pushes)
    expected = chunks_of([whole], language, limits)
    assert chunks_of(pushes, language, limits) == expected
    assert chunks_of(list(whole), language, limits) == expected


@given(text=texts, language=languages, limits=limits)
@examples(300)
def test_chunks_joined_are_the_text_and_none_is_too_long_empty_or_padded(text, language, limits):
    chunks = chunks_of([text], language, limits)
    assert said("".join(chunks)) == said(text)
    rest = iter(text)
    assert all(character in rest for character in without_white_space("".join(chunks)))
    for chunk in chunks:
        assert chunk == chunk.strip()
        assert is_pronounceable(chunk)
        assert 1 <= len(chunk) <= limits.longest_chunk_characters


@given(text=texts, language=languages)
@examples(200)
def test_sentences_joined_are_the_text(text, language):
    assert without_white_space("".join(sentences(text, language))) == without_white_space(text)


@given(pushes=splits(), flushed_after=st.integers(0, 20))
@examples(100)
def test_a_flush_in_the_middle_loses_nothing(pushes, flushed_after):
    chunker = Chunker("auto", TextConfig())
    chunks: list[str] = []
    for index, text in enumerate(pushes):
        chunks += chunker.push(text)
        if index == flushed_after:
            chunks += chunker.flush()
            assert chunker.buffered_characters == 0
    chunks += chunker.flush()
    assert said("".join(chunks)) == said("".join(pushes))


@given(pushes=st.lists(st.text(alphabet=" \t\n\r\u00a0\u3000\u2028", max_size=5)))
def test_white_space_alone_gives_no_chunk(pushes):
    assert chunks_of(pushes) == []


@pytest.mark.parametrize("repeated", ["word ", '"a ', "「", "a, ", "...", "[1", "é" * 9, "1. ", "Dr. ", "Oui. "])
def test_what_is_held_back_is_bounded(repeated):
    chunker = Chunker("auto", TextConfig())
    most = 0
    for character in repeated * (6_000 // len(repeated)):
        chunker.push(character)
        most = max(most, chunker.buffered_characters)
    assert most <= 330


@pytest.mark.parametrize("repeated", ["One more sentence, of which there are many. ", "a—", '"', "(. ", "。」", "! a "])
def test_cost_is_linear_however_text_is_pushed(repeated):
    def cost_s(characters: int, size: int) -> float:
        text = (repeated * characters)[:characters]
        begun_s = time.thread_time()
        chunks_of([text[at : at + size] for at in range(0, characters, size)], "auto")
        return time.thread_time() - begun_s

    # 5,000 characters one by one take 0.03 to 0.1 s; a rescan of the whole would take seconds.
    assert cost_s(5_000, 1) < 1.0
    assert cost_s(100_000, 100_000) < 4.0


@pytest.mark.parametrize(("test_set", "least"), MEASURED.items())
def test_no_fewer_texts_of_other_authors_are_cut_right_than_measured(test_set, least):
    language = test_set.rsplit("_", 1)[1]
    cases = json.loads((TEST_SETS / f"{test_set}.json").read_text("utf-8"))
    right = sum(
        [" ".join(each.split()) for each in sentences(case["text"], language)]
        == [" ".join(each.split()) for each in case["sentences"]]
        for case in cases
    )
    assert right >= least


@pytest.mark.parametrize(
    ("language", "sentence"),
    [
        ("english", "Pi is 3.14, e is 2.71 and 1.000,50 is a price."),
        ("english", "It cost 1,000.50 dollars at 10:30 a.m. on Monday."),
        ("english", "Dr. Smith met J. R. R. Tolkien and Mr. Lee, e.g. in Oxford."),
        ("english", "See https://example.com/a.b?c=D.E! and write to me@example.co.uk now."),
        ("english", "Wait... what?"),
        ("english", "The U.S. Government is on No. 5 St. James Ave. near it."),
        ("english", "She works at Yahoo! in accounting."),
        ("english", "“Yes. No.” she said."),
        ("english", "He teaches (he did so before. Really.) at the school."),
        ("german", "Am 12. Mai kam z. B. Frau Dr. Meyer, d. h. die 3. Person."),
        ("german", "»Ja. Nein.« sagte er."),
        ("german", "„Ja. Nein.“ sagte er."),
        ("french", "«Oui. Non.» dit-il."),
        ("french", "« Oui. Non. » dit-il à M. Dupont, p. ex. à 10 h."),
        ("french", "La société Martin S. A. va bien."),
        ("spanish", "La Sra. López vive en EE. UU. desde 1990."),
        ("spanish", "El precio es 1.000,50 euros, p. ej. hoy."),
        ("italian", "Il dott. Rossi, ad es. ieri, ha visto l'avv. Bianchi."),
        ("portuguese", "O Sr. Silva mora na av. Paulista, n.º 5."),
        ("russian", "Он жил, т. е. был там, и т. д. без конца."),
        ("russian", "А. С. Пушкин жил на ул. Мойка, д. 12."),
        ("russian", "«Да. Нет.» — сказал он."),
        ("japanese", "彼は「はい。そうです。」と言った。"),
        ("chinese", "“好。走吧。”他说。"),
        ("chinese", "我们看《摔跤吧！爸爸》好吗？"),
        ("chinese", "会议在10：30开始，共1，000人。"),
        ("korean", '그는 "네. 알겠어요."라고 했다.'),
        ("korean", "원주율은 3.14이고 B.C. 300년에도 그랬다."),
    ],
)
@pytest.mark.parametrize("as_auto", [False, True])
def test_sentence_is_not_cut_inside(language, sentence, as_auto):
    assert sentences(sentence, "auto" if as_auto else language) == [sentence]


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("english", "Hello there! how are you? fine.", ["Hello there! how are you? fine."]),
        ("english", "hello there! how are you? fine.", ["hello there!", "how are you?", "fine."]),
        ("english", "At 5 p.m. The end.", ["At 5 p.m.", "The end."]),
        ("english", 'He said "Yes." Then he left.', ['He said "Yes."', "Then he left."]),
        ("english", "Title\n\nA text that\ngoes on.", ["Title", "A text that", "goes on."]),
        (
            "english",
            "This line is long enough to have been broken by\nan editor. Next one.",
            ["This line is long enough to have been broken by an editor.", "Next one."],
        ),
        ("spanish", "¡Hola! ¿Qué tal? Bien.", ["¡Hola!", "¿Qué tal?", "Bien."]),
        ("russian", "— Да? — Нет. — Почему?", ["— Да?", "— Нет.", "— Почему?"]),
        ("chinese", "你好！今天怎么样？很好；谢谢。", ["你好！", "今天怎么样？", "很好；谢谢。"]),
        ("japanese", "「はい。」彼は頷いた。そうだ。", ["「はい。」", "彼は頷いた。", "そうだ。"]),
        ("korean", "네, 알겠습니다. 내일 봐요! 정말요?", ["네, 알겠습니다.", "내일 봐요!", "정말요?"]),
        ("auto", "It works. Das geht. Да. 好。", ["It works.", "Das geht.", "Да.", "好。"]),
    ],
)
def test_sentences_end_where_a_reader_stops(language, text, expected):
    assert [" ".join(each.split()) for each in sentences(text, language)] == expected


def test_first_chunk_is_a_clause_and_later_ones_grow():
    text = (
        "Sure, let me explain how it works. First we copy the rows. Then we check them. After that the old system "
        "is switched off. Nobody notices. The new one takes over at night. We watch it for a week or two. That is all."
    )
    assert chunks_of([text]) == [
        "Sure, let me explain how it works.",
        "First we copy the rows. Then we check them. After that the old system is switched off.",
        "Nobody notices. The new one takes over at night. We watch it for a week or two. That is all.",
    ]
    assert chunks_of(["Well then, it begins. Now."]) == ["Well then, it begins.", "Now."]


def test_first_clause_comes_as_soon_as_the_space_after_it():
    chunker = Chunker("english", TextConfig())
    assert chunker.push("As soon as possible,") == []
    assert chunker.push(" ") == ["As soon as possible,"]


@pytest.mark.parametrize("dash", ["–", "-", "—"])
def test_a_range_of_numbers_is_one_clause(dash):
    text = f"We went there and saw all of 10 {dash} 20 km of it in the end."
    assert chunks_of(list(text)) == [text]
    aside = f"We went there and saw 10 {dash} that is, most of it."
    assert chunks_of([aside])[0] == f"We went there and saw 10 {dash}"


def test_first_clause_in_cjk_is_half_as_long():
    chunker = Chunker("chinese", TextConfig())
    assert chunker.push("今天的天气很不错，我") == ["今天的天气很不错，"]


def test_first_chunk_does_not_end_inside_a_quotation():
    assert chunks_of(["“Oui, je viens demain, c'est sûr”, dit-elle à son frère."], "french") == [
        "“Oui, je viens demain, c'est sûr”,",
        "dit-elle à son frère.",
    ]


def test_full_stop_waits_for_the_word_after_it_and_no_longer():
    chunker = Chunker("english", TextConfig())
    assert chunker.push("It is certain to be the value 3.") == []
    assert chunker.push("14") == []
    assert chunker.push(". ") == []
    assert chunker.push("A") == ["It is certain to be the value 3.14."]


def test_paragraph_ends_a_chunk_however_short():
    assert chunks_of(["The long first sentence of all.\n\nNews\n\nIt rained."]) == [
        "The long first sentence of all.",
        "News",
        "It rained.",
    ]


@pytest.mark.parametrize(
    ("text", "chunks"),
    [
        ("Hello.\n\n…\n\nBye.", ["Hello.", "Bye."]),
        ("…\n\nBye.", ["Bye."]),
        ("Hello.\n\n—", ["Hello."]),
        ("...", []),
        ("That is the end of it. !!! Go on.", ["That is the end of it.", "!!! Go on."]),
        ("5\n\n%\n\n€", ["5", "%", "€"]),
        ("!" * 700 + " Hello there.", ["Hello there."]),
    ],
)
def test_what_has_nothing_to_pronounce_is_not_a_chunk(text, chunks):
    assert chunks_of([text]) == chunks
    assert chunks_of(list(text)) == chunks


def test_line_ends_stay_in_a_chunk_as_pauses():
    assert chunks_of(["Here is what we need today:\nmilk\neggs\nbread"]) == [
        "Here is what we need today:",
        "milk\neggs\nbread",
    ]


def test_quotation_that_never_closes_is_let_go():
    text = "“" + "This is said by nobody in particular. " * 12
    chunks = chunks_of([text])
    assert all(chunk.endswith(".") for chunk in chunks)
    assert len(chunks) > 4


def test_long_sentence_is_cut_at_its_best_inner_boundary():
    limits = lengths(60, 100, 100)
    words = "w" * 9
    assert chunks_of([f"{words} {words} {words} {words}; {words}, {words} {words} {words} {words} {words} end."] * 1,
                     limits=limits)[1:] == [f"{words}, {words} {words} {words} {words} {words} end."]  # fmt: skip
    by_word = chunks_of([f"{words} " * 9 + f"and {words} {words}."], limits=limits)
    assert by_word == [" ".join([words] * 9), f"and {words} {words}."]


def test_word_without_spaces_is_cut_between_what_a_reader_sees_as_characters():
    family = "👩\u200d👩\u200d👧"
    chunks = chunks_of([family * 30], limits=lengths(10, 20, 20))
    assert all(chunk.startswith("👩") and chunk.endswith("👧") for chunk in chunks)


def test_buffered_characters_counts_what_is_not_returned():
    chunker = Chunker("english", TextConfig())
    chunker.push("Good")
    assert chunker.buffered_characters == 4
    assert chunker.flush() == ["Good"]
    assert chunker.buffered_characters == 0
    assert chunker.push("bye.") == []
    assert chunker.flush() == ["bye."]
