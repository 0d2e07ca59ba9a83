"""Recognizes SSML and HTML tags, ``[pause 1s]`` and entities in a growing text, and decides how they sound."""

import html
from dataclasses import dataclass
from fractions import Fraction
from html.entities import html5
from typing import Final

import regex

from serve_app.config import SAMPLE_RATE_HZ
from serve_app.text.characters import HalvesJoiner, visible
from serve_app.text.growing_text import Rule
from serve_app.text.quotations import is_wide

LONGEST_PAUSE_S: Final = 10
"""A longer pause is shortened to this."""

ATTRIBUTE_CHARACTERS: Final = 200
"""A tag with a longer attribute value is treated as text."""

PAIR_CHARACTERS: Final = 80
"""A one-letter tag directly after a word is text, unless its closing tag follows in the same line, within this many
characters."""

REASONING = frozenset({"think", "thinking", "reasoning"})
_SPACING = {"p": "\n\n", "br": "\n", "s": " ", "speak": " ", "voice": " ", "desc": " "}
_SILENT_TAGS = frozenset(
    (*_SPACING, "a", "audio", "b", "em", "emphasis", "i", "lang", "lexicon", "mark", "meta", "metadata", "phoneme",
     "prosody", "say-as", "small", "span", "strong", "sub", "sup", "u", "w")
)  # fmt: skip
_STRENGTHS_S = {
    "none": Fraction(0), "x-weak": Fraction(1, 4), "weak": Fraction(1, 2), "medium": Fraction(3, 4),
    "strong": Fraction(1), "x-strong": Fraction(5, 4),
}  # fmt: skip

_ATTRIBUTE = (
    r"[\w:.-]{1,40}\s{0,20}=\s{0,20}"
    rf"(?:\"[^\"<]{{0,{ATTRIBUTE_CHARACTERS}}}\"|'[^'<]{{0,{ATTRIBUTE_CHARACTERS}}}'|[^\s\"'=<>`]{{1,100}})"
)
_NAMES = "|".join(sorted((*_SILENT_TAGS, *REASONING, "break"), key=len, reverse=True))
_TAG = Rule(
    rf"<(?P<close>/)?(?P<name>{_NAMES}|(?:amazon|google|mstts):[a-z-]{{1,30}})"
    rf"(?P<attributes>(?:\s{{1,20}}{_ATTRIBUTE}){{0,16}})\s{{0,20}}(?P<empty>/)?>",
    regex.IGNORECASE,
)
_PAIR = Rule(
    rf"<(?P<name>[a-z])\s{{0,20}}>(?:(?!<(?P=name)[\s>])[^\n]){{0,{PAIR_CHARACTERS}}}?</(?P=name)\s{{0,20}}>",
    regex.IGNORECASE,
)
_NOTE = Rule(r"<(?:\?xml|!DOCTYPE)\b[^<>]{0,200}>|<!--[^<>]{0,400}-->", regex.IGNORECASE)
_DURATION = r"(?P<number>\d{1,9}(?:\.\d{0,9})?|\.\d{1,9})\s{0,20}(?P<unit>m?s)"
_TIME = regex.compile(rf"\btime\s*=\s*[\"']?\s*\+?{_DURATION}\b", regex.IGNORECASE)
_PAUSE = Rule(rf"\[pause\s{{1,20}}{_DURATION}\s{{0,20}}\]", regex.IGNORECASE)
_STRENGTH = regex.compile(
    rf"\bstrength\s*=\s*[\"']?\s*(?P<strength>{'|'.join(_STRENGTHS_S)})(?![\w-])", regex.IGNORECASE
)
_ENTITY = Rule(
    r"&(?:#(?P<decimal>[0-9]{1,7})|#[xX](?P<hexadecimal>[0-9a-fA-F]{1,6})|(?P<name>[A-Za-z][A-Za-z0-9]{1,31}));"
)
_REASONING_ENDS = {name: regex.compile(rf"</{name}\s{{0,20}}>", regex.IGNORECASE) for name in REASONING}


@dataclass(frozen=True, slots=True)
class Pause:
    """Silence within an utterance. The text before it and the text after it are in different text chunks.

    Attributes:
        samples: length at 24 kHz; at least one.
    """

    samples: int

    @classmethod
    def of(cls, seconds: Fraction) -> "Pause | None":
        """Return ``seconds`` of silence, at most :data:`LONGEST_PAUSE_S`; None if that is less than one sample."""
        samples = round(min(seconds, Fraction(LONGEST_PAUSE_S)) * SAMPLE_RATE_HZ)
        return cls(samples) if samples > 0 else None


