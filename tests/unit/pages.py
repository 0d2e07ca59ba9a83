"""The project's Markdown as tests read it: links, headings, pictures, and blocks of commands with their marks."""

import os
import re
import shlex
import stat
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
SHELLS = {"sh", "bash", "shell", "console"}
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
"""This project's commands, and what each of them calls."""

_PROGRAMS = (
    *SCRIPTS,
    "curl",
    "docker",
    "git",
    "helm",
    "kind",
    "kubectl",
    "make",
    "pip",
    "pytest",
    "python",
    "ray",
    "serve",
)
_COMMAND = re.compile(rf"^(?:\$ |(?:{'|'.join(_PROGRAMS)}) )", re.MULTILINE)

_MARKDOWN = MarkdownIt("commonmark").enable("table")
_MARK = re.compile(r"<!-- (runs|tested|needs|long): (.+?) -->")


@dataclass(frozen=True)
class Link:
    """Where a page points to: ``path`` is empty for the page itself, ``anchor`` for all of another one."""

    path: str
    anchor: str
    line: int


@dataclass(frozen=True)
class Block:
    """Some lines of shell, and what the comment before them says: its word and its value, None without one."""

    page: Path
    line: int
    text: str
    mark: tuple[str, str] | None

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    def commands(self) -> list[list[str]]:
        """The words of each command, in order; a pipe's commands one by one, without redirections and variables."""
        return [command for line in self._lines() for command in _commands(line)]

    def _lines(self) -> Iterator[str]:
        """Whole commands: what a backslash or an open quotation mark continues is one."""
        gathered = ""
        for line in self.text.replace("\\\n", " ").splitlines():
            gathered += line + "\n"
            try:
                shlex.split(gathered, comments=True)
            except ValueError:
                continue
            yield gathered
            gathered = ""
        assert not gathered, f"{self.name}: a quotation that does not end"


def every_page() -> list[Path]:
    """Every Markdown file of the project."""
    found = []
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in {"site", "node_modules"}]
        found += [Path(folder) / name for name in names if name.endswith(".md")]
    return sorted(found)


def links(page: Path) -> list[Link]:
    """Links and pictures of a page, in its order."""
    found = []
    for token in _MARKDOWN.parse(page.read_text()):
        line = token.map[0] + 1 if token.map else 0
        for child in token.children or ():
            target = child.attrGet("href") or child.attrGet("src")
            if target:
                path, _, anchor = str(target).partition("#")
                found.append(Link(path, anchor, line))
    return found


def anchors(page: Path) -> set[str]:
    """What a link may name behind ``#``: a page's headings, as GitHub and the site spell them."""
    found: dict[str, None] = {}
    tokens = _MARKDOWN.parse(page.read_text())
    for opening, heading in pairwise(tokens):
        if opening.type == "heading_open":
            words = "".join(child.content for child in heading.children or () if child.type in {"text", "code_inline"})
            slug = re.sub(r"[^\w\- ]", "", words.strip().lower()).replace(" ", "-")
            number = sum(re.fullmatch(re.escape(slug) + r"(-\d+)?", known) is not None for known in found)
            found[f"{slug}-{number}" if number else slug] = None
    return set(found)


def blocks(page: Path) -> list[Block]:
    """A page's blocks of shell commands."""
    found = []
    mark: tuple[str, str] | None = None
    for token in _MARKDOWN.parse(page.read_text()):
        if token.type == "fence" and (token.info.split() or [""])[0] in SHELLS:
            found.append(Block(page, token.map[0] + 1, token.content, mark))
        matched = _MARK.fullmatch(token.content.strip()) if token.type == "html_block" else None
        mark = (matched[1], matched[2]) if matched else None
    return found


def unnamed(page: Path) -> list[int]:
    """Lines at which code begins of which nothing says what it is: indented code, and commands in a bare fence."""
    return [
        token.map[0] + 1
        for token in _MARKDOWN.parse(page.read_text())
        if token.type == "code_block" or (token.type == "fence" and not token.info and _COMMAND.search(token.content))
    ]


def documented_blocks() -> list[Block]:
    """Every block of commands that a reader is told to type."""
    return [block for page in (ROOT / "README.md", *sorted(DOCS.rglob("*.md"))) for block in blocks(page)]


def workplace(folder: Path, **options: str) -> dict[str, str]:
    """A folder in which a block can run, and the environment for it.

    The project's folders are there under their names, and its commands where a shell looks for them; ``options`` are
    given to a command first, under its name with underscores.
    """
    for path in ROOT.iterdir():
        if path.is_dir() and not path.name.startswith("."):
            (folder / path.name).symlink_to(path)
    programs = folder / ".bin"
    programs.mkdir()
    starts = {"python": "", **{name: f"-m {target.partition(':')[0]}" for name, target in SCRIPTS.items()}}
    for name, start in starts.items():
        option = options.get(name.replace("-", "_"), "")
        (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable} {start} {option} "$@"\n')
        (programs / name).chmod(stat.S_IRWXU)
    return {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}


def _commands(line: str) -> Iterator[list[str]]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    command: list[str] = []
    skipped = False
    for word in lexer:
        if set(word) <= set("();&|"):
            if command:
                yield command
            command = []
        elif set(word) <= set("<>"):
            skipped = True
        elif skipped:
            skipped = False
        elif command or not re.match(r"\w+=", word):
            command.append(word)
    if command:
        yield command
