"""Text cleaning: the law of splits, then what goes and what stays."""

import time
import unicodedata
from itertools import pairwise

import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st

from serve_app.config import TextConfig
from serve_app.text.cleaning import Cleaner
from serve_app.text.tags import Pause

PIECES = (
    " ", "  ", "\n", "\n\n", "\r\n", "\t", "*", "**", "***", "_", "__", "`", "```", "```py", "~~", "~", "#", "## ",
    "- ", "---", "* ", "> ", "|", "|--|", "| a ", "[", "]", "](", ")", "[x](y)", "![x](y)", "[ ] ", "(", '"t"', "<",
    "\\(", "\\)", "\\[", "\\]", "\\d", "http://a.b/_c", "www.", "--- | ---", "\r", "\x1b", "\x1b[", "[3m",
    ">", "\\", "!", ".", ",", "=", "===", "1. ", "a", "b1", "word", "重点", "é", "😀", "👩\u200d👧", "1️⃣", "→",
    "\u200b", "\u200d", "\ufeff", "\x00", "\ud83d", "http://x.y/z_(w)", "x" * 60,
    "<think>", "</think>", "<break/>", "<b>", "</b>", "&amp;", "&lt;", "\ude00", "2**3",
)  # fmt: skip

texts = st.one_of(st.text(max_size=60), st.lists(st.sampled_from(PIECES), max_size=50).map("".join))
cleanings = st.builds(
    TextConfig,
    markdown=st.booleans(),
    emoji=st.sampled_from(["drop", "keep"]),
    tags=st.booleans(),
    reasoning=st.sampled_from(["drop", "keep"]),
)


def cleaned(pushes: list[str], cleaning: TextConfig | None = None) -> str:
    cleaner = Cleaner(cleaning or TextConfig())
    pieces = [piece for text in pushes for piece in cleaner.push(text)] + cleaner.flush()
    return "".join("‖" if isinstance(piece, Pause) else piece for piece in pieces)


@st.composite
def splits(draw: st.DrawFn) -> list[str]:
    text = draw(texts)
    cuts = draw(st.lists(st.integers(0, len(text)), max_size=20))
    return [text[start:end] for start, end in pairwise(sorted({0, *cuts, len(text)}))]


@given(pushes=splits(), cleaning=cleanings)
@examples(500)
def test_any_split_gives_the_text_of_the_whole(pushes, cleaning):
    whole = "".join(pushes)
    expected = cleaned([whole], cleaning)
    assert cleaned(pushes, cleaning) == expected
    assert cleaned(list(whole), cleaning) == expected


@given(text=texts)
@examples(200)
def test_white_space_is_collapsed_and_nothing_invisible_is_left(text):
    result = cleaned([text], TextConfig(markdown=False, tags=False, reasoning="keep"))
    assert "  " not in result
    assert "\n\n\n" not in result
    assert result == result.lstrip()
    invisible = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
    assert all(character == "\n" or unicodedata.category(character) not in invisible for character in result)


@given(text=st.text(alphabet="abc ÄÖ 你好 .,!?()«»“”:;-'123%€$@/&+=\n", max_size=80))
def test_prose_is_left_alone_but_for_white_space(text):
    # A line that begins with a bullet or a rule is Markdown, and so is an address after brackets.
    lines = [line.lstrip(" -+=") for line in text.split("\n")]
    result = cleaned(["\n".join(lines)])
    assert result.split() == "\n".join(lines).split()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# Title\nText", "Title\nText"),
        ("###### Deep\n", "Deep\n"),
        ("#hashtag and #1", "#hashtag and #1"),
        ("**bold** and *slanted* and __bold__ and _slanted_", "bold and slanted and bold and slanted"),
        ("***both***, ~~gone~~, ~5", "both, gone, ~5"),
        ("这是**重点**内容。", "这是重点内容。"),
        ("2 * 3 = 6, 2*3, f*** it, snake_case, a * b", "2 * 3 = 6, 2*3, f*** it, snake_case, a * b"),
        ("call `f(x)` or ``g``", "call f(x) or g"),
        ("[a link](https://x.y/z_(w)?q=1) here", "a link here"),
        ('see [it](u "title"), ![picture](p.png)!', "see it, picture!"),
        ("[**bold** link](u)", "bold link"),
        ("[1] and f[x] (y) and [z] (w)", "[1] and f[x] (y) and [z] (w)"),
        ("claim.[1](https://a.b/c)[2](https://d.e/f) Next", "claim. Next"),
        ("a claim[1](https://a.b), “so”[[2]](https://d.e).", "a claim, “so”."),
        ("句子。[1](https://a.b)[2](https://a.b)下一句", "句子。下一句"),
        ("价格[1](https://a.b)上涨，在[2024](https://a.b)年", "价格 1 上涨，在 2024 年"),
        ("See [1](https://a.b)[2](https://d.e), ([3](https://d.e)) (4)[5](https://d.e)", "See 1 2, (3) (4) 5"),
        ("page[two](https://a.b) and *x*[1 of 2](https://a.b)", "pagetwo and x1 of 2"),
        ("- one\n* two\n+ three\n• four\n1. five", "one\ntwo\nthree\nfour\n1. five"),
        ("  - [x] done\n  - [ ] open", "done\nopen"),
        ("> said\n>> twice", "said\ntwice"),
        ("One\n\n---\n\nTwo", "One\n\nTwo"),
        ("| Name | Age |\n|------|:---:|\n| Bob  | 3 |\n", "Name, Age\nBob, 3\n"),
        ("a | b", "a | b"),
        ("A | B\n--- | ---\n1 | 2\n", "A | B\n1 | 2\n"),
        ("A|B|C\n:-|:-:|--:\n1|2|3\n\n-- | not", "A|B|C\n1|2|3\n\n-- | not"),
        ("http://x.y/_a_b_ and www.a.b/__init__.py", "http://x.y/_a_b_ and www.a.b/__init__.py"),
        ("https://x.y/*a*/b~~c~~d, _e_", "https://x.y/*a*/b~~c~~d, e"),
        (
            "**http://x.y/_a**, *see WWW.x.y/_b_c* _d_ **https://x.y**是",
            "http://x.y/_a, see WWW.x.y/_b_c d https://x.y是",
        ),
        ("```python\nx = 1\n```\nDone", "x = 1\n\nDone"),
        (r"\*kept\* and C:\new", r"*kept* and C:\new"),
        (r"C:\temp\*.log or \d+\.\d+ but \*", r"C:\temp\*.log or \d+\.\d+ but *"),
        (r"\( x \) and \[ E = 5 \], \(a_1 * b_2 * c_3\)", r"\( x \) and \[ E = 5 \], \(a_1 * b_2 * c_3\)"),
        ("\\[\n\\frac{1}{2} = x\n\\]", "\\[\n\\frac{1}{2} = x\n\\]"),
        (r"\[sic\], \[not a link\](u), \(5\), \(x", "[sic], [not a link](u), (5), (x"),
    ],
)
def test_markdown_becomes_what_a_reader_would_say(text, expected):
    assert cleaned([text]) == expected


