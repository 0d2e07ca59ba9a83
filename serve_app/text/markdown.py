"""Removes the marks of Markdown, SSML and HTML from a text that is still growing; knows nothing about speech.

It has two layers: marks at the start of a line (``_read_line_start``) and marks within a line (``_read_inline``).
:mod:`serve_app.text.emphasis` decides which runs and brackets are marks. :mod:`serve_app.text.tags` lists the known
tags.
"""

from dataclasses import dataclass
from typing import Final

import regex

from serve_app.config import TextConfig
from serve_app.text.emphasis import PARTNER_CHARACTERS, Bracket, Marks, run_of
from serve_app.text.growing_text import NeedsMoreText, Rule
from serve_app.text.quotations import is_wide
from serve_app.text.tags import Pause, Tag, entity_at, pause_at, reasoning_end, tag_at

CODE_CHARACTERS: Final = PARTNER_CHARACTERS
"""A backtick is text if its partner does not begin within this many characters."""

FORMULA_CHARACTERS: Final = PARTNER_CHARACTERS
"""A ``\\(`` or ``\\[`` does not begin a formula if its partner does not follow within this many characters."""

LINK_TARGET_CHARACTERS: Final = 1_000
"""A link with a longer target stays as it is written; a target cannot contain white space."""

_PIECE_CHARACTERS: Final = 2_048  # limits the work of a long push: waiting text is matched again for each piece
_LONGEST_RUN: Final = 16
_FENCE_INFO_CHARACTERS: Final = 100

_INDENT = regex.compile(r"[ \t]+")
_RULE = Rule(r"(?:={3,200}|(?P<mark>[-*_])(?:(?P=mark){2,200}|(?:[ \t]{0,4}(?P=mark)){2,12}))[ \t]{0,200}(?:\n|<end>)")
_FENCE = Rule(
    rf"(?P<run>`{{3,200}}+)[^`\n]{{0,{_FENCE_INFO_CHARACTERS}}}(?:\n|<end>)"
    rf"|(?P<run>~{{3,200}}+)[^\n]{{0,{_FENCE_INFO_CHARACTERS}}}(?:\n|<end>)"
)
_FENCE_END = Rule(r"[ \t]{0,200}+(?P<run>`{3,200}+|~{3,200}+)[ \t]{0,200}+(?:\n|<end>)")
_FENCE_QUOTE = Rule(r"[ \t]{0,3}>[ \t]?(?=[\s\S]|<end>)")
_CODE_LINE = regex.compile(r"[^\n]*\n?")
_TABLE_RULE = Rule(
    r"(?:\|(?=[|: \t]{0,200}-)[|:\- \t]{1,200}|(?::-{1,200}+:?|-{2,200}+:?)[ \t]{0,20}+\|[|:\- \t]{0,200})(?:\n|<end>)"
)
_HEADING = Rule(r"#{1,6}(?=[ \t\n]|<end>)")
_HEADING_END = Rule(r"[ \t]{1,200}+(?:#{1,200}+[ \t]{0,200}+)?(?=\n|<end>)")
_BULLET = Rule(r"[-*+•](?=[ \t\n]|<end>)")
_TASK = Rule(r"\[[ xX]\](?=[ \t])")
_NUMBERED = Rule(r"\d{1,9}[.)](?=[ \t])")

