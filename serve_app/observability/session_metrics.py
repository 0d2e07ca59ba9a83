"""Metrics of one session: time to first audio, underruns, and how each utterance ended.

The session runner reports each event with its time, and this module records the results with a
:class:`serve_app.observability.metrics.Recorder`. Playback is an estimate, since the server does not see the client's
player: it assumes that playback starts with the first audio, without a buffer. No I/O.
"""

from collections import Counter
from dataclasses import dataclass

from serve_app.audio.pcm import seconds
from serve_app.cluster.admission import Backlog
from serve_app.errors import SpeechError, SynthesisError
from serve_app.observability import metrics
from serve_app.observability.metrics import Recorder
from serve_app.protocol.messages import AudioMessage, Cancelled, Complete, ErrorMessage
from serve_app.protocol.outbox import Send
from serve_app.session.session import Call
from serve_app.speech import AudioChunk, SpeechEvent

INTERNAL_ERROR = 1011
"""Close code of a session that failed with an internal error."""

ENDS = ("eos", "length", "stalled", "cancelled", "error", "disconnected")
"""All the ways in which an utterance can end."""

GONE = "gone"
"""Label value instead of a close code: the client disconnected without one."""


@dataclass(slots=True)
class _Playing:
    """One utterance, from its first generator call to its end.

    Attributes:
        asked_s: when its first text could be spoken; None once its first audio was sent.
        parts_s: known parts of the time to first audio, in seconds.
        plays_until_s: when its listener has played all audio sent so far; None before the first audio, and if the
            client sent the next text only after that time.
        had_underrun: whether playback ran out of audio at least once.
    """

    asked_s: float | None
    parts_s: dict[str, float]
    plays_until_s: float | None = None
    had_underrun: bool = False


class IngressMetrics:
    """Shared by all sessions of one ingress replica: the recorder, and the number of open sessions."""

    def __init__(self, recorder: Recorder) -> None:
        """Export the counters that alerts watch as 0, before the first event."""
        self.recorder = recorder
        self._open: Counter[str] = Counter()
        for error in SpeechError.__subclasses__():
            recorder.add(metrics.ERRORS, 0, code=error.code)
        for reason in ENDS:
            recorder.add(metrics.UTTERANCES, 0, finish_reason=reason)
        for metric in (metrics.UTTERANCES_UNDERRUN, metrics.UNDERRUNS, metrics.UNDERRUN_SECONDS):
            recorder.add(metric, 0)
        for outcome in ("resumed", "resumed_otherwise", "given_up"):
            recorder.add(metrics.STREAMS_RESUMED, 0, outcome=outcome)

    def count(self, dialect: str, change: int) -> None:
        """Change the number of open sessions by ``change``."""
        self._open[dialect] += change

    def now(self, backlog: Backlog) -> None:
        """Record the current state. Called every second, since Ray soon stops exporting a gauge that is not updated."""
        for dialect, sessions in self._open.items():
            self.recorder.set(metrics.SESSIONS, sessions, dialect=dialect)
        self.recorder.set(metrics.CHUNKS_RUNNING, backlog.running)
        self.recorder.set(metrics.CHUNKS_WAITING, backlog.waiting + backlog.blocked)

    def refused(self, error: SpeechError) -> None:
        """A client without a session received an error."""
        self.recorder.add(metrics.ERRORS, code=error.code)


