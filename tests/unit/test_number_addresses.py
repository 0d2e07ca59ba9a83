"""Web and e-mail addresses as a person reads them out."""

import pytest

from serve_app.text.numbers.normalize import normalize

WRITTEN = {
    "english": [
        ("name@example.org", "name at example dot org"),
        ("www.example.org/a", "www dot example dot org slash a"),
        ("https://www.example.org/path/to/page.", "www dot example dot org slash path slash to slash page."),
        ("example.com", "example dot com"),
        ("a_b@x-1.org", "a underscore b at x dash one dot org"),
        ("(mailto:me@x.org)", "(me at x dot org)"),
        ("Ask me@x.org, or www.example.org.", "Ask me at x dot org, or www dot example dot org."),
        ("user123@example.org", "user one two three at example dot org"),
        ("http://localhost:8000/docs", "http://localhost:8000/docs"),
        ("@user", "@user"),
        ("::1, [::1]:80", "::1, [::1]:80"),
    ],
    "german": [
        ("name@example.org", "name at example Punkt org"),
        ("www.example.org/a", "www Punkt example Punkt org Schrägstrich a"),
    ],
    "french": [
        ("name@example.org", "name arobase example point org"),
        ("www.example.org/a", "www point example point org slash a"),
    ],
    "spanish": [
        ("name@example.org", "name arroba example punto org"),
        ("www.example.org/a", "www punto example punto org barra a"),
    ],
    "portuguese": [
        ("name@example.org", "name arroba example ponto org"),
        ("www.example.org/a", "www ponto example ponto org barra a"),
    ],
    "italian": [
        ("name@example.org", "name chiocciola example punto org"),
        ("www.example.org/a", "www punto example punto org barra a"),
    ],
    "russian": [
        ("name@example.org", "name собака example точка org"),
        ("www.example.org/a", "www точка example точка org слэш a"),
    ],
    "chinese": [
        ("name@example.org", "name 艾特 example 点 org"),
        ("访问www.example.org/a", "访问www 点 example 点 org 斜杠 a"),
    ],
    "japanese": [
        ("name@example.org", "name アットマーク example ドット org"),
        ("www.example.org/a", "www ドット example ドット org スラッシュ a"),
    ],
    "korean": [
        ("name@example.org", "name 골뱅이 example 점 org"),
        ("www.example.org/a", "www 점 example 점 org 슬래시 a"),
    ],
}


@pytest.mark.parametrize(
    ("language", "text", "spelled"), [(language, *pair) for language, pairs in WRITTEN.items() for pair in pairs]
)
def test_what_is_written_is_read_as_it_is_said(language, text, spelled):
    assert normalize(text, language) == spelled