_PLAIN = regex.compile(r"[^\\`*_~!\[\]<&\n]+")
_PLAIN_BY_WORD = regex.compile(r"[^\\`*_~!\[\]<&\n| \t]+|[ \t]+|\|")
_PLAIN_WITHOUT_MARKDOWN = regex.compile(r"[^<&\[]+")
_ADDRESS_EDGE = regex.compile(r"(?P<begins>://|(?<![^\W_])www\.)|[\u2e80-\uffff\"<>]", regex.IGNORECASE)
_LONGEST_BEGINNING: Final = 5  # characters that _ADDRESS_EDGE reads: "www." and the one before it
_DIGITS = regex.compile(r"[-−+0-9]+")
_RAISED = str.maketrans("-−+0123456789", "⁻⁻⁺⁰¹²³⁴⁵⁶⁷⁸⁹")
_LETTER = regex.compile(r"[^\W\d_]")
_RUN = {mark: Rule(rf"{regex.escape(mark)}{{1,{_LONGEST_RUN}}}+(?=[^{regex.escape(mark)}]|<end>)") for mark in "*_~`"}
_IN_CODE = regex.compile(
    r"(?P<run>`+)"
    r"|\n[ \t]*(?:\n|[-*+•][ \t]|#{1,6}[ \t\n]|\d{1,9}[.)][ \t]|[>|]|`{3}|~{3}|(?:-{3,}|={3,}|_{3,}|\*{3,})[ \t]*\n)"
)
_ESCAPE = Rule(r"\\(?:(?P<kept>[!-/:-@\[-`{-~])|(?P<breaks>(?=\n))|(?=[\s\S]|<end>))")
_FORMULA = Rule(
    rf"\\(?:\((?P<inner>(?:[^\n]|\n(?![\n>|])){{1,{FORMULA_CHARACTERS}}}?)\\\)"
    rf"|\[(?P<inner>(?:[^\n]|\n(?![\n>|])){{1,{FORMULA_CHARACTERS}}}?)\\\])"
)
_IN_FORMULA = regex.compile(r"[=+^_{}<>\\]|\A\s*[^\W\d_]\s*\Z")
_IMAGE = Rule(r"!(?:\[|(?=[\s\S]|<end>))")
_TARGET = Rule(
    rf"""\]\([ \t\n]{{0,20}}+
    (?: <(?P<target>(?:\\[^\n]|[^<>\n\\]){{0,{LINK_TARGET_CHARACTERS}}}+)>
      | (?P<target>(?:\\[^\n]|[^\s()<>\\]){{0,{LINK_TARGET_CHARACTERS}}}+
                   (?:\([^\s()<>]{{0,100}}+\)[^\s()<>]{{0,100}}+){{0,4}}+) )
    (?:[ \t\n]{{1,20}}+(?:"[^"\n]{{0,200}}+"|'[^'\n]{{0,200}}+'|\([^()\n]{{0,200}}+\)))?
    [ \t\n]{{0,20}}+\)""",
    regex.VERBOSE,
)
_ADDRESS = regex.compile(r"\#|[A-Za-z][A-Za-z0-9+.-]{1,31}:|www\.|[^\s]*/")
_AUTOLINK = Rule(
    rf"<(?P<address>(?P<scheme>[A-Za-z][A-Za-z0-9+.-]{{1,31}}:)(?!:)[^\s<>]{{0,{LINK_TARGET_CHARACTERS}}}"
    r"|[A-Za-z0-9_.+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){0,8})>"
)
_CELL_EDGE = Rule(
    r"[ \t]{0,200}+\|[ \t]{0,200}+(?:(?P<last>)(?=[|\n]|<end>)|(?P<inner>)(?=[\s\S]))|[ \t]{1,200}+(?=[^ \t|]|<end>)"
)


@dataclass(frozen=True, slots=True)
class _Fence:
    """The opening of a fenced code block."""

    mark: str
    length: int
    quoted: bool


