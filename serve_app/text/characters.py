"""Classifies single characters as invisible, silent or read aloud; knows nothing about sentences."""

import json
import re
import unicodedata
from typing import Final

ZERO_WIDTH_JOINER: Final = "\u200d"
SILENT_CHARACTERS: Final = (
    "\u200d"  # joins emoji into one
    "\u20e3"  # keycap
    "\u2190-\u21ff"  # arrows
    "\u2300-\u23ff"  # technical
    "\u2500-\u27bf"  # boxes, blocks, shapes, pictures, dingbats
    "\u2900-\u297f"  # arrows
    "\u2b00-\u2bff"  # arrows, stars
    "\ufe0e\ufe0f"  # text or picture style
    "\U0001f000-\U0001faff"  # emoji, flags, cards, skin tones
)
"""Pictures and symbols that are not read aloud, as the inside of a regular expression's set."""

HALVES_BASE: Final = 0x10_0000
"""A lone surrogate is carried as the private-use character at this offset, which UTF-8, JSON and logs can encode."""

_READ_ALOUD = frozenset("$%‰&@#§+<=>±×÷°©®≈≠≤≥∞√∑−")
_BLANK_LETTERS = frozenset("\u115f\u1160\u3164\uffa0")  # Hangul fillers: Unicode calls them letters, but they are blank
_PAIR_OF_HALVES = re.compile("[\U0010d800-\U0010dbff\ud800-\udbff][\U0010dc00-\U0010dfff\udc00-\udfff]")
_ESCAPE_IN_JSON = re.compile(
    r"\\(?:u(?:(?P<pair>[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})|(?P<half>[dD][89a-fA-F][0-9a-fA-F]{2}))|.)",
    re.DOTALL,
)
_LAST_HALF = re.compile("[\U0010d800-\U0010dbff\ud800-\udbff]\\Z")
_STYLE = re.compile(r"\x1b\[[0-?]{0,32}[ -/]{0,4}[@-~]")  # ECMA-48, control sequences
_STYLE_BEGUN = re.compile(r"\x1b(?:\[[0-?]{0,32}[ -/]{0,4})?\Z")
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co"})
_SEEN_OTHERWISE = str.maketrans({
    "\u2010": "-", "\u2011": "-",  # hyphens
    "\ufffc": "", "\ufffd": "",  # placeholders for an object, or for bytes that could not be decoded
})  # fmt: skip


def is_pronounceable(text: str) -> bool:
    """Return whether a text contains a letter, a digit or a symbol that is read aloud.

    Compatibility forms (``№``, ``™``, ``㎏``, ``①``) count as the characters that they stand for. Punctuation, emoji,
    arrows and dingbats are silent.
    """
    return any(_is_said(character) for character in text)


def _is_said(character: str) -> bool:
    if character.isascii():
        return character.isalnum() or character in _READ_ALOUD
    return any(
        (form.isalnum() and form not in _BLANK_LETTERS) or form in _READ_ALOUD or unicodedata.category(form) == "Sc"
        for form in unicodedata.normalize("NFKC", character)
    )


def visible(text: str) -> str:
    """Remove control, zero-width, private-use and replacement characters, and turn line ends into line feeds.

    Unicode's hyphens become ``-``, so that ``555‑123`` and ``GPT‑4`` are read like their ASCII spellings.
    """
    if not text.isascii():
        text = text.translate(_SEEN_OTHERWISE)
    if text.isprintable():
        return text
    return "".join(_visible(character) for character in text)


def _visible(character: str) -> str:
    if character in "\n\u2028\u2029\x85\v\f":
        return "\n"
    if character.isspace():
        return " "
    unseen = unicodedata.category(character) in _INVISIBLE
    return "" if unseen and character != ZERO_WIDTH_JOINER else character


def with_halves_kept(json_text: str) -> str:
    """Replace the escapes of lone surrogates in JSON by private-use characters (:data:`HALVES_BASE`).

    JSON parsers refuse a lone surrogate, because UTF-8 cannot encode it. A client that cuts its text by UTF-16
    units may still send one.
    """
    if "\\ud" not in json_text and "\\uD" not in json_text:
        return json_text
    return _ESCAPE_IN_JSON.sub(_kept_half, json_text)


def _kept_half(escape: re.Match[str]) -> str:
    half = escape["half"]
    return escape.group() if half is None else chr(HALVES_BASE + int(half, 16))


def shown(value: object) -> str:
    """Return a client's value for an error message: printable, encodable JSON of at most 60 characters.

    A lone surrogate is shown as the escape that the client sent.
    """
    text = json.dumps(value, default=str, ensure_ascii=False)
    text = "".join(each if each.isprintable() else _escaped(each) for each in text[:61])
    return text if len(text) <= 60 else text[:57] + "..."


def _escaped(character: str) -> str:
    code = ord(character)
    half = 0xD800 <= code - HALVES_BASE <= 0xDFFF
    return json.dumps(chr(code - HALVES_BASE) if half else character)[1:-1]


class HalvesJoiner:
    """Joins the two halves of a character above U+FFFF if they were pushed separately.

    JSON writes such a character as two escapes, and a client that cuts its text by UTF-16 units may send them in two
    messages. A half is a lone surrogate, or the private-use character that stands for it (:data:`HALVES_BASE`). A half
    without its partner stays where it is.
    """

    def __init__(self) -> None:
        self._half = ""

    def push(self, text: str) -> str:
        """Accept more text and return it; a first half at its end is held back until the next push."""
        text = self._half + text
        last = _LAST_HALF.search(text)
        self._half = last.group() if last else ""
        whole = text[: last.start()] if last else text
        return whole if whole.isascii() else _PAIR_OF_HALVES.sub(_joined, whole)


def _joined(pair: re.Match[str]) -> str:
    first, second = (ord(half) & 0xFFFF for half in pair.group())
    return chr(0x10000 + ((first & 0x3FF) << 10) + (second & 0x3FF))


class TerminalReader:
    """Removes a terminal's control sequences, such as colours, and turns line ends into line feeds."""

    def __init__(self) -> None:
        self._begun = ""
        self._after_return = False

    def push(self, text: str) -> str:
        """Accept more text and return it cleaned; hold back an unfinished sequence (up to 40 characters) at its end."""
        text = self._begun + text
        begun = _STYLE_BEGUN.search(text) if "\x1b" in text else None
        self._begun = begun.group() if begun else ""
        return self._with_line_feeds(_STYLE.sub("", text[: begun.start()] if begun else text))

    def _with_line_feeds(self, text: str) -> str:
        if not text:
            return text
        rest = text.removeprefix("\n") if self._after_return else text
        self._after_return = text.endswith("\r")
        return rest.replace("\r\n", "\n").replace("\r", "\n")
