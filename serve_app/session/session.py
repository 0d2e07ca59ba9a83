"""One client's session as a state machine without I/O: it accepts messages and events, and returns calls and messages.

The caller owns the socket, the generator calls and the clock. It passes every message to :meth:`Session.receive` and
every event of a call to :meth:`Session.event`, and reports a call's end with :meth:`Session.ended`. It performs the
returned effects, and sends the items that :meth:`Session.take` returns, one at a time. Times are in seconds of any
monotonic clock. The session does not know its client's dialect.

Invariants, for any order of calls:

- at most one generator call runs or is being cancelled;
- utterances are spoken in the order of their first ``speak``, and their audio never interleaves;
- an utterance ends once, with ``complete``, ``cancelled`` or ``error``; none of its messages is sent after that;
- a completed utterance has exactly one audio chunk with ``final``, and it is the last one; after it was sent, the
  utterance can no longer be cancelled.
"""

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from serve_app.audio.pcm import milliseconds, seconds
from serve_app.config import SessionConfig, VoicesConfig, folded
from serve_app.errors import (
    CapacityError,
    InvalidMessageError,
    ServiceRestartError,
    SessionTimeoutError,
    SlowClientError,
    SpeechError,
    SynthesisError,
    TextEmptyError,
    TextTooLongError,
    WordTimesUnavailableError,
    error_of_code,
)
from serve_app.protocol.dialects import DialectRules
from serve_app.protocol.messages import (
    INLINE_VOICE,
    AudioMessage,
    Cancel,
    Cancelled,
    Flush,
    Limits,
    Preset,
    ReadMessage,
    Ready,
    Refusal,
    Reply,
    ServerMessage,
    Speak,
    SpeakBuffered,
    Start,
    Stop,
    Stopped,
    error_message,
)
from serve_app.protocol.outbox import Close, Outbox, Send
from serve_app.session.utterance import SeedSource, SpeechOptions, TextPipeline, Utterance
from serve_app.speech import AudioChunk, SpeechEnd, SpeechEvent, SpeechRequest, VoiceClip
from serve_app.voices.voice import VoiceStatus, check_voice, resolve_voice

MAX_WAITING_MESSAGES = 4096
"""Maximum number of unsent messages of a client that does not read."""

MAX_RETIRED_IDS = 64
"""Maximum number of remembered ids of utterances that ended before their last ``speak``."""

CAPACITY_RETRY_MS = 2000
"""When to retry if a session's queue of utterances is full."""


@dataclass(frozen=True, slots=True)
class Call:
    """Effect: start a generator call; the previous one has been reported as ended.

    Attributes:
        call_id: its number in this session.
        request: the text chunk and how to speak it.
        utterance_id: the utterance of the text chunk.
        needed_by_s: when the listener will have played all audio generated so far.
        asked_s: when the client requested the utterance.
    """

    call_id: int
    request: SpeechRequest
    utterance_id: str
    needed_by_s: float
    asked_s: float


@dataclass(frozen=True, slots=True)
class CancelCall:
    """Effect: cancel a generator call; its end is reported like that of any other call."""

    call_id: int


Effect = Call | CancelCall


def _free(now_s: float) -> None:
    """Count nothing: the default for sessions without rate limits."""
    del now_s


def _alone(buffered_s: float) -> float:
    """Return the audio of a response that has only one session: the default for sessions without a batch."""
    return buffered_s


@dataclass(frozen=True, slots=True)
class SessionSetup:
    """The parameters of a new session.

    Attributes:
        session_id: its id in logs and in ``ready``.
        options: the default speech options, until a ``start`` changes them.
        limits: its limits.
        voices: the voices by id; the caller may update the mapping. If it is empty, the voices are unknown, and the
            generator checks a request's voice.
        naming: aliases of voices, and the default voice.
        new_seed: see :data:`serve_app.session.utterance.SeedSource`.
        text: how text is cleaned and cut.
        rules: how the client's dialect differs from others.
        spend: called with the time in seconds for each new utterance, to count it against the client's rate limits;
            raises a :class:`SpeechError` if it exceeds one.
        response_s: called with the seconds of audio that an utterance has buffered; returns the seconds of the whole
            response, which several sessions may share.
    """

    session_id: str
    options: SpeechOptions
    limits: SessionConfig
    voices: Mapping[str, VoiceStatus]
    new_seed: SeedSource
    text: TextPipeline = field(default_factory=TextPipeline)
    rules: DialectRules = field(default_factory=DialectRules)
    naming: VoicesConfig = field(default_factory=VoicesConfig)
    spend: Callable[[float], None] = _free
    response_s: Callable[[float], float] = _alone


