"""Web and e-mail addresses, which are put into words, and formulas and IPv6 addresses, which stay as they are."""

import re
from typing import Final

from serve_app.text.numbers.forms import LETTER, Form, Place
from serve_app.text.numbers.words import NumberWords

_LONGEST_ADDRESS: Final = 80
"""A longer address stays as it is written."""

_SPOKEN: Final = re.compile(r"[A-Za-z]+|[0-9]+|[.@/_-]")
_DOMAINS: Final = "com|org|net|edu|gov|io|info|dev"
"""Top-level domains that identify an address without ``www.`` because they are not words."""

ADDRESS_SIGNS: Final = rf"@|www\.|://|\.(?:{_DOMAINS})(?![A-Za-z0-9])"
"""The pattern of signs that an address is present."""

FORMULA_SIGNS: Final = r"\$\$|\$(?=[^\s0-9.,])|\\[(\[]"
"""The pattern of a possible beginning of a formula."""


def left_alone() -> list[Form]:
    """Return the forms of formulas between dollar signs or backslashes, and of IPv6 addresses."""
    hexadecimals = "[0-9A-Fa-f]{1,4}(?::[0-9A-Fa-f]{1,4}){0,6}"
    return [
        Form(rf"(?<![0-9A-Za-z:])\[?(?:{hexadecimals})?::(?:{hexadecimals})?(?:\](?::[0-9]{{1,5}})?)?", _leave),
        Form(r"\$\$[^$]{1,400}\$\$", _leave),
        Form(r"\\\([^\n]{1,200}?\\\)|\\\[[^\n]{1,200}?\\\]", _leave),
        Form(r"\$(?=[^\s$])(?=[^$\n]{0,200}?[=^_\\{}])[^$\n]{1,300}(?<=\S)\$(?![0-9])", _leave),
        Form(r"\$[^\s$]{0,30}[A-Za-z][^\s$]{0,30}\$(?![0-9])", _leave),
    ]


def addresses() -> list[Form]:
    """Return the forms of web and e-mail addresses."""
    part, over = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,62})", rf"(?![{LETTER}0-9@])"
    path = r"(?:[/:?#][!-~]*)?"
    return [
        Form(rf"(?<![0-9{LETTER}])(?:[A-Za-z]{{2,12}}://|www\.)(?P<web>[!-~]+)", _address),
        Form(
            rf"(?<![0-9{LETTER}._%+-])(?P<mail>(?:mailto:)?[0-9A-Za-z._%+-]{{1,64}}@{part}(?:\.{part})+){over}",
            _address,
        ),
        Form(
            rf"(?<![0-9{LETTER}._%+@/-])(?P<bare>{part}(?:\.{part}){{0,4}}\.(?:{_DOMAINS})(?![A-Za-z0-9])(?!\.[A-Za-z]){path})",
            _address,
        ),
    ]


def _leave(_: Place) -> None:
    return None


def _address(place: Place) -> str | None:
    """Read an address; punctuation at its end belongs to the sentence."""
    written = place.text.rstrip(".,;:!?\"')]}>")
    ending = place.text[len(written) :]
    shown = re.sub(r"^(?:https?://|mailto:)", "", written).rstrip("/")
    if len(shown) > _LONGEST_ADDRESS or not shown or re.sub(_SPOKEN, "", shown) or "://" in shown or ".." in shown:
        return None
    return _in_words(place.words, shown) + ending


def _in_words(words: NumberWords, address: str) -> str:
    signs: dict[str, str] = dict(zip(".@/-_", words.grammar.marks, strict=True))
    parts: list[str] = _SPOKEN.findall(address)
    return " ".join(words.digits(part) if part.isdigit() else signs.get(part, part) for part in parts)
