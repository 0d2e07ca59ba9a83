"""Owns patterns for a text that is still growing; knows nothing of what they look for."""

import regex


class NeedsMoreText(Exception):  # noqa: N818 — a signal between a rule and its reader, not an error
    """The text ends before a rule can decide."""


class Rule:
    """A pattern that says whether it matches, or that only more text can tell.

    A pattern must end in what ends the thing it looks for, because a match is taken as soon as there is one. In it
    ``<end>`` stands for the end of the text, once nothing follows for now. Repetitions have to be bounded: what a rule
    waits for is held back.
    """

    def __init__(self, pattern: str, flags: int = 0) -> None:
        self._growing = regex.compile(pattern.replace("<end>", "(?!)"), flags)
        self._final = regex.compile(pattern.replace("<end>", r"\Z"), flags)

    def match(self, text: str, at: int, *, final: bool) -> "regex.Match[str] | None":
        """Match at an index.

        Args:
            text: all that is known.
            at: where to look.
            final: nothing follows for now.

        Raises:
            NeedsMoreText: what follows decides.
        """
        if final:
            return self._final.match(text, at)
        found = self._growing.match(text, at, partial=True)
        if found is not None and found.partial:
            raise NeedsMoreText
        return found