class SessionMetrics:
    """Metrics of one session. Utterances are known by their ids, which are unique among open ones in a session.

    Attributes:
        dialect: the client's dialect.
    """

    def __init__(self, ingress: IngressMetrics, dialect: str, encoding: str | None = None) -> None:
        """Record with ``ingress``; ``encoding`` is that of the audio sent, if it differs from the session's."""
        self.dialect = dialect
        self._ingress = ingress
        self._record = ingress.recorder
        self._encoding = encoding
        self._playing: dict[str, _Playing] = {}

    def opened(self) -> None:
        """The session begins; it ends with :meth:`closed`."""
        self._record.add(metrics.SESSIONS_OPENED, dialect=self.dialect)
        self._ingress.count(self.dialect, 1)

    def called(self, call: Call, now_s: float) -> None:
        """The session requests that a text chunk be spoken."""
        self._record.add(metrics.TEXT_CHARACTERS, len(call.request.text))
        playing = self._playing.get(call.utterance_id)
        if playing is None:
            # TTFA counts from here: before this, the client may still be writing, or another utterance may be playing.
            asked_s = now_s if call.request.listening else None
            self._playing[call.utterance_id] = _Playing(asked_s, {})
        elif playing.plays_until_s is not None and playing.plays_until_s < now_s:
            # The client sent this text only after it had played everything: the service did not cause the silence.
            playing.plays_until_s = None

    def admitted(self, call: Call, now_s: float) -> None:
        """The text chunk was admitted and may go to a generator."""
        playing = self._playing.get(call.utterance_id)
        if playing is not None and playing.asked_s is not None:
            playing.parts_s["queue"] = now_s - playing.asked_s

    def received(self, call: Call, event: SpeechEvent) -> None:
        """A generator yields an event; the first audio carries its timings."""
        playing = self._playing.get(call.utterance_id)
        if playing is None or playing.asked_s is None or not isinstance(event, AudioChunk):
            return
        for part, part_s in event.timings_s.items():
            playing.parts_s[part] = playing.parts_s.get(part, 0.0) + part_s

    def sent(self, item: Send, sent_bytes: int, now_s: float) -> None:
        """One item was sent, as this many bytes."""
        match item.message:
            case AudioMessage() as audio:
                self._sent_audio(item, audio, sent_bytes, now_s)
            case Complete() as done:
                self._ended(done.utterance_id, done.finish_reason)
                if done.duration_ms:
                    self._record.observe(metrics.RTF, done.rtf)
                if done.audible_ms is not None:
                    self._record.observe(metrics.LEADING_SILENCE_SECONDS, (done.audible_ms - done.ttfa_ms) / 1000)
            case Cancelled() as done:
                self._ended(done.utterance_id, "cancelled")
            case ErrorMessage() as error:
                self._record.add(metrics.ERRORS, code=error.code)
                if item.ends and error.utterance_id is not None:
                    self._ended(error.utterance_id, "error")
            case _:
                pass

    def closed(self, code: int | None) -> None:
        """The session is over. Utterances in progress count as disconnected, or as errors if the code is 1011."""
        failed = code == INTERNAL_ERROR
        if failed:
            self._ingress.refused(SynthesisError("internal error"))
        for utterance_id in list(self._playing):
            self._ended(utterance_id, "error" if failed else "disconnected")
        self._record.add(metrics.SESSIONS_CLOSED, code=GONE if code is None else str(code))
        self._ingress.count(self.dialect, -1)

    def _sent_audio(self, item: Send, audio: AudioMessage, sent_bytes: int, now_s: float) -> None:
        encoding = self._encoding or item.encoding
        audio_s = seconds(item.samples)
        self._record.add(metrics.AUDIO_SECONDS, audio_s, encoding=encoding)
        self._record.add(metrics.AUDIO_BYTES, sent_bytes, encoding=encoding)
        playing = self._playing.get(audio.utterance_id)
        if playing is None or not item.samples:
            return
        if playing.asked_s is not None:
            self._first_audio(now_s - playing.asked_s, playing.parts_s)
            playing.asked_s = None
        if playing.plays_until_s is None:
            playing.plays_until_s = now_s + audio_s
        else:
            slack_s = playing.plays_until_s - now_s
            self._record.observe(metrics.SLACK_SECONDS, max(0.0, slack_s))
            if slack_s < 0:
                playing.had_underrun = True
                self._record.add(metrics.UNDERRUNS)
                self._record.add(metrics.UNDERRUN_SECONDS, -slack_s)
            playing.plays_until_s = max(playing.plays_until_s, now_s) + audio_s

    def _first_audio(self, ttfa_s: float, parts_s: dict[str, float]) -> None:
        """Time that no part accounts for is transport: between processes, in event loops and in the socket."""
        self._record.observe(metrics.TTFA_SECONDS, ttfa_s)
        transport_s = max(0.0, ttfa_s - sum(parts_s.values()))
        for part, part_s in {**parts_s, "transport": transport_s}.items():
            self._record.observe(metrics.TTFA_PART_SECONDS, part_s, part=part)

    def _ended(self, utterance_id: str, reason: str) -> None:
        self._record.add(metrics.UTTERANCES, finish_reason=reason)
        playing = self._playing.pop(utterance_id, None)
        if playing is not None and playing.had_underrun:
            self._record.add(metrics.UTTERANCES_UNDERRUN)
