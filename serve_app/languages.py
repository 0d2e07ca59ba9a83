"""The supported languages and all their names in requests; knows nothing about messages."""

import re
from typing import Annotated, cast, get_args

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

from serve_app.config import Language
from serve_app.text.characters import shown

LANGUAGES: tuple[str, ...] = get_args(Language)

_CODES: dict[Language, str] = {
    "chinese": "zh zho chi cmn",  # Mandarin has a code of its own
    "english": "en eng",
    "japanese": "ja jpn",
    "korean": "ko kor",
    "german": "de deu ger",
    "french": "fr fra fre",
    "russian": "ru rus",
    "portuguese": "pt por",
    "spanish": "es spa",
    "italian": "it ita",
}
"""Primary language subtags of BCP 47 (the codes of ISO 639-1), and the codes of ISO 639-2 and 639-3."""

_SUBTAGS: dict[str, Language] = {code: language for language, codes in _CODES.items() for code in codes.split()}

_COUNTRIES: dict[str, Language] = {"cn": "chinese", "jp": "japanese", "kr": "korean"}
"""Country codes that clients send instead of a language code. They count only without subtags, because ``kr`` is also
the code of another language."""

_TAG = re.compile(r"(?P<language>[a-z]{2,3})(?:-(?P<extended>[a-z]{3}|hakka|xiang)(?=-|$))?(?:-[a-z0-9]{1,8})*")
"""The variety of Chinese may follow ``zh-`` (``zh-yue``, ``zh-cmn-Hans``); hakka and xiang are older forms of tags."""

ALLOWED = f"{', '.join(LANGUAGES)}; or a code or tag of one, such as en or en-US"
"""The allowed values, for error messages."""


def language_named(given: str) -> Language | None:
    """Return the language that a request names; None if it is not supported.

    Args:
        given: one of the ten names, an ISO 639 code, a BCP 47 tag (``pt-BR``, ``zh_Hans_CN``) or ``auto``; in any
            case, with ``-`` or ``_``.
    """
    name = given.strip().lower()
    if name in LANGUAGES:
        return cast("Language", name)
    tag = _TAG.fullmatch(name.replace("_", "-"))
    if tag is None:
        return None
    language = _SUBTAGS.get(tag["language"])
    if tag["extended"] is not None and _SUBTAGS.get(tag["extended"]) != language:
        return None
    return language or _COUNTRIES.get(tag.string)


def _read(given: object) -> object:
    if not isinstance(given, str):
        return given  # Pydantic refuses it with the declared type
    language = language_named(given)
    if language is None:
        raise PydanticCustomError(
            "UNSUPPORTED_LANGUAGE",
            "language {given} is not supported; allowed: {allowed}",
            {"given": shown(given), "allowed": ALLOWED},
        )
    return language


NamedLanguage = Annotated[Language, BeforeValidator(_read)]
"""A field that accepts any name of a language and stores it as one of :data:`LANGUAGES`."""