def test_markdown_stays_when_it_is_switched_off():
    text = "# Title **bold** [link](u)"
    assert cleaned([text], TextConfig(markdown=False)) == text


@pytest.mark.parametrize(
    ("text", "dropped", "kept"),
    [
        ("Great 😀!", "Great!", "Great 😀!"),
        ("Hi😀there", "Hi there", "Hi😀there"),
        ("👩\u200d👩\u200d👧 family", "family", "👩\u200d👩\u200d👧 family"),
        ("1️⃣ one ✓ → two", "1 one two", "1️⃣ one ✓ → two"),
        ("20 °C, 5 €, № 3, ©", "20 °C, 5 €, № 3, ©", "20 °C, 5 €, № 3, ©"),
    ],
)
def test_emoji_and_silent_symbols_go_unless_kept(text, dropped, kept):
    assert cleaned([text]) == dropped
    assert cleaned([text], TextConfig(emoji="keep")) == kept


def test_control_and_zero_width_characters_go():
    assert cleaned(
        ["zero\u200bwidth\u200d, \ufeffmark\x07, soft\u00adhyphen, un\ufffdread, \ufffcobject, half \ud83d"]
    ) == ("zerowidth, mark, softhyphen, unread, object, half")


def test_white_space_is_one_space_one_line_feed_or_two():
    assert cleaned(["  a \t b\u00a0c \r\n d\n\n\n\ne  "]) == "a b c\nd\n\ne"


def test_a_lone_carriage_return_is_a_line_feed():
    assert cleaned(["a\rb\r\nc\r\rd\n\re\r"]) == "a\nb\nc\n\nd\n\ne\n"
    assert cleaned(list("# A\r- b\r\n- c")) == "A\nb\nc"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\x1b[31mred\x1b[0m and \x1b[1;38;5;12mblue\x1b[m", "red and blue"),
        ("a\x1b[2Kb\x1b[?25lc\x1b[", "abc"),
        ("\x1b[3重 \x1b[\x1b[0mx \x1bM", "[3重 [x M"),
    ],
)
def test_control_sequences_of_a_terminal_go(text, expected):
    assert cleaned([text]) == expected
    assert cleaned(list(text)) == expected


def test_plain_words_are_returned_at_once():
    cleaner = Cleaner(TextConfig())
    assert cleaner.push("Hello, wor") == ["Hello, wor"]
    assert cleaner.push("ld ") == ["ld"]
    assert cleaner.push("and [1") == [" and"]
    assert cleaner.push("] more") == [" [1] more"]


@pytest.mark.parametrize(
    "opening", ["[", "![a", "[a](", '[a](b "', "```", "|", "**", "_", "- ", "#", "\\", "   ", "\x1b[", "\\(", "\\["]
)
def test_what_never_closes_is_held_back_within_bounds_and_at_linear_cost(opening):
    cleaner = Cleaner(TextConfig(emoji="keep"))
    given = opening + ("word" * 2_000)
    begun_s = time.thread_time()
    returned = sum(len(piece) for character in given for piece in cleaner.push(character))
    assert len(given) - returned < 1_400
    assert time.thread_time() - begun_s < 2.0


def test_many_links_in_one_push_cost_what_they_cost_one_by_one():
    begun_s = time.thread_time()
    assert cleaned(["[word](target) " * 20_000]) == ("word " * 20_000).strip()
    assert time.thread_time() - begun_s < 4.0
