"""What a session has said and its client has not yet been sent; bounded by the session, emptied by a writer.

The session keeps it, not the socket, because barge-in takes back what has not left. No I/O.
"""

from collections import deque
from dataclasses import dataclass

from serve_app.audio.pcm import seconds
from serve_app.protocol.messages import ServerMessage, Transport


@dataclass(frozen=True, slots=True)
class Send:
    """One message, with the audio that belongs to it.

    Attributes:
        message: in the words of dialect B; a dialect translates it.
        payload: encoded audio of an ``audio_chunk``; None for every other message.
        transport: how the client wants ``payload``.
        encoding: of ``payload``.
        owner: number of the utterance that it is taken back with; 0 for what always goes out.
        samples: PCM samples of ``payload``.
        ends: number of the utterance that this is the end of; 0 for what ends none.
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
    """The last thing in an outbox: close the socket."""

    code: int
    reason: str


class Outbox:
    """A queue with the item under way at its head, and running totals of what is in it."""

    def __init__(self) -> None:
        self._waiting: deque[Send | Close] = deque()
        self._under_way: Send | None = None
        self.bytes = 0
        self.samples = 0

    def __len__(self) -> int:
        return len(self._waiting) + (self._under_way is not None)

    @property
    def audio_s(self) -> float:
        """Seconds of audio waiting or under way."""
        return seconds(self.samples)

    def put(self, item: Send | Close) -> None:
        """Append; nothing follows a :class:`Close`."""
        self._waiting.append(item)
        if isinstance(item, Send):
            self._count(item, 1)

    def take(self) -> Send | Close | None:
        """The next item, now under way until :meth:`sent`; None when there is none."""
        assert self._under_way is None, "one writer, one item at a time"
        if not self._waiting:
            return None
        item = self._waiting.popleft()
        if isinstance(item, Send):
            self._under_way = item
        return item

    def sent(self) -> None:
        """What was under way has left."""
        if self._under_way is not None:
            self._count(self._under_way, -1)
            self._under_way = None

    def take_back(self, owner: int) -> None:
        """Drop what waits for one utterance; what is under way cannot be stopped."""
        kept: deque[Send | Close] = deque()
        for item in self._waiting:
            if isinstance(item, Send) and item.owner == owner:
                self._count(item, -1)
            else:
                kept.append(item)
        self._waiting = kept

    def clear(self) -> None:
        """Drop all that waits."""
        while self._waiting:
            item = self._waiting.pop()
            if isinstance(item, Send):
                self._count(item, -1)

    def _count(self, item: Send, sign: int) -> None:
        self.samples += sign * item.samples
        self.bytes += sign * (len(item.payload) if item.payload is not None else 0)
