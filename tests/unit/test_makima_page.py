"""docs/makima.md says what to do on everything that the service can say."""

from pathlib import Path

from serve_app.errors import SpeechError

PAGE = (Path(__file__).parents[2] / "docs" / "makima.md").read_text()


def test_every_code_of_the_wire_has_its_advice():
    for kind in SpeechError.__subclasses__():
        assert f"`{kind.code}`" in PAGE, kind.code


def test_every_close_code_has_its_advice():
    for code in {kind.close_code for kind in SpeechError.__subclasses__() if kind.close_code} | {1000, 1007, 1011}:
        assert f"| {code}" in PAGE, code
