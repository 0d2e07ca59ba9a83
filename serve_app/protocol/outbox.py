"""The outbox: messages of a session that have not been sent yet. The session limits it, and a writer empties it.

It belongs to the session and not to the socket, because a cancel (barge-in) revokes messages that have not been sent.
No I/O.
"""

from collections import deque
from dataclasses import dataclass

from serve_app.audio.pcm import seconds
from serve_app.protocol.messages import ServerMessage, Transport


@dataclass(frozen=True, slots=True)
class Send:
    """One message and its audio.

    Attributes:
        message: a message of dialect B, which the other dialects translate.
        payload: encoded audio of an ``audio_chunk``; None for every other message.
        transport: how the client wants ``payload``.
        encoding: the encoding of ``payload``.
        owner: number of the utterance whose cancel revokes this message; 0 if the message is always sent.
        samples: number of PCM samples in ``payload``.
        ends: number of the utterance that this message ends; 0 if it does not end one.
    """

    message: ServerMessage
    payload: bytes | None = None
    transport: Transport = "binary"
    owner: int = 0
    samples: int = 0
    ends: int = 0
    encoding: str = ""


@dataclass(frozen=True, slots=True)
class Close:
    """The last item of an outbox: close the socket."""

    code: int
    reason: str


class Outbox:
    """A queue of messages, the message that is being sent, and their total size."""

    def __init__(self) -> None:
        self._waiting: deque[Send | Close] = deque()
        self._under_way: Send | None = None
        self.bytes = 0
        self.samples = 0

    def __len__(self) -> int:
        return len(self._waiting) + (self._under_way is not None)

    @property
    def audio_s(self) -> float:
        """Seconds of audio that wait or are being sent."""
        return seconds(self.samples)

    def put(self, item: Send | Close) -> None:
        """Append an item; no item may follow a :class:`Close`."""
        self._waiting.append(item)
        if isinstance(item, Send):
            self._count(item, 1)

    def take(self) -> Send | Close | None:
        """Return the next item, which counts as being sent until :meth:`sent`; None if the outbox is empty."""
        assert self._under_way is None, "one writer, one item at a time"
        if not self._waiting:
            return None
        item = self._waiting.popleft()
        if isinstance(item, Send):
            self._under_way = item
        return item

    def sent(self) -> None:
        """Record that the item was sent."""
        if self._under_way is not None:
            self._count(self._under_way, -1)
            self._under_way = None

    def revoke(self, owner: int) -> None:
        """Drop the waiting messages of one utterance; a message that is being sent cannot be stopped."""
        kept: deque[Send | Close] = deque()
        for item in self._waiting:
            if isinstance(item, Send) and item.owner == owner:
                self._count(item, -1)
            else:
                kept.append(item)
        self._waiting = kept

    def clear(self) -> None:
        """Drop all waiting messages."""
        while self._waiting:
            item = self._waiting.pop()
            if isinstance(item, Send):
                self._count(item, -1)

    def _count(self, item: Send, sign: int) -> None:
        self.samples += sign * item.samples
        self.bytes += sign * (len(item.payload) if item.payload is not None else 0)
