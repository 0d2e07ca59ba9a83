from pathlib import Path

from serve_app.paths import found

PROJECT = Path(__file__).parents[2]


def test_a_path_is_that_of_the_working_directory_or_else_of_the_project(tmp_path):
    assert found("voices", tmp_path) == PROJECT / "voices"
    (tmp_path / "voices").mkdir()
    assert found("voices", tmp_path) == tmp_path / "voices"
    assert found("nowhere", tmp_path) == tmp_path / "nowhere"
    assert found(str(PROJECT / "README.md"), tmp_path) == PROJECT / "README.md"


def test_a_link_stays_one(tmp_path):
    (tmp_path / "link").symlink_to(PROJECT / "voices")
    assert found("link", tmp_path) == tmp_path / "link"