class MarkupReader:
    """Turns marked-up text into the words that a reader would say. The text may be pushed in any pieces.

    The marks of headings, emphasis, bullets, quotations, rules, fences and tags are removed. A link or an image keeps
    its words, and code stays as it is. Commas separate the cells of a table row. A ``<break>`` and a ``[pause 1s]``
    become a :class:`Pause`. Text that only looks like a mark (``2 * 3``, ``snake_case``, ``b[0](c)``, ``a < b``) stays.
    The reader holds back only the text that its rules wait for. The configuration's ``markdown``, ``tags`` and
    ``reasoning`` say which kinds of markup are removed.
    """

    def __init__(self, config: TextConfig) -> None:
        self._config = config
        self._marks = Marks()
        self._text = ""
        self._base = 0  # index of _text[0] in everything pushed; later indices count from the same start, except _at
        self._at = 0
        self._final = False
        self._before = ""  # the last character read; empty at the start of a line
        self._word_at = 0  # index after the last white space
        self._letter_at = -1  # start of the last token with a letter
        self._plain_before = ""  # end of the plain text directly before _at
        self._address_at = -1  # start of the last address in plain text
        self._backslash_at = -1  # the last backslash that stayed as text
        self._raised = False  # the next digits are an exponent
        self._at_line_start = config.markdown
        self._quoted = False  # this line began with a quote mark
        self._was_quoted = False  # an earlier line of this paragraph began with one
        self._after_bullet = False
        self._in_row = False
        self._in_heading = False
        self._fence: _Fence | None = None
        self._reasoning = ""  # name of the block that is being dropped
        self._kept_tags: set[str] = set()  # names of opening tags that stayed as text

    def push(self, text: str) -> list[str | Pause]:
        """Accept more text; return the part that later text can no longer change."""
        pieces: list[str | Pause] = []
        for start in range(0, len(text), _PIECE_CHARACTERS):
            self._text += text[start : start + _PIECE_CHARACTERS]
            pieces += self._read(final=False)
        return pieces

    def flush(self) -> list[str | Pause]:
        """Return what was held back, as if no text followed; an open reasoning block stays open."""
        return self._read(final=True)

    def _read(self, *, final: bool) -> list[str | Pause]:
        self._final = final
        try:
            while self._at < len(self._text):
                self._read_next()
        except NeedsMoreText:
            pass
        if final:
            self._marks.end_paragraph(self._base + self._at)
        self._base += self._at
        self._text, self._at = self._text[self._at :], 0
        return self._marks.take(self._base)

    def _read_next(self) -> None:
        if self._reasoning:
            self._drop_reasoning()
        elif self._fence is not None:
            self._read_code_line(self._fence)
        elif self._at_line_start:
            self._read_line_start(self._text[self._at])
        else:
            self._read_inline(self._text[self._at])

    def _match(self, rule: Rule) -> "regex.Match[str] | None":
        return rule.match(self._text, self._at, final=self._final)

    def _pass(self, end: int, heard: str | Pause = "") -> None:
        """Continue at ``end``; ``heard`` replaces the text up to there."""
        self._before = self._text[end - 1]
        self._plain_before = ""
        for white in " \n\t":
            last = self._text.rfind(white, self._at, end)
            if last >= 0:
                self._word_at = max(self._word_at, self._base + last + 1)
        if self._marks.waiting and _LETTER.search(self._text, self._at, end):
            self._letter_at = self._base + self._at
        self._at = end
        self._marks.add(heard)

    # --- tags and reasoning ---------------------------------------------------------------------

    def _tag(self) -> Tag | None:
        """Return the tag at the current index, if such tags are removed."""
        tag = tag_at(self._text, self._at, self._before, final=self._final)
        if tag is None:
            return None
        removed = self._config.reasoning == "drop" if tag.reasoning else self._config.tags
        return tag if removed else None

    def _pass_tag(self, tag: Tag) -> None:
        if tag.heard == "\n\n":
            self._marks.end_paragraph(self._base + self._at)
        self._reasoning = "" if tag.closes else tag.reasoning
        if tag.name == "sup":
            self._raised = not tag.closes and (self._before.isalnum() or self._before in {")", "]"})
        self._pass(tag.end, tag.heard)

    def _drop_reasoning(self) -> None:
        self._at, ends = reasoning_end(self._text, self._at, self._reasoning)
        if not ends:
            raise NeedsMoreText
        self._reasoning = ""
        self._marks.add(" ")

    # --- fenced code ----------------------------------------------------------------------------

    def _read_code_line(self, fence: _Fence) -> None:
        if self._at_line_start:
            if fence.quoted:
                quote = self._match(_FENCE_QUOTE)
                if quote is None:
                    self._fence = None  # the code ends with the quotation
                    return
                self._at = quote.end()
            end = self._match(_FENCE_END)
            if end is not None and end["run"][0] == fence.mark and len(end["run"]) >= fence.length:
                self._fence = None
                self._pass(end.end(), "\n")
                return
        line = _CODE_LINE.match(self._text, self._at)
        assert line is not None, "any text is a line of code"
        self._at_line_start = line.group().endswith("\n")
        self._pass(line.end(), line.group())

    # --- marks at the start of a line -----------------------------------------------------------

    def _read_line_start(self, mark: str) -> None:
        if mark in " \t":
            indent = _INDENT.match(self._text, self._at)
            assert indent is not None, "it begins with white space"
            self._at = indent.end()
        elif mark == "\n":
            self._marks.end_paragraph(self._base + self._at)
            self._quoted = self._was_quoted = False
            self._end_line()
        elif self._after_bullet and mark == "[":
            self._after_bullet = False
            if task := self._match_task():
                self._at = task.end()
        elif not (mark == "<" and self._read_reasoning()) and not self._read_block_mark(mark):
            self._begin_line()

    def _match_task(self) -> "regex.Match[str] | None":
        try:
            return self._match(_TASK)
        except NeedsMoreText:
            self._after_bullet = True
            raise

    def _read_reasoning(self) -> bool:
        """Read a reasoning tag, if it is here; return whether it was. After it, the line still counts as starting."""
        tag = self._tag()
        if tag is None or not tag.reasoning:
            return False
        self._pass_tag(tag)
        return True

    def _read_block_mark(self, mark: str) -> bool:
        """Read the mark of a block, if this is one; return whether it is."""
        if mark == ">":
            if not self._was_quoted and not self._quoted:
                self._marks.end_paragraph(self._base + self._at)
            self._quoted = True
            self._at += 1
        elif mark in "-*_=" and (rule := self._match(_RULE)):
            self._end_block(rule.end(), "\n")
        elif mark in "|-:" and (rule := self._match(_TABLE_RULE)):
            self._end_block(rule.end())
        elif mark in "`~" and (fence := self._match(_FENCE)):
            self._fence = _Fence(mark, len(fence["run"]), self._quoted)
            self._end_block(fence.end(), "\n")
        elif mark == "|":
            self._end_block(self._at + 1)
            self._begin_line()
            self._in_row = True
        elif mark == "#" and (heading := self._match(_HEADING)):
            self._end_block(heading.end())
            self._begin_line()
            self._in_heading = True
        elif mark in "-*+•" and (bullet := self._match(_BULLET)):
            self._end_block(bullet.end())
            self._after_bullet = True
        else:
            if mark.isdecimal() and self._match(_NUMBERED):
                self._marks.end_paragraph(self._base + self._at)
            return False
        return True

    def _end_block(self, end: int, heard: str = "") -> None:
        """Continue at ``end`` in a new paragraph."""
        self._marks.end_paragraph(self._base + self._at)
        self._after_bullet = self._was_quoted = False
        self._pass(end, heard)
        if self._before == "\n":
            self._note_new_line()

    def _begin_line(self) -> None:
        self._at_line_start = self._after_bullet = False
        self._before = ""

    def _end_line(self) -> None:
        """Read a line feed."""
        if self._in_row or self._in_heading:
            self._marks.end_paragraph(self._base + self._at)
        self._pass(self._at + 1, "\n")
        self._note_new_line()

    def _note_new_line(self) -> None:
        self._at_line_start = True
        self._was_quoted, self._quoted = self._was_quoted or self._quoted, False
        self._after_bullet = self._in_row = self._in_heading = False

    # --- marks within a line --------------------------------------------------------------------

    def _read_inline(self, mark: str) -> None:
        if (mark in "| \t" and self._read_edge()) or (self._raised and self._read_raised(mark)):
            return
        if plain := self._plain.match(self._text, self._at):
            self._pass_plain(plain)
            return
        match mark:
            case "\n":
                self._end_line()
            case "<":
                self._read_angle()
            case "&":
                self._read_entity()
            case "\\":
                self._read_escape()
            case "`":
                self._read_code()
            case "[" | "!":
                self._read_bracket(mark)
            case "]":
                self._read_closing_bracket()
            case _:
                self._read_run(mark)

    @property
    def _plain(self) -> "regex.Pattern[str]":
        """The pattern of text without marks."""
        if not self._config.markdown:
            return _PLAIN_WITHOUT_MARKDOWN
        return _PLAIN_BY_WORD if self._in_row or self._in_heading else _PLAIN

    def _pass_plain(self, plain: "regex.Match[str]") -> None:
        known = self._plain_before + plain.group()
        for edge in _ADDRESS_EDGE.finditer(known):
            if edge.end() > len(self._plain_before):
                at = self._base + plain.end() - len(known) + edge.start()
                self._address_at = at if edge["begins"] else -1
        self._pass(plain.end(), plain.group())
        self._plain_before = known[-_LONGEST_BEGINNING:]

    def _read_raised(self, mark: str) -> bool:
        """Read the digits of an exponent, if they are here; return whether they were. Only tags may separate them."""
        if digits := _DIGITS.match(self._text, self._at):
            self._pass(digits.end(), digits.group().translate(_RAISED))
        else:
            self._raised = mark == "<"
        return digits is not None

    def _read_edge(self) -> bool:
        """Read the end of a cell or a heading, if it is here; return whether it was."""
        if self._in_row:
            return self._read_cell_edge()
        if not self._in_heading:
            return False
        heading_end = self._match(_HEADING_END)
        if heading_end is not None:
            self._pass(heading_end.end())
        return heading_end is not None

    def _read_cell_edge(self) -> bool:
        edge = self._match(_CELL_EDGE)
        if edge is None:
            return False
        if edge["last"] is None and edge["inner"] is None:
            self._pass(edge.end(), " ")
            return True
        self._marks.end_paragraph(self._base + self._at)
        self._pass(edge.end(), ", " if edge["last"] is None else "")
        return True

    def _read_angle(self) -> None:
        tag = self._tag()
        if tag and not tag.is_text and not (tag.closes and tag.name in self._kept_tags):
            self._kept_tags.discard(tag.name)
            self._pass_tag(tag)
        elif tag:
            (self._kept_tags.discard if tag.closes else self._kept_tags.add)(tag.name)
            self._pass(tag.end, self._text[self._at : tag.end])
        elif self._config.markdown and (link := self._match(_AUTOLINK)) and self._is_address(link):
            self._pass(link.end(), link["address"])
        else:
            self._pass(self._at + 1, "<")

    def _is_address(self, link: "regex.Match[str]") -> bool:
        """Return whether this is an address; after a word, as in ``Map<key:value>``, only mail and ``://`` count."""
        return not self._is_glued() or not link["scheme"] or "://" in link["address"]

    def _read_entity(self) -> None:
        entity = entity_at(self._text, self._at, final=self._final) if self._config.tags else None
        self._pass(*(entity or (self._at + 1, "&")))

    def _read_escape(self) -> None:
        escape = self._match(_ESCAPE)
        assert escape is not None, "the pattern decides for any text that follows"
        mark = escape["kept"]
        if mark is None or self._backslash_at >= self._word_at:
            self._backslash_at = self._base + self._at
            self._pass(escape.end(), "" if escape["breaks"] is not None else escape.group())
        elif mark in "([" and (formula := self._formula()):
            self._pass(formula.end(), formula.group())
        else:
            self._pass(escape.end(), mark)

    def _formula(self) -> "regex.Match[str] | None":
        formula = self._match(_FORMULA)
        if formula is None or ("\n" in formula.group() and (self._in_row or self._in_heading)):
            return None
        return formula if _IN_FORMULA.search(formula["inner"]) else None

    def _read_code(self) -> None:
        run = self._match(_RUN["`"])
        if run is None:
            self._pass(self._at + _LONGEST_RUN, "`" * _LONGEST_RUN)
            return
        end = self._code_end(run.end(), len(run.group()))
        if end is None:
            self._pass(run.end(), run.group())
            return
        code = self._text[run.end() : end.start()].replace("\n", " ")
        if code.strip() and code[0] == code[-1] == " ":
            code = code[1:-1]
        self._pass(end.end(), code)

    def _code_end(self, start: int, length: int) -> "regex.Match[str] | None":
        """Return the run of ``length`` backticks in the same paragraph that ends the code before ``start``."""
        limit = start + CODE_CHARACTERS
        known = limit + 4 * _LONGEST_RUN
        line_end = self._text.find("\n", start, known) if self._in_row or self._in_heading else -1
        if line_end >= 0:
            limit = known = line_end
        for found in _IN_CODE.finditer(self._text, start, known):
            if found["run"] is None or found.start() >= limit:
                return None
            if len(found["run"]) == length:
                if found.end() == len(self._text) and not self._final:
                    raise NeedsMoreText
                return found
        if len(self._text) < known and not self._final:
            raise NeedsMoreText
        return None

    def _pause(self, at: int) -> tuple[int, Pause | None] | None:
        """Return what :func:`pause_at` returns, if pauses are read."""
        return pause_at(self._text, at, final=self._final) if self._config.tags else None

    def _is_glued(self) -> bool:
        before = self._before
        return bool(before) and ((before.isalnum() and not is_wide(before)) or before in ")]")

    def _read_bracket(self, mark: str) -> None:
        if mark == "[" and (pause := self._pause(self._at)):
            end, heard = pause
            self._pass(end, heard or "")
            self._before = " "
            return
        text, glued = mark, self._is_glued()
        if not self._config.markdown:
            self._pass(self._at + 1, text)
            return
        if mark == "!":
            image = self._match(_IMAGE)
            assert image is not None, "the pattern decides for any text that follows"
            text, glued = image.group(), False
            if text == "!" or self._pause(self._at + 1):
                self._pass(self._at + 1, "!")
                return
        self._marks.add_bracket(Bracket(text, self._base + self._at, glued, self._before))
        self._pass(self._at + len(text))

    def _read_closing_bracket(self) -> None:
        bracket = self._marks.bracket(self._base + self._at)
        link = self._match(_TARGET) if bracket else None
        if bracket and link and self._is_link(bracket, link["target"]):
            dropped, heard = self._marks.end_citation(bracket)
            self._marks.end_link(bracket)
            self._pass(link.end(), heard)
            if dropped:
                self._before = bracket.before
            return
        if bracket:
            self._marks.end_bracket()
        self._pass(self._at + 1, "]")

    def _is_link(self, bracket: Bracket, target: str) -> bool:
        """Return whether this is a link: it has words and a target, unlike a list that is indexed and called."""
        has_words = self._letter_at > bracket.at or bracket.text.startswith("!")
        return (has_words and not bracket.glued) or _ADDRESS.match(target) is not None

    def _read_run(self, mark: str) -> None:
        run = self._match(_RUN[mark])
        if run is None:
            self._pass(self._at + _LONGEST_RUN, mark * _LONGEST_RUN)
            return
        after = self._text[run.end() : run.end() + 1]
        if self._address_at >= self._word_at and (after == "/" or (after.isalnum() and not is_wide(after))):
            self._pass(run.end(), run.group())  # within a bare address
            return
        length, at = len(run.group()), self._base + self._at
        found = run_of(mark, length, at, self._word_at, (self._before, after))
        found.leads = not self._before and after.isalpha() and mark != "~"
        self._marks.add_run(found)
        self._pass(run.end())
