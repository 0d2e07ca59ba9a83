"""Owns the removal of Markdown from a text that is still growing; knows nothing of speech or of white space."""

import re
from typing import Final

from serve_app.quotations import is_wide

LINK_TEXT_CHARACTERS: Final = 200
"""A bracket that is not closed within this is no link's text."""
LINK_TARGET_CHARACTERS: Final = 1_000
"""A link's target longer than this is left as it stands; one with white space in it is none anyway."""

_PIECE_CHARACTERS: Final = 2_048  # a link costs a copy of what is held, so a long push is taken in pieces
_PLAIN = re.compile(r"[^\\`*_~!\[|\n \t]+|[ \t]+|\|")
_EMPHASIS = re.compile(r"\*{1,16}|_{1,16}|~{1,16}|`{1,16}")
_INDENT = re.compile(r"[ \t]+")
_QUOTE = re.compile(r">[ \t]?")
_HEADING = re.compile(r"#{1,6}(?=[ \t\n]|\Z)[ \t]*")
_BULLET = re.compile(r"[-*+•][ \t]+|[-*+•](?=\n|\Z)")
_TASK = re.compile(r"\[[ xX]\][ \t]+")
_RULE = re.compile(r"(?:-{3,}|\*{3,}|_{3,}|={3,})[ \t]*(?:\n|\Z)")
_FENCE = re.compile(r"(?:`{3,}[^`\n]{0,100}|~{3,}[^~\n]{0,100})(?:\n|\Z)")
_TABLE_RULE = re.compile(r"\|(?=[^\n]*-)[|:\- \t]{1,200}(?:\n|\Z)")
_BLOCKS = (_INDENT, _QUOTE, _RULE, _FENCE, _TABLE_RULE, _HEADING, _BULLET)
_BLOCK_BEGUN = re.compile(
    r"""(?: [ \t]+ | \#{1,6} | [-+•] | -{2,200}[ \t]* | \*{1,200}[ \t]* | _{1,200}[ \t]* | ={1,200}[ \t]*
        | >  | `{1,200} | ~{1,200} | `{3,200}[^`\n]{0,100} | ~{3,200}[^~\n]{0,100} | \|[|:\- \t]{0,200} )\Z""",
    re.VERBOSE,
)
_TASK_BEGUN = re.compile(r"\[(?:[ xX](?:\][ \t]*)?)?\Z")
_LINK = re.compile(
    rf"""!?\[(?P<text>[^\[\]\n]{{0,{LINK_TEXT_CHARACTERS}}})\]
         \([ \t]?<?[^\s()<>]{{0,{LINK_TARGET_CHARACTERS}}}(?:\([^\s()<>]{{0,100}}\)[^\s()<>]{{0,100}})?>?
         (?:[ \t]+(?:"[^"\n]{{0,200}}"|'[^'\n]{{0,200}}'))?[ \t]?\)""",
    re.VERBOSE,
)
_LINK_BEGUN = re.compile(
    rf"""!?(?:\[[^\[\]\n]{{0,{LINK_TEXT_CHARACTERS}}}
         (?:\](?:\([ \t]?<?[^\s()<>]{{0,{LINK_TARGET_CHARACTERS}}}(?:\([^\s()<>]{{0,100}}(?:\)[^\s()<>]{{0,100}})?)?>?
         (?:[ \t]+(?:"[^"\n]{{0,200}}"?|'[^'\n]{{0,200}}'?)?)?[ \t]?)?)?)?\Z""",
    re.VERBOSE,
)
_CELL_EDGE = re.compile(r"[ \t]*\|[ \t]*")
_ESCAPABLE = frozenset("\\`*_{}[]()#+-.!|>~")


