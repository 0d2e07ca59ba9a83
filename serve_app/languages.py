"""The languages that are served, and every way in which a request may name one. Nothing here knows of messages."""

import re
from typing import Annotated, cast, get_args

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

from serve_app.config import Language

LANGUAGES: tuple[str, ...] = get_args(Language)

_SUBTAGS: dict[str, Language] = {
    "zh": "chinese",
    "cmn": "chinese",  # Mandarin has a primary subtag of its own
    "en": "english",
    "ja": "japanese",
    "ko": "korean",
    "de": "german",
    "fr": "french",
    "ru": "russian",
    "pt": "portuguese",
    "es": "spanish",
    "it": "italian",
}
"""Primary language subtags of BCP 47; those of two letters are ISO 639-1."""

_TAG = re.compile(r"[a-z]{2,3}(?:-[a-z0-9]{1,8})*")

ALLOWED = f"{', '.join(LANGUAGES)}; or a code or tag of one, as en, en-US"
"""What an error says is served."""


def language_named(given: str) -> Language | None:
    """The language that a request names; None where none of ours is meant.

    Args:
        given: one of ten names, its ISO 639-1 code or a BCP 47 tag of it (``pt-BR``, ``zh_Hans_CN``), or ``auto``; in
            any case, with ``-`` or ``_``.
    """
    name = given.strip().lower()
    if name in LANGUAGES:
        return cast("Language", name)
    tag = name.replace("_", "-")
    return _SUBTAGS.get(tag.partition("-")[0]) if _TAG.fullmatch(tag) else None


def _read(given: object) -> object:
    if not isinstance(given, str):
        return given  # refused by the type that follows
    language = language_named(given)
    if language is None:
        shown = repr(given if len(given) <= 60 else given[:57] + "...")
        raise PydanticCustomError(
            "UNSUPPORTED_LANGUAGE",
            "language {given} is not served; allowed: {allowed}",
            {"given": shown, "allowed": ALLOWED},
        )
    return language


NamedLanguage = Annotated[Language, BeforeValidator(_read)]
"""A field that takes a language by any of its names and holds it as one of :data:`LANGUAGES`."""