@dataclass(frozen=True, slots=True)
class Drain:
    """How a session ends when its replica is being replaced.

    Attributes:
        from_s: from this time on, the session ends as soon as it is idle; until then, the client's first message may
            still be in transit.
        until_s: at this time the session ends in any case.
        retry_after_ms: when the client should connect again.
    """

    from_s: float
    until_s: float
    retry_after_ms: int


@dataclass(frozen=True, slots=True)
class InlineVoice:
    """A ``start`` with ``voice_audio`` that was decoded and checked.

    Attributes:
        start: the client's message.
        clip: the voice.
    """

    start: Start
    clip: VoiceClip


@dataclass(slots=True)
class _Running:
    """The call in flight. ``utterance`` is None if the rest of the call is no longer needed."""

    call_id: int
    utterance: Utterance | None
    started_s: float


class Session:
    """The state machine of one session; the module's docstring lists its invariants.

    Attributes:
        setup: its parameters.
        close: if not None, the session accepts nothing more, and this is the last item of its outbox.
    """

    def __init__(self, setup: SessionSetup, now_s: float) -> None:
        self.setup = setup
        self.close: Close | None = None
        self._options = setup.options
        self._inline_voice: VoiceClip | None = None
        self._outbox = Outbox()
        self._queue: deque[Utterance | Refusal] = deque()
        self._leaving: dict[int, Utterance] = {}
        self._asked_s: dict[int, float] = {}
        self._retired: deque[str] = deque(maxlen=MAX_RETIRED_IDS)
        self._running: _Running | None = None
        self._effects: list[Effect] = []
        self._stopping = False
        self._drain: Drain | None = None
        self._utterances = 0
        self._calls = 0
        self._now_s = now_s
        self._active_s = now_s
        self._progress_s = now_s
        self._plays_until_s = now_s
        self._start_refused = False
        self._heard_last = ""  # the id of the utterance whose audio the client plays last
        self._said_no_words = False

    # State for the caller.

    @property
    def paused(self) -> bool:
        """Whether so much audio is unsent that the caller must not read more from the generator."""
        limits = self.setup.limits
        return self._outbox.audio_s >= limits.max_unsent_audio_s or self._outbox.bytes >= limits.max_unsent_bytes

    @property
    def next_deadline_s(self) -> float:
        """When :meth:`tick` must be called next, unless another method is called before."""
        return min(self._idle_at_s, self._slow_at_s, self._call_at_s, self._drained_at_s)

    # Events from the caller.

    def receive(self, message: ReadMessage | InlineVoice, now_s: float) -> list[Effect]:
        """Handle one message of the client."""
        self._now_s = self._active_s = now_s
        if self.close is None:
            self._handle(message)
        return self._settled()

    def event(self, call_id: int, event: SpeechEvent, now_s: float) -> list[Effect]:
        """Handle an event of a call; events of a cancelled call are dropped."""
        self._now_s = self._active_s = now_s
        running = self._running
        if running is None or running.call_id != call_id or running.utterance is None:
            return []
        if isinstance(event, AudioChunk):
            self._take_audio(running.utterance, event)
        else:
            self._take_end(running, running.utterance, event)
        return self._settled()

    def failed(self, call_id: int, error: SpeechError, now_s: float) -> list[Effect]:
        """Handle the failure of a call: its utterance ends with ``error``. :meth:`ended` still has to follow."""
        self._now_s = self._active_s = now_s
        running = self._running
        if running is not None and running.call_id == call_id and running.utterance is not None:
            utterance, running.utterance = running.utterance, None
            self._fail(utterance, error)
        return self._settled()

    def ended(self, call_id: int, now_s: float) -> list[Effect]:
        """Handle the end of a call, for any reason: its stream is closed and the next call may start."""
        self._now_s = self._active_s = now_s
        running = self._running
        if running is None or running.call_id != call_id:
            return []
        self._running = None
        if running.utterance is not None:
            self._fail(running.utterance, SynthesisError("the generator's stream ended unexpectedly"))
        return self._settled()

    def tick(self, now_s: float) -> list[Effect]:
        """Do what is due: end an idle or drained session or one whose client does not read, or start the next call."""
        self._now_s = now_s
        limits = self.setup.limits
        if now_s >= self._slow_at_s:
            waited = f"{limits.slow_client_timeout_s:g} s"
            self._end(SlowClientError(f"the client read nothing for {waited}; its pending audio was dropped"))
        elif now_s >= self._idle_at_s:
            self._end(SessionTimeoutError(f"no message for {limits.idle_timeout_s:g} s"))
        return self._settled()

    def drain(self, drain: Drain, now_s: float) -> list[Effect]:
        """Begin to drain the session: the queued utterances are finished, then the session ends."""
        self._now_s = now_s
        self._drain = drain
        return self._settled()

    def take(self, now_s: float) -> Send | Close | None:
        """Return the next item to send; the caller must call :meth:`sent` before it takes another."""
        self._now_s = now_s
        item = self._outbox.take()
        if isinstance(item, Send):
            self._account(item)
        return item

    def sent(self, now_s: float) -> list[Effect]:
        """Record that the taken item was sent."""
        self._outbox.sent()
        self._now_s = self._active_s = self._progress_s = now_s
        return self._settled()

    # Messages.

    def _handle(self, message: ReadMessage | InlineVoice) -> None:
        match message:
            case InlineVoice():
                self._set_inline_voice(message)
            case Refusal(of_start=True):
                self._refuse_start(message.error)
            case Refusal():
                self._refuse(message.error, message.utterance_id, final=message.final)
            case Reply():
                self._send(message.message)
            case Start():
                self._start(message)
            case Speak():
                self._speak(message)
            case Flush():
                self._flush(message)
            case Cancel():
                self._cancel(message)
            case Stop():
                self._stop()

    def _set_inline_voice(self, message: InlineVoice) -> None:
        """Set the inline voice; a session may have only one, so that its memory is bounded."""
        if message.start.voice not in (None, INLINE_VOICE):
            both = f"voice {message.start.voice!r} and voice_audio are both given; allowed: one of them"
            self._refuse_start(InvalidMessageError(both))
        elif self._inline_voice is not None and self._inline_voice.digest != message.clip.digest:
            another = "this session already has another inline voice"
            self._refuse_start(InvalidMessageError(f"{another}; allowed: that one, as voice {INLINE_VOICE!r}"))
        else:
            self._inline_voice = message.clip
            self._start(message.start.model_copy(update={"voice": INLINE_VOICE}))

    def _start(self, message: Start) -> None:
        try:
            self._options = self._checked(message)
        except SpeechError as error:
            self._refuse_start(error)
            return
        self._start_refused = False
        if isinstance(message, Preset):
            return
        limits = self.setup.limits
        self._send(
            Ready(
                session_id=self.setup.session_id,
                voice=self._options.voice,
                language=self._options.language,
                encoding=self._options.encoding,
                sample_rate=self._options.sample_rate,
                transport=self._options.transport,
                normalize=self._options.normalize,
                prompt=self._options.prompt,
                speed=self._options.speed,
                words=self._options.words,
                limits=Limits(
                    max_text_characters=limits.max_text_characters,
                    max_utterance_characters=limits.max_utterance_characters,
                    max_queued_utterances=limits.max_queued_utterances,
                    max_message_bytes=limits.max_message_bytes,
                    idle_timeout_s=limits.idle_timeout_s,
                ),
            )
        )

    def _refuse_start(self, error: SpeechError) -> None:
        self._start_refused = True
        self._send_error(error)

    def _speak(self, message: Speak) -> None:
        utterance = self._queued(message.utterance_id)
        try:
            if utterance is None:
                self._begin(message)
            elif utterance.open:
                self._append(utterance, message)
            else:
                closed = f"utterance {message.utterance_id!r} had its final speak and is still being spoken"
                self._send_error(InvalidMessageError(f"{closed}; allowed: another utterance_id, or wait for its end"))
        except SpeechError as error:
            if utterance is None:
                self._refuse(error, message.utterance_id, final=message.final)
            else:
                utterance.open = utterance.open and not message.final
                self._fail(utterance, error)

    def _begin(self, message: Speak) -> None:
        self._check_beginning(message)
        options = self._of_voice(self._checked(message))
        if options.seed is None:
            options = replace(options, seed=self.setup.new_seed())
        number = self._utterances + 1
        utterance = Utterance(
            number,
            message.utterance_id or self._made_up_id(number),
            options,
            self.setup.text.open(options.language),
            whole=isinstance(message, SpeakBuffered),
            limits=self.setup.limits,
        )
        self._take_text(utterance, message)
        self.setup.spend(self._now_s)
        self._utterances = number
        self._asked_s[number] = self._now_s
        self._queue.append(utterance)

    def _check_beginning(self, message: Speak) -> None:
        """Raise an error if an utterance may not begin now."""
        limits = self.setup.limits
        if self._stopping:
            raise InvalidMessageError("the session is stopping; allowed: cancel")
        if self._start_refused and self.setup.rules.stops_at_refused_start:
            raise InvalidMessageError("the session's last configuration was refused; allowed: a valid one first")
        if message.utterance_id in self._retired:
            if message.final:
                self._retired.remove(message.utterance_id)
            ended = f"utterance {message.utterance_id!r} ended before its final speak; this text of it is dropped"
            raise InvalidMessageError(f"{ended}; allowed: another utterance_id")
        if not message.final and message.utterance_id is None:
            raise InvalidMessageError("final: false needs an utterance_id, so that later speaks can append to it")
        if len(self._queue) >= limits.max_queued_utterances:
            waiting = (
                f"{len(self._queue)} utterances are queued on this session; the limit is {limits.max_queued_utterances}"
            )
            raise CapacityError(waiting, retry_after_ms=CAPACITY_RETRY_MS)

    def _append(self, utterance: Utterance, message: Speak) -> None:
        options = utterance.options.with_fields(message)
        if (options if message.voice is None else self._resolved(options)) != utterance.options:
            given = ", ".join(sorted(message.model_fields_set - {"type", "text", "utterance_id", "final"}))
            fixed = f"the first speak of utterance {utterance.utterance_id!r} fixes its options; given again: {given}"
            raise InvalidMessageError(f"{fixed}; allowed: the same values, or none")
        self._take_text(utterance, message)

    def _take_text(self, utterance: Utterance, message: Speak) -> None:
        limits = self.setup.limits
        characters = len(message.text)
        if characters > limits.max_text_characters:
            raise TextTooLongError(f"text has {characters} characters; the limit is {limits.max_text_characters}")
        if utterance.characters + characters > limits.max_utterance_characters:
            total = utterance.characters + characters
            raise TextTooLongError(
                f"the utterance has {total} characters; the limit is {limits.max_utterance_characters}"
            )
        utterance.add(message.text)
        if message.final:
            utterance.close()
            if utterance.blank:
                given = "is empty" if not utterance.characters else "is only white space"
                raise TextEmptyError(f"text {given}; allowed: 1 to {limits.max_text_characters} characters")

    def _flush(self, message: Flush) -> None:
        named = [
            item
            for item in self._queue
            if isinstance(item, Utterance) and message.utterance_id in (None, item.utterance_id)
        ]
        if message.utterance_id is not None and not named and not self._is_leaving(message.utterance_id):
            unknown = f"no utterance {message.utterance_id!r} is queued; allowed: one that has not ended"
            self._send_error(InvalidMessageError(unknown), message.utterance_id)
        for utterance in named:
            if utterance.open:
                utterance.flush()

    def _cancel(self, message: Cancel) -> None:
        for item in [*self._leaving.values(), *self._queue]:
            if isinstance(item, Refusal):
                if message.utterance_id is None:
                    self._queue.remove(item)
                    self._send_error(item.error)
            elif message.utterance_id in (None, item.utterance_id):
                self._cancel_utterance(item)
        if message.utterance_id in (None, self._heard_last):
            self._plays_until_s = self._now_s  # even if all of its audio was sent before: the client drops it

    def _cancel_utterance(self, utterance: Utterance) -> None:
        self._outbox.revoke(utterance.number)
        if utterance.failed:
            return
        self._drop(utterance)
        self._leaving.pop(utterance.number, None)
        self._send(
            Cancelled(
                utterance_id=utterance.utterance_id,
                duration_ms=milliseconds(utterance.sent_samples),
                heard_text=utterance.heard_text(self._now_s),
            )
        )

    def _stop(self) -> None:
        self._stopping = True
        for item in list(self._queue):
            if isinstance(item, Utterance) and item.open:
                item.close()
                if item.blank:
                    self._fail(item, TextEmptyError("the utterance was stopped before it had text"))

    # Calls.

    def _take_audio(self, utterance: Utterance, chunk: AudioChunk) -> None:
        if utterance.options.words and chunk.spoken is None and not self._said_no_words:
            self._said_no_words = True
            self._send_error(
                WordTimesUnavailableError("the loaded model has no word times; the text is spoken without them")
            )
        self._put_audio(utterance, utterance.audio(chunk, self._now_s))

    def _take_pause(self, utterance: Utterance) -> None:
        """Queue the audio of a pause, which needs no generator."""
        self._put_audio(utterance, utterance.pause(self._now_s))

    def _put_audio(self, utterance: Utterance, sends: list[Send]) -> None:
        for send in sends:
            self._put(send)
        if sends:
            samples = sum(send.samples for send in sends)
            self._plays_until_s = max(self._plays_until_s, self._now_s) + seconds(samples)
            utterance.plays_until_s = self._plays_until_s
            self._heard_last = utterance.utterance_id
        if utterance.whole:
            self._check_buffered(utterance)

    def _check_buffered(self, utterance: Utterance) -> None:
        """Fail a buffered utterance if its audio, or that of all texts of its response, is too long."""
        limit_s, own_s = self.setup.limits.max_whole_audio_s, seconds(utterance.timeline.samples)
        if own_s > limit_s:
            too_long = f"the audio is longer than {limit_s:g} s, the limit for buffered audio"
            self._fail(utterance, TextTooLongError(f"{too_long}; allowed: less text, or stream: true"))
        elif self.setup.response_s(own_s) > limit_s:
            too_long = f"the audio of all texts together is longer than {limit_s:g} s, the limit of one response"
            self._fail(utterance, TextTooLongError(f"{too_long}; allowed: this text in another request"))

    def _take_end(self, running: _Running, utterance: Utterance, end: SpeechEnd) -> None:
        running.utterance = None
        if end.finish_reason == "error":
            message = end.message or "the generator failed"
            self._fail(utterance, error_of_code(end.code or "", message, end.retry_after_ms))
        elif end.finish_reason == "cancelled":
            self._fail(utterance, SynthesisError("the generator dropped the stream"))
        else:
            generation_s = self._generation_s(running, end)
            self._put_audio(utterance, utterance.ended(end, generation_s, self._now_s))

    def _generation_s(self, running: _Running, end: SpeechEnd) -> float:
        """Return the seconds that the generator worked on a call: its own measurement, if it reports one."""
        timings_s = end.timings_s
        if "total" not in timings_s:
            return self._now_s - running.started_s
        return timings_s["total"] - timings_s.get("queue", 0.0) - timings_s.get("paused", 0.0)

    def _fail(self, utterance: Utterance, error: SpeechError) -> None:
        """End an utterance with ``error``, after the audio that still waits to be sent."""
        utterance.failed = True
        self._drop(utterance)
        self._leaving[utterance.number] = utterance
        self._send_error(error, utterance.utterance_id, ends=utterance.number)

    def _drop(self, utterance: Utterance) -> None:
        """Remove an utterance from the queue and cancel its call."""
        if utterance in self._queue:
            self._queue.remove(utterance)
        self._asked_s.pop(utterance.number, None)
        if utterance.open:
            self._retired.append(utterance.utterance_id)
        if self._running is not None and self._running.utterance is utterance:
            self._running.utterance = None
            self._effects.append(CancelCall(self._running.call_id))

    # The queue.

    def _settled(self) -> list[Effect]:
        """Advance the queue as far as possible; return all effects since the last call."""
        if len(self._outbox) > MAX_WAITING_MESSAGES and self.close is None:
            self._end(SlowClientError(f"the client left {MAX_WAITING_MESSAGES} messages unread"))
        while self._queue and self.close is None and self._advance(self._queue[0]):
            pass
        if self._stopping and self.close is None and not self._queue and not self._leaving:
            self._send(Stopped())
            self._close(1000, "stopped")
        if self._drain is not None and self._now_s >= self._drained_at_s:
            self._end_drained(self._drain)
        effects, self._effects = self._effects, []
        return effects

    def _advance(self, head: Utterance | Refusal) -> bool:
        """Do the next step for the head of the queue; return whether there is more to do at once."""
        if isinstance(head, Refusal):
            self._queue.popleft()
            self._send_error(head.error)
            return True
        if head.has_text:
            return self._running is None and self._now_s >= self._begins_at_s(head) and not self._call(head)
        if head.has_pause:
            if self._running is not None or self.paused or self._now_s < self._begins_at_s(head):
                return False
            self._take_pause(head)
            return True
        speaking = self._running is not None and self._running.utterance is head
        if speaking or head.open:
            return False
        self._queue.popleft()
        self._leaving[head.number] = head
        for send in head.finish(self._asked_s.pop(head.number)):
            self._put(send)
        return True

    def _call(self, utterance: Utterance) -> bool:
        """Start the call for the next text chunk; return whether it was started. If not, the utterance has failed."""
        try:
            request = utterance.next_request(self.setup.text)
        except SpeechError as error:
            self._fail(utterance, error)
            return False
        self._calls += 1
        self._running = _Running(self._calls, utterance, self._now_s)
        needed_by_s = max(self._now_s, self._plays_until_s)
        if request.voice == INLINE_VOICE and self._inline_voice is not None:
            request = replace(request, clip=self._inline_voice)
        asked_s = self._asked_s[utterance.number]
        self._effects.append(Call(self._calls, request, utterance.utterance_id, needed_by_s, asked_s))
        return True

    def _refuse(self, error: SpeechError, utterance_id: str | None, *, final: bool | None = None) -> None:
        """Answer a refused message; if it was more text of an open utterance, that utterance fails.

        Args:
            error: the error.
            utterance_id: the utterance of the message, if it has one.
            final: of a ``speak``, whether it is the last one of its utterance; later text of others is refused too.
        """
        utterance = self._queued(utterance_id)
        if utterance is not None and utterance.open:
            utterance.open = final is not True
            self._fail(utterance, error)
        elif utterance is not None:
            self._send_error(error)
        elif self.setup.rules.errors_in_order and self._queue:
            self._queue.append(Refusal(error))
            if len(self._queue) > 2 * self.setup.limits.max_queued_utterances:
                self._end(
                    CapacityError("too many requests are pending on this session", retry_after_ms=CAPACITY_RETRY_MS)
                )
        elif utterance_id is not None and self._is_leaving(utterance_id):
            self._send_error(error)  # without the id, since the utterance has its end already
        else:
            self._send_error(error, utterance_id)
        if utterance is None and final is False and utterance_id not in (None, *self._retired):
            self._retired.append(utterance_id)

    def _is_leaving(self, utterance_id: str) -> bool:
        """Whether an utterance is complete, but some of its audio is not sent yet."""
        return any(each.utterance_id == utterance_id and not each.failed for each in self._leaving.values())

    def _queued(self, utterance_id: str | None) -> Utterance | None:
        if utterance_id is None:
            return None
        for item in self._queue:
            if isinstance(item, Utterance) and item.utterance_id == utterance_id:
                return item
        return None

    def _made_up_id(self, number: int) -> str:
        name = f"utterance-{number}"
        while self._queued(name) is not None:
            name += "'"
        return name

    def _checked(self, fields: Start | Speak) -> SpeechOptions:
        """Return the default options with a message's fields.

        Raises:
            VoiceNotFoundError: the voice is unknown or unavailable.
        """
        options = self._resolved(self._options.with_fields(fields))
        named = isinstance(fields, Speak) or fields.voice is not None
        if named and not self._is_inline(options.voice):
            check_voice(options.voice, self.setup.voices)
        return options

    def _of_voice(self, options: SpeechOptions) -> SpeechOptions:
        """Return the options with the loudness of the voice, and with its layout if the client did not choose one.

        Both come from the voice's manifest. Without a loudness there, the configured one is used.
        """
        status = None if self._is_inline(options.voice) else self.setup.voices.get(options.voice)
        manifest = None if status is None else status.manifest
        lufs = self.setup.naming.loudness_lufs
        if manifest is None:
            return replace(options, loudness_lufs=lufs)
        if manifest.loudness_lufs is not None:
            lufs = manifest.loudness_lufs
        return replace(options, prompt=options.prompt or manifest.prompt, loudness_lufs=lufs)

    def _resolved(self, options: SpeechOptions) -> SpeechOptions:
        """Return the options with the voice's name replaced by its id; an unknown name stays as it is."""
        if self._is_inline(options.voice):
            return replace(options, voice=INLINE_VOICE)
        return replace(
            options, voice=resolve_voice(options.voice, self.setup.voices, self.setup.naming) or options.voice
        )

    def _is_inline(self, voice: str) -> bool:
        return self._inline_voice is not None and folded(voice) == INLINE_VOICE

    # The outbox and the clock.

    def _send(self, message: ServerMessage) -> None:
        self._put(Send(message))

    def _send_error(self, error: SpeechError, utterance_id: str | None = None, *, ends: int = 0) -> None:
        self._put(Send(error_message(error, utterance_id), ends=ends))

    def _put(self, item: Send | Close) -> None:
        if len(self._outbox) == 0:
            self._progress_s = self._now_s
        self._outbox.put(item)

    def _account(self, item: Send) -> None:
        """Update the state of an utterance when one of its items is about to be sent."""
        owner = self._leaving.get(item.owner)
        if owner is None:
            owner = next((u for u in self._queue if isinstance(u, Utterance) and u.number == item.owner), None)
        if owner is not None:
            owner.sent_samples += item.samples
        self._leaving.pop(item.ends, None)
        if isinstance(item.message, AudioMessage) and item.message.final:
            self._leaving.pop(item.owner, None)  # only its ``complete`` is left, which a cancel does not revoke

    def _end(self, error: SpeechError) -> None:
        """Close the session with ``error``: drop the queue and the outbox, send the error, and cancel the call."""
        if self._running is not None and self._running.utterance is not None:
            self._running.utterance = None
            self._effects.append(CancelCall(self._running.call_id))
        self._queue.clear()
        self._leaving.clear()
        self._outbox.clear()
        self._send(error_message(error, fatal=True))
        self._close(error.close_code or 1011, error.code)

    def _end_drained(self, drain: Drain) -> None:
        lost = "; then request unfinished utterances again, with the same seed" if self._busy else ""
        error = f"this server is being replaced; connect again{lost}"
        self._end(ServiceRestartError(error, retry_after_ms=drain.retry_after_ms))

    def _close(self, code: int, reason: str) -> None:
        self.close = Close(code, reason)
        self._put(self.close)

    def _begins_at_s(self, utterance: Utterance) -> float:
        """Return when the next text chunk or pause may begin: when the listener has little audio left to play.

        The first one may begin at once, because the client may have stopped playing the previous utterance.
        """
        if utterance.whole or not utterance.begun:
            return -math.inf
        return self._plays_until_s - self.setup.limits.max_lead_s

    @property
    def _call_at_s(self) -> float:
        head = self._queue[0] if self._queue else None
        if self.close is not None or self._running is not None or not isinstance(head, Utterance):
            return math.inf
        due = head.has_text or (head.has_pause and not self.paused)
        return self._begins_at_s(head) if due else math.inf

    @property
    def _idle_at_s(self) -> float:
        if self.close is not None or self._running is not None or len(self._outbox) or self._call_at_s < math.inf:
            return math.inf
        return self._active_s + self.setup.limits.idle_timeout_s

    @property
    def _busy(self) -> bool:
        """Whether anything is left to speak or to send."""
        return bool(self._queue or self._leaving or self._running is not None or len(self._outbox))

    @property
    def _drained_at_s(self) -> float:
        if self.close is not None or self._drain is None:
            return math.inf
        return self._drain.until_s if self._busy else self._drain.from_s

    @property
    def _slow_at_s(self) -> float:
        if self.close is not None or not len(self._outbox):
            return math.inf
        return self._progress_s + self.setup.limits.slow_client_timeout_s
