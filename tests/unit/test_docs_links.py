"""Links of every Markdown file lead somewhere, and the index leads to every page."""

from urllib.parse import urlsplit

import pytest
from pages import DOCS, ROOT, anchors, every_page, links

PAGES = every_page()


def outside(path):
    return ":" in path.partition("/")[0]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading(page):
    for link in links(page):
        where = f"{page.relative_to(ROOT)}:{link.line}: {link.path}#{link.anchor}"
        if outside(link.path):
            address = urlsplit(link.path)
            assert address.scheme in {"http", "https"}, where
            assert "." in (address.hostname or ""), where
            continue
        target = (page.parent / link.path).resolve() if link.path else page
        assert target.is_relative_to(ROOT), f"{where} leaves the project"
        assert target.exists(), f"{where} does not exist"
        if link.anchor:
            assert link.anchor in anchors(target), f"{where} is no heading of {target.name}: {sorted(anchors(target))}"


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: str(page.relative_to(DOCS)))
def test_a_page_of_the_site_links_what_the_site_has(page):
    for link in links(page):
        target = (page.parent / link.path).resolve()
        assert outside(link.path) or target.is_relative_to(DOCS), (
            f"{page.name}:{link.line}: {link.path} is no part of the site; name the file in code instead"
        )


def test_the_index_leads_to_every_page():
    linked = linked_from(DOCS / "index.md")
    # A folder may have an index of its own, which the first one links.
    for page in [page for page in linked if page.name in {"index.md", "README.md"} and page.is_relative_to(DOCS)]:
        linked |= linked_from(page)
    left_out = {page for page in DOCS.rglob("*.md") if page.name != "index.md" or page.parent != DOCS} - linked
    assert left_out == set()


def linked_from(page):
    return {(page.parent / link.path).resolve() for link in links(page) if link.path and not outside(link.path)}


def test_a_wrong_link_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# One `two`, three\n\n[a](b.md#c) ![d](e.png)\n\n## One\n\n## One\n\n`[no](link)`\n")
    assert [(link.path, link.anchor, link.line) for link in links(page)] == [("b.md", "c", 3), ("e.png", "", 3)]
    assert anchors(page) == {"one-two-three", "one", "one-1"}
