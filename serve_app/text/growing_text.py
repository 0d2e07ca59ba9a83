"""Matches patterns in a text that is still growing; knows nothing about the patterns' meaning."""

import regex


class NeedsMoreText(Exception):  # noqa: N818 — a signal between a rule and its reader, not an error
    """The text ends before a rule can decide."""


class Rule:
    """A pattern that either matches, does not match, or needs more text to decide.

    The first match counts, so a pattern must include whatever terminates the thing it looks for. In a pattern,
    ``<end>`` stands for the end of the text and matches only if the text is final. Repetitions must be bounded,
    because the text that a rule waits for is held back.
    """

    def __init__(self, pattern: str, flags: int = 0) -> None:
        self._growing = regex.compile(pattern.replace("<end>", "(?!)"), flags)
        self._final = regex.compile(pattern.replace("<end>", r"\Z"), flags)

    def match(self, text: str, at: int, *, final: bool) -> "regex.Match[str] | None":
        """Match at an index.

        Args:
            text: the text so far.
            at: where to match.
            final: no more text follows for now.

        Raises:
            NeedsMoreText: it depends on what follows.
        """
        if final:
            return self._final.match(text, at)
        found = self._growing.match(text, at, partial=True)
        if found is not None and found.partial:
            raise NeedsMoreText
        return found