@dataclass(frozen=True, slots=True)
class Tag:
    """One tag.

    Attributes:
        end: index after it.
        name: in lower case; empty for a comment or declaration.
        heard: what replaces it: white space, silence or nothing.
        reasoning: its name, if it begins or ends a reasoning block.
        closes: whether it is a closing tag.
        is_text: whether it stays as text: a comparison or a generic type, as in ``a<b>c``.
    """

    end: int
    name: str = ""
    heard: str | Pause = ""
    reasoning: str = ""
    closes: bool = False
    is_text: bool = False


def tag_at(text: str, at: int, before: str, *, final: bool) -> Tag | None:
    """Read the tag that begins with the ``<`` at an index; None if it is text: a comparison, generics, a heart.

    Args:
        text: the text so far.
        at: index of the ``<``.
        before: the character before it; directly after a narrow letter or digit ``<b>`` is text, as in ``a<b>c``,
            unless its closing tag follows.
        final: no more text follows for now.

    Raises:
        NeedsMoreText: it depends on what follows.
    """
    found = _TAG.match(text, at, final=final)
    if found is None:
        note = _NOTE.match(text, at, final=final)
        return Tag(note.end()) if note else None
    name, closes = found["name"].lower(), found["close"] is not None
    glued = before.isalnum() and not is_wide(before)
    plain = not (closes or found["attributes"] or found["empty"])
    if len(name) == 1 and glued and plain and not _PAIR.match(text, at, final=final):
        return Tag(found.end(), name, is_text=True)
    if name in REASONING:
        closes = closes or found["empty"] is not None
        return Tag(found.end(), name, " " if found["close"] else "", reasoning=name, closes=closes)
    if name == "break":
        return Tag(found.end(), name, "" if closes else _pause(found["attributes"]) or "")
    return Tag(found.end(), name, _SPACING.get(name, ""), closes=closes)


def pause_at(text: str, at: int, *, final: bool) -> tuple[int, Pause | None] | None:
    """Read a ``[pause 0.8s]`` at an index.

    Returns:
        The index after it, and its pause or None if that is less than one sample; None if this is text.

    Raises:
        NeedsMoreText: it depends on what follows.
    """
    found = _PAUSE.match(text, at, final=final)
    return None if found is None else (found.end(), _lasting(found))


def _lasting(duration: "regex.Match[str]") -> Pause | None:
    return Pause.of(Fraction(duration["number"]) / (1000 if duration["unit"].lower() == "ms" else 1))


def _pause(attributes: str) -> Pause | None:
    if time := _TIME.search(attributes):
        return _lasting(time)
    strength = _STRENGTH.search(attributes)
    return Pause.of(_STRENGTHS_S[strength["strength"].lower() if strength else "medium"])


def reasoning_end(text: str, at: int, name: str) -> tuple[int, bool]:
    """Return the index up to which a reasoning block certainly extends, and whether it ends there."""
    found = _REASONING_ENDS[name].search(text, at, partial=True)
    if found is None:
        return len(text), False
    return (found.start(), False) if found.partial else (found.end(), True)


def entity_at(text: str, at: int, *, final: bool) -> tuple[int, str] | None:
    """Read the HTML entity at an index: the index after its semicolon and its characters; None if it is text.

    Raises:
        NeedsMoreText: it depends on what follows.
    """
    found = _ENTITY.match(text, at, final=final)
    if found is None or (found["name"] is not None and f"{found['name']};" not in html5):
        return None
    if "\ud800" <= _half(found) <= "\udbff" and (second := _ENTITY.match(text, found.end(), final=final)):
        joined = HalvesJoiner().push(_half(found) + _half(second))
        if len(joined) == 1:
            return second.end(), joined
    return found.end(), visible(html.unescape(found.group()))


def _half(entity: "regex.Match[str]") -> str:
    """Return the surrogate that an entity names; empty if it names another character."""
    code = int(entity["decimal"] or "0") or int(entity["hexadecimal"] or "0", 16)
    return chr(code) if 0xD800 <= code <= 0xDFFF else ""
