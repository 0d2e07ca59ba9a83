"""Markdown against markdown-it-py, which follows CommonMark: the same words, but for the differences listed here."""

import re

import pytest
from examples import examples
from hypothesis import HealthCheck, assume, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from serve_app.config import TextConfig
from serve_app.text.cleaning import Cleaner

ORACLE = MarkdownIt("commonmark", {"html": False}).enable("strikethrough")
NARROW = r"[^\W_\u1100-\uffff]"
WIDE = r"[\u1100-\uffff]"

# What is deliberately not CommonMark's: a name, what such a text holds, an example, and what is spoken of it.
DIFFERENCES = {
    "an operator or a power is no emphasis": (
        r"[\w)\]]\*+[\w(\[]",
        "Pass *names and **options; 2**10 is 1024.",
        "Pass *names and **options; 2**10 is 1024.",
    ),
    "a mark alone in brackets or quotes, and one of a path, is no emphasis": (
        r"""\([*_]+\)|"[*_]+"|'[*_]+'|<[*_]+>|/\*|\*/|\*\.""",
        'COUNT(*), SUM(*) of "_" and "_", src/*.py, lib/*/x/*.py',
        'COUNT(*), SUM(*) of "_" and "_", src/*.py, lib/*/x/*.py',
    ),
    "a bold label needs no space behind it": (r"[.,:;!?…]\*\*+\w", "**Note:**read it", "Note:read it"),
    "marks next to characters and punctuation of full width are marks": (
        rf"{WIDE}[*_~]|[*_~]{WIDE}",
        "**重点：**内容",
        "重点：内容",
    ),
    "what is indexed and called is no link": (r"[\w)\]]\[", "row[2](x) = 7", "row[2](x) = 7"),
    "a link without words needs an address": (r"\[(?:[^\]\w]|[\d_])*\]\(", "[2](x) = 7", "[2](x) = 7"),
    "a link's number glued to what it is the source of is silent": (
        r"[^\s(\[]!?\[+[\d,\]]*\]\(",
        "a fact.[1](https://x.y)",
        "a fact.",
    ),
    "an image's description is read with the text around it": (r"!\[[^\]]*[*_~]", "![**a__*](u)", "**a__*"),
    "a mark that begins a paragraph is not waited for": (
        r"(?m)^[ >#*+•-]*(?:\*|_)+[^\W\d_][\s\S]{36}",
        "*Prices of all rooms are those of the season and exclude taxes.",
        "Prices of all rooms are those of the season and exclude taxes.",
    ),
    "what is indented by four is text": (r"(?m)^[ >]*(?:    |\t)", "    *a*", "a"),
    "the number of a list's item is spoken": (r"(?m)^[ >*+•-]*\d+[.)](?:\s|$)", "1. one", "1. one"),
    "a backslash at a line's end is a line break": (r"\\\n|\\\Z", "a\\\n\nb", "a b"),
    "a backslash behind one that is text is text, as in a path": (
        r"\\[^\s!-/:-@\[-`{-~]\S*\\",
        r"C:\temp\*.log",
        r"C:\temp\*.log",
    ),
    "a formula is text": (r"\\[(\[]", r"\(x_1 = *y*\)", r"\(x_1 = *y*\)"),
    "code fenced within a list's item goes on to its fence": (
        r"(?m)^[ >]*[-*+•](?: .*)?(?:```|~~~)",
        "- ```\n*b*\n",
        "*b*",
    ),
    "a bullet alone in its line is silent": (r"(?m)^[ >]*[-*+•][ \t]*$", "word\n*", "word"),
    "code ends with its line in a quotation": (r"(?m)^[ -]*>[^\n]*`", "> `a\n> b`", "`a b`"),
    "more than two tildes strike nothing": (r"~{3,}", "~~*~~~~", "~~*~~~~"),
    "a line that begins as a fence does ends the code before it": (
        r"(?m)`[\s\S]*^[ ]*```",
        "a ```b\n```\\`",
        "a ```b ````",
    ),
    "marks within a bare address are text": (
        r"(?<!<https)://|www\.",
        "http://x.y/_a_b_ and www.a.b/__init__.py",
        "http://x.y/_a_b_ and www.a.b/__init__.py",
    ),
    "known tags are no text": (r"<a>", "<a>b</a>", "b"),
    "a row of equals signs is a rule": (r"(?m)^[ >*+•-]*=+[ \t]*$", "a\n\n===\n\nb", "a b"),
    "a definition of a link's target is text": (r"(?m)^[ >*+•-]*\[[^\]]*\]:", "[a]: b", "[a]: b"),
    "a reference to a link's target is text": (r"\]\[", "[a][b]\n\n[b]: c", "[a][b] [b]: c"),
}
SKIPPED = re.compile(
    "|".join(f"(?:{pattern.replace('(?m)', '')})" for pattern, _, _ in DIFFERENCES.values()), re.MULTILINE
)


def rendered(tokens: list[Token]) -> str:
    """The text content of markdown-it's tokens."""
    pieces: list[str] = []
    for token in tokens:
        if token.children:
            pieces.append(rendered(token.children))
        elif token.type in {"softbreak", "hardbreak"}:
            pieces.append("\n")
        elif token.type != "inline":
            pieces.append(token.content)
        if token.block:
            pieces.append("\n")
    return "".join(pieces)


def words(text: str) -> list[str]:
    return text.split()


def spoken(text: str) -> str:
    cleaner = Cleaner(TextConfig(emoji="keep"))
    return "".join(piece for piece in cleaner.push(text) + cleaner.flush() if isinstance(piece, str))


FRAGMENTS = (
    "*", "**", "***", "*", "**", "_", "__", "~~", "`", "``", "[", "](u)", '](x.y/z "t")', "](<a b>)", "![",
    "<https://x.y>", "\\*", "\\_", "\\`", "\\", "&amp;", "&lt;", "&copy;", "&nope;", "&", "<", " < ", "a", "word",
    "two words", "b1", "9", "5 6", " ", " ", " ", " ", "\n", "\n\n", ".", ", ", "!", "(", ")", "(x)", "'", '"', "重",
    "点。", "é", "> ", "- ", "# ", " #", "\n# ", "\n- ", "\n> ", "\n---\n", "\n```\n", "\n~~~\n", "```py\n",
)  # fmt: skip
documents = st.lists(st.sampled_from(FRAGMENTS), max_size=24).map("".join)


@given(document=documents)
@examples(
    400,
    derandomize=True,
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
)
def test_what_is_spoken_is_what_commonmark_shows(document):
    assume(not SKIPPED.search(document))
    assert words(spoken(document)) == words(rendered(ORACLE.parse(document)))


def test_emphasis_that_begins_a_paragraph_may_be_long_and_holds_nothing_back():
    told = "She looks at the window. " * 20
    assert spoken(f"*{told.strip()}* **Then** she goes, 2*3 times.") == f"{told}Then she goes, 2*3 times."
    cleaner = Cleaner(TextConfig())
    assert cleaner.push(f"*{told[:39]}") == []
    assert cleaner.push(told[39:60]) == [told[:60].rstrip()]
    assert spoken(f"Well. *{told.strip()}*").count("*") == 2


@pytest.mark.parametrize(("_pattern", "example", "heard"), DIFFERENCES.values(), ids=list(DIFFERENCES))
def test_a_deliberate_difference_is_one(_pattern, example, heard):
    assert SKIPPED.search(example)
    assert words(spoken(example)) == words(heard)
    assert words(rendered(ORACLE.parse(example))) != words(heard)
