"""Turns, for dialects whose texts have no id: a turn is the text between two flushes, and becomes one utterance.

Every flush is answered once, in the order of the flushes, even if there was nothing to speak or the utterance failed.
This module decides when a flush may be answered; it does not know the answers.
"""

from collections import deque
from dataclasses import dataclass
from typing import Generic, TypeVar

from serve_app.errors import CapacityError
from serve_app.protocol.messages import ReadMessage, Refusal, Speak, SpeechFields

MAX_TURNS = 256
"""Maximum number of turns that wait for their answer."""

TURNS_RETRY_MS = 2000
"""When to retry if that many turns wait."""

T = TypeVar("T")


@dataclass(slots=True)
class Turn(Generic[T]):
    """One turn.

    Attributes:
        number: its number in the session, from 0 on, and the id of its utterance.
        state: what the dialect keeps about it.
        flushed: its text is complete.
        over: its utterance has ended, or never began because there was nothing to speak.
        failed: its utterance ended with an error.
    """

    number: int
    state: T
    flushed: bool = False
    over: bool = False
    failed: bool = False


class Turns(Generic[T]):
    """The turns of one session that have not been answered yet."""

    def __init__(self) -> None:
        self._turns: deque[Turn[T]] = deque()
        self._open: Turn[T] | None = None
        self._next = 0

    @property
    def open(self) -> Turn[T] | None:
        """The turn with text that was not flushed."""
        return self._open

    def text(self, text: str, state: T, fields: SpeechFields) -> list[ReadMessage]:
        """Return the messages for more text: none for white space before the first word, or after a failure.

        Args:
            text: the client's text.
            state: what the dialect keeps about the turn, if this text begins one.
            fields: the utterance's speech fields, if this text begins one.
        """
        turn = self._open
        if turn is not None:
            return [] if turn.failed else [_speak(turn, text)]
        if not text.strip():
            return []
        if self._full:
            return [_refusal()]
        self._open = self._begin(state)
        given = {name: getattr(fields, name) for name in SpeechFields.model_fields}
        return [_speak(self._open, text).model_copy(update=given)]

    def flush(self, state: T) -> list[ReadMessage]:
        """End the open turn, or an empty one with ``state``; return its messages. Call :meth:`answered` afterwards."""
        turn, self._open = self._open, None
        if turn is None:
            if self._full:
                return [_refusal()]
            turn = self._begin(state)
            turn.over = True
        turn.flushed = True
        return [] if turn.over else [_speak(turn, "", final=True)]

    def drop_text(self) -> str | None:
        """Forget the turn that was not flushed; return the id of its utterance, which has to be cancelled."""
        turn, self._open = self._open, None
        if turn is None:
            return None
        self._turns.remove(turn)
        return str(turn.number)

    def drop_all(self) -> None:
        """Forget all turns; their flushes are not answered."""
        self._turns.clear()
        self._open = None

    def named(self, utterance_id: str | None) -> Turn[T] | None:
        """Return the turn of an utterance; None if it is over, was dropped or never existed."""
        return next((turn for turn in self._turns if str(turn.number) == utterance_id and not turn.over), None)

    def answered(self) -> list[Turn[T]]:
        """Return the turns whose flush has to be answered now, and forget them."""
        due: list[Turn[T]] = []
        while self._turns and self._turns[0].flushed and self._turns[0].over:
            due.append(self._turns.popleft())
        return due

    @property
    def _full(self) -> bool:
        return len(self._turns) >= MAX_TURNS

    def _begin(self, state: T) -> Turn[T]:
        turn = Turn(self._next, state)
        self._next += 1
        self._turns.append(turn)
        return turn


def _speak(turn: Turn[T], text: str, *, final: bool = False) -> Speak:
    return Speak(text=text, utterance_id=str(turn.number), final=final)


def _refusal() -> Refusal:
    waiting = f"{MAX_TURNS} flushed texts of this session wait for their answer, which is the limit"
    return Refusal(CapacityError(waiting, retry_after_ms=TURNS_RETRY_MS))
