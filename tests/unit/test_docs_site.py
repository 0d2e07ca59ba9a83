"""The site is built from docs/ without a warning, and its menus are the index's sections."""

import importlib.util
import subprocess
import sys

import pytest
from pages import DOCS, ROOT


def build(folder, configuration):
    return subprocess.run(
        [sys.executable, "-m", "properdocs", "build", "--config-file", configuration, "--site-dir", folder],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_site_is_built_strictly_and_has_every_page(tmp_path):
    built = build(tmp_path, ROOT / "properdocs.yml")
    assert built.returncode == 0, built.stderr
    for page in DOCS.rglob("*.md"):
        assert (tmp_path / page.relative_to(DOCS).with_suffix(".html")).exists()
    assert not list(tmp_path.rglob("*.py"))


def test_the_site_loads_nothing_from_elsewhere(tmp_path):
    build(tmp_path, ROOT / "properdocs.yml")
    index = (tmp_path / "index.html").read_text()
    assert not [line for line in index.splitlines() if ("<script" in line or "<link" in line) and "//" in line]


def test_menus_are_the_sections_of_the_index():
    spec = importlib.util.spec_from_file_location("docs_navigation", DOCS / "navigation.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    index = "# All\n\n[a](b.md)\n\n## One\n\nFor you.\n\n- [A](a.md): [b](b.md)\n- [C](c/d.md)\n\n## Two\n\nNothing.\n"
    assert module.navigation(index) == [{"Home": "index.md"}, {"One": [{"A": "a.md"}, {"C": "c/d.md"}]}]


@pytest.mark.parametrize("fault", ["", "[a](nowhere.md)", "[a](other.md#no-such-heading)", "[a](../README.md)"])
def test_a_dead_link_ends_the_build(tmp_path, fault):
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "navigation.py").write_text((DOCS / "navigation.py").read_text())
    (docs / "other.md").write_text("# Other\n")
    (docs / "index.md").write_text(f"# Index\n\n## Start\n\n- [Other](other.md)\n\n{fault}\n")
    (tmp_path / "properdocs.yml").write_text((ROOT / "properdocs.yml").read_text())
    built = build(tmp_path / "site", tmp_path / "properdocs.yml")
    assert (built.returncode != 0) == bool(fault), built.stderr
    assert fault[4:-1] in built.stderr
