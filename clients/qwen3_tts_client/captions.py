"""Which text is spoken when: turns the service's ``segment`` and ``words`` messages into text with times. No I/O."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

UNAVAILABLE = "WORD_TIMES_UNAVAILABLE"
"""Code of an error that ends no utterance: the checkpoint has no word times, and the text is spoken without."""


@dataclass(frozen=True, slots=True)
class Timed:
    """Text, and when it is spoken.

    Attributes:
        text: a word, or a caption if the service gave no word times; with the white space after it.
        start_s: seconds of the utterance's audio before it.
        end_s: the end of a word; None for a caption, which ends where the next one begins.
    """

    text: str
    start_s: float
    end_s: float | None


class Captions:
    """Each segment of an utterance once, over all of its connections."""

    def __init__(self, *, words: bool) -> None:
        """Give words if the service times them (``words``), else captions."""
        self._words = words
        self._known = -1  # index of the last segment that was given
        self._shown_characters = 0
        self._untimed: Mapping[str, Any] | None = None  # a segment whose word times have not come yet

    def restart(self) -> None:
        """Begin another connection, which repeats the messages."""
        self._untimed = None

    def read(self, message: Mapping[str, Any], written: str) -> list[Timed]:
        """Return what a message of the service makes known.

        Args:
            message: any of them; an ``error`` is ``UNAVAILABLE``.
            written: the text so far.
        """
        untimed, self._untimed = self._untimed, None
        match message["type"]:
            case "words":
                return self._new(message["index"], message["words"], written)
            case "segment":
                if not self._words:
                    return self._caption(message, written)
                self._untimed = message
                return self._caption(untimed, written)
            case "error":  # UNAVAILABLE: the captions need not wait for word times
                self._words = False
                return self._caption(untimed, written)
            case "complete":
                return self._caption(untimed, written)
            case _:
                self._untimed = untimed
                return []

    def _caption(self, segment: Mapping[str, Any] | None, written: str) -> list[Timed]:
        """A segment without word times."""
        if segment is None:
            return []
        return self._new(segment["index"], [(segment["text"], segment["start_ms"], None)], written)

    def _new(self, index: int, words: list[Any], written: str) -> list[Timed]:
        if index <= self._known:
            return []
        self._known = index
        return [
            Timed(self._spaced(text, written), start_ms / 1000, None if end_ms is None else end_ms / 1000)
            for text, start_ms, end_ms in words
        ]

    def _spaced(self, text: str, written: str) -> str:
        """``text`` with the white space around it in what was written; a space if it was written differently."""
        begin = written.find(text, self._shown_characters)
        if begin < 0:
            return f"{text} "
        gap = written[self._shown_characters : begin]
        end = len(written) - len(written[begin + len(text) :].lstrip())
        self._shown_characters = end
        return (gap if gap.isspace() else "") + written[begin:end]
