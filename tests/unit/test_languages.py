from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from serve_app.config import Language
from serve_app.languages import LANGUAGES, NamedLanguage, language_named

CODES = {
    code: language
    for codes, language in {
        "zh zho chi cmn": "chinese",
        "en eng": "english",
        "ja jpn": "japanese",
        "ko kor": "korean",
        "de deu ger": "german",
        "fr fra fre": "french",
        "ru rus": "russian",
        "pt por": "portuguese",
        "es spa": "spanish",
        "it ita": "italian",
    }.items()
    for code in codes.split()
}
FIELD = TypeAdapter(NamedLanguage)


@pytest.mark.parametrize(
    ("given_name", "language"),
    [
        *CODES.items(),
        *((name, name) for name in LANGUAGES),
        ("Auto", "auto"),
        (" ENGLISH ", "english"),
        ("en-US", "english"),
        ("EN_us", "english"),
        ("pt-BR", "portuguese"),
        ("zh-Hans-CN", "chinese"),
        ("zh_Hant_TW", "chinese"),
        ("es-419", "spanish"),
        ("JP", "japanese"),
        ("kr", "korean"),
        ("CN", "chinese"),
        ("zh-cmn-Hans", "chinese"),
        ("zho-TW", "chinese"),
        ("de-1996", "german"),
        ("ja-JP-u-ca-japanese", "japanese"),
    ],
)
def test_a_language_is_meant_by_its_name_its_code_or_a_tag_of_it(given_name, language):
    assert language_named(given_name) == FIELD.validate_python(given_name) == language


@pytest.mark.parametrize(
    "wrong",
    [
        *("", " ", "klingon", "latin", "nl", "nl-BE", "yue", "e", "en-", "-en", "en--US", "en US", "x-en", "englisch"),
        *("zh-yue", "zh_YUE-HK", "zh-nan", "zh-min-nan", "zh-hakka", "zh-xiang", "zho-yue", "en-deu", "cn-yue"),
        *("kr-NG", "jp-JP", "us", "kau", "nld"),
    ],
)
def test_any_other_is_refused_with_those_that_are_served(wrong):
    assert language_named(wrong) is None
    with pytest.raises(ValidationError) as refused:
        FIELD.validate_python(wrong)
    (fault,) = refused.value.errors()
    assert fault["type"] == "UNSUPPORTED_LANGUAGE"
    assert all(language in fault["msg"] for language in LANGUAGES)


@pytest.mark.parametrize("wrong", [5, True, ["en"], {"en": 1}])
def test_what_is_not_text_is_not_a_language(wrong):
    with pytest.raises(ValidationError):
        FIELD.validate_python(wrong)


def recased(text, upper):
    return "".join(letter.upper() if up else letter.lower() for letter, up in zip(text, upper, strict=True))


# Three letters behind the first say which Chinese it is.
SUBTAG = st.from_regex(r"\A[a-z0-9]{1,8}\Z").filter(lambda each: not (each.isalpha() and len(each) in (3, 5)))


@given(st.data(), st.sampled_from(sorted(CODES)), st.lists(SUBTAG, max_size=4))
def test_subtags_case_and_separators_change_nothing(data, code, subtags):
    tag = code + "".join(data.draw(st.sampled_from("-_")) + subtag for subtag in subtags)
    upper = data.draw(st.lists(st.booleans(), min_size=len(tag), max_size=len(tag)))
    assert language_named(recased(tag, upper)) == CODES[code]


@given(st.text(max_size=20))
def test_any_text_is_one_of_ours_or_none(text):
    assert language_named(text) in (None, *get_args(Language))