class MarkdownStripper:
    """Turns Markdown into the words a reader would say, pushed in any pieces.

    Headings, emphasis, code marks, bullets, quote marks, rules and fences go; of a link or image its text
    stays; the cells of a table row are parted by commas. What only looks like a mark (``2 * 3``,
    ``snake_case``, ``[1]``) stays. Holds back at most a link's text and target.
    """

    def __init__(self) -> None:
        self._text = ""
        self._at = 0
        self._at_line_start = True
        self._after_bullet = False
        self._in_row = False
        self._before = ""  # the last character passed, kept or not
        self._open = {"*": 0, "_": 0}

    def push(self, text: str) -> str:
        """Take more text; return the stripped text that no further text can change."""
        pieces: list[str] = []
        for start in range(0, len(text), _PIECE_CHARACTERS):
            self._text += text[start : start + _PIECE_CHARACTERS]
            pieces.append(self._strip(final=False))
        return "".join(pieces)

    def flush(self) -> str:
        """Return what was held back, read as if nothing followed."""
        return self._strip(final=True)

    def _strip(self, *, final: bool) -> str:
        pieces: list[str] = []
        while self._at < len(self._text):
            piece = self._block(final=final) if self._at_line_start else self._inline(final=final)
            if piece is None:
                break
            pieces.append(piece)
        self._text, self._at = self._text[self._at :], 0
        return "".join(pieces)

    def _pass(self, end: int, kept: str) -> str:
        self._before = self._text[end - 1]
        self._at = end
        return kept

    # --- what stands at the start of a line -----------------------------------------------------

    def _block(self, *, final: bool) -> str | None:
        if not final and _BLOCK_BEGUN.match(self._text, self._at):
            return None
        if self._after_bullet:
            if not final and _TASK_BEGUN.match(self._text, self._at):
                return None
            self._after_bullet = False
            if task := _TASK.match(self._text, self._at):
                return self._pass(task.end(), "")
        for block in _BLOCKS:
            if match := block.match(self._text, self._at):
                return self._pass_block(block, match.end())
        self._at_line_start = False
        self._in_row = self._text[self._at] == "|"
        if self._in_row:
            edge = _CELL_EDGE.match(self._text, self._at)
            return self._pass(edge.end() if edge else self._at + 1, "")
        return ""

    def _pass_block(self, block: re.Pattern[str], end: int) -> str:
        self._after_bullet = block is _BULLET
        if block is _HEADING:
            self._at_line_start = False
        return self._pass(end, "\n" if block in (_RULE, _FENCE) else "")

    # --- what stands within a line --------------------------------------------------------------

    def _inline(self, *, final: bool) -> str | None:
        mark = self._text[self._at]
        if mark == "\n":
            self._at_line_start, self._in_row = True, False
            self._open = dict.fromkeys(self._open, 0)
            return self._pass(self._at + 1, mark)
        if self._in_row and mark in "| \t":
            return self._cell_edge(final=final)
        if plain := _PLAIN.match(self._text, self._at):
            return self._pass(plain.end(), plain.group())
        if mark == "\\":
            return self._escaped(final=final)
        if mark in "![":
            return self._link(final=final)
        return self._emphasis(mark, final=final)

    def _cell_edge(self, *, final: bool) -> str | None:
        edge = _CELL_EDGE.match(self._text, self._at)
        spaces = _INDENT.match(self._text, self._at)
        end = edge.end() if edge else spaces.end() if spaces else self._at + 1
        if end == len(self._text) and not final:
            return None
        if not edge:
            return self._pass(end, " ")
        ends_row = end == len(self._text) or self._text[end] in "\n|"
        return self._pass(end, "" if ends_row else ", ")

    def _escaped(self, *, final: bool) -> str | None:
        following = self._text[self._at + 1 : self._at + 2]
        if not following and not final:
            return None
        if following and following in _ESCAPABLE:
            return self._pass(self._at + 2, following)
        return self._pass(self._at + 1, "\\")

    def _link(self, *, final: bool) -> str | None:
        if not final and _LINK_BEGUN.match(self._text, self._at):
            return None
        if link := _LINK.match(self._text, self._at):
            self._text = link["text"] + self._text[link.end() :]
            self._at = 0
            return ""
        return self._pass(self._at + 1, self._text[self._at])

    def _emphasis(self, mark: str, *, final: bool) -> str | None:
        run = _EMPHASIS.match(self._text, self._at)
        assert run is not None, "every other mark was passed before"
        end = run.end()
        if end == len(self._text) and not final:
            return None
        kept = "" if self._is_mark(mark, end - self._at, self._text[end : end + 1]) else run.group()
        return self._pass(end, kept)

    def _is_mark(self, mark: str, length: int, after: str) -> bool:
        if mark == "`":
            return True
        if mark == "~":
            return length == 2
        joins = bool(self._before and after) and not (self._before.isspace() or after.isspace())
        in_word = joins and self._before.isalnum() and after.isalnum()
        if in_word and (mark == "_" or not self._open[mark]) and not (is_wide(self._before) or is_wide(after)):
            return False
        if self._open[mark] and self._before and not self._before.isspace():
            self._open[mark] -= 1
            return True
        opens = bool(after) and not after.isspace()
        self._open[mark] += opens
        return opens
