"""The context that all requests of one ingress replica share: the backend, the sessions and the known voices."""

import asyncio
import logging
import math
import re
import secrets
import uuid
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import Context
from dataclasses import replace
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response

from serve_app.cluster.admission import Admission
from serve_app.config import AppConfig
from serve_app.errors import CapacityError, SpeechError
from serve_app.observability.metrics import NoRecorder, Recorder
from serve_app.observability.observers import SessionObserver
from serve_app.observability.session_metrics import IngressMetrics, SessionMetrics
from serve_app.observability.tracing import NoTracer, Tracer
from serve_app.protocol.dialects import DialectRules
from serve_app.protocol.messages import MAX_SEED
from serve_app.session.session import Session, SessionSetup
from serve_app.session.utterance import SpeechOptions, TextPipeline
from serve_app.speech import TraceContext
from serve_app.voices.voice import VoiceStatus, check_voice, resolve_voice
from serve_app.web.admission_queue import AdmissionQueue
from serve_app.web.api_keys import Scope
from serve_app.web.auth import Authenticator, Caller
from serve_app.web.backend import Backend
from serve_app.web.clips import Clips
from serve_app.web.draining import Draining
from serve_app.web.responses import error_response
from serve_app.web.session_runner import Connection, Service, SessionRunner

log = logging.getLogger(__name__)

_TRACEPARENT = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_TRACESTATE = re.compile(r"[\x20-\x7e\t]{1,512}")

VOICES_REFRESH_S = 5.0
"""Interval between two fetches of the voices while there are sessions."""

VOICES_REFETCH_S = 0.25
"""Minimum interval between two fetches because of unknown voices; it limits the fetches that clients can cause."""

VOICES_TIMEOUT_S = 2.0
"""How long a new session waits for the list of voices; without the list, the generator checks the voice."""

LOAD_REPORT_S = 1.0
"""Interval between two reports of this replica's load while there are sessions; each reply says how many streams it may
run."""

RECORD_PERIOD_S = 1.0
"""How often unchanged gauges are recorded again."""

FULL_RETRY_MS = 5000
"""When to retry if the replica has its maximum number of sessions."""

Answer = Callable[[Request], Awaitable[Response]]
Refused = Callable[[SpeechError], Response]


class IngressContext:
    """The shared context; one per ingress replica, on its event loop."""

    def __init__(
        self,
        backend: Backend,
        config: AppConfig,
        clock: Callable[[], float],
        recorder: Recorder | None = None,
        tracer: Tracer | None = None,
        draining: Draining | None = None,
    ) -> None:
        self.metrics = IngressMetrics(recorder or NoRecorder())
        self.backend = backend
        self.config = config
        self.clock = clock
        self.sessions = 0
        # Until the generators are known, the queue admits the slots of one; Serve starts one for the first request.
        self._queue = AdmissionQueue(Admission(config.admission, config.engine.slots), clock)
        self.clips = Clips(config.voices)
        self._tracer = tracer or NoTracer()
        self._service = Service(
            backend,
            self._queue,
            clock,
            self.clips,
            self.refetch_voices,
            draining or Draining(math.inf, clock),
        )
        self._authenticator = Authenticator(config.access, clock)
        self._text = TextPipeline(config.text, config.engine.max_chunk_characters)
        self._voices: dict[str, VoiceStatus] = {}
        self._voices_at_s: float | None = None
        self._refetching = asyncio.Lock()
        self._refetched_at_s = -math.inf
        self._refreshers: list[asyncio.Task[None]] = []
        self._warned: set[str] = set()

    def allows_origin(self, headers: Headers) -> bool:
        """Return whether the request's origin is allowed; only browsers send an origin."""
        origin = headers.get("origin")
        if origin is None:
            return True
        allowed = self.config.ingress.allowed_origins
        same = urlsplit(origin).netloc.lower() == headers.get("host", "").lower() != ""
        return same or origin in allowed or "*" in allowed

    def admit(self, connection: HTTPConnection) -> AbstractContextManager[Caller]:
        """Admit a caller while the context manager is open; see :meth:`Authenticator.admit` for the errors."""
        return self._authenticator.admit(connection)

    def guarded(self, scope: Scope | None, answer: Answer, refused: Refused = error_response) -> Answer:
        """Guard a route: only callers with ``scope`` (None: any key of the file) and allowed origins reach it.

        Other requests get an error. ``request.state.caller`` has the :class:`Caller`.
        """

        async def ask(request: Request) -> Response:
            if not self.allows_origin(request.headers):
                return forbidden_origin()
            try:
                request.state.caller = self._authenticator.check(request, scope)
                return await answer(request)
            except SpeechError as error:
                self.metrics.refused(error)
                return refused(error)

        return ask

    @property
    def batch_capacity(self) -> int:
        """Maximum number of streams of this replica that texts of batches may have."""
        return self._queue.batch_capacity

    def check_capacity(self) -> None:
        """Raise :class:`CapacityError` if this replica already has its maximum number of sessions."""
        limit = self.config.ingress.max_sessions
        if self.sessions >= limit:
            raise CapacityError(f"all {limit} sessions of this server are in use", retry_after_ms=FULL_RETRY_MS)

    @contextmanager
    def count_session(self) -> Generator[None]:
        """Count one session while the context manager is open.

        Raises:
            CapacityError: see :meth:`check_capacity`.
        """
        self.check_capacity()
        self.sessions += 1
        if not self._refreshers:
            self._refreshers = [
                # An empty context, because these tasks do not belong to the session that starts them.
                asyncio.create_task(keep(), context=Context())
                for keep in (self._keep_voices_fresh, self._keep_reporting_load)
            ]
        try:
            yield
        finally:
            self.sessions -= 1
            if self.sessions == 0:
                for refresher in self._refreshers:
                    refresher.cancel()
                self._refreshers.clear()

    async def runner(
        self,
        connection: Connection,
        caller: Caller,
        headers: Headers,
        *,
        dialect: str,
        encoding: str | None = None,
        rules: DialectRules | None = None,
        response_s: Callable[[float], float] | None = None,
    ) -> SessionRunner:
        """Return the runner of a new session.

        Args:
            connection: the client's connection.
            caller: who it is.
            headers: of the request; they may carry a trace context.
            dialect: the client's dialect, for logs and metrics.
            encoding: encoding of the audio sent, for metrics; None for the session's encoding.
            rules: see :class:`SessionSetup`; None for the usual ones.
            response_s: see :class:`SessionSetup`; None if the session has a response of its own.
        """
        await self.current_voices()
        setup = SessionSetup(
            session_id=uuid.uuid4().hex,
            options=SpeechOptions(voice=self.config.voices.default, normalize=self.config.text.normalize),
            limits=self.config.session,
            voices=self._voices,
            new_seed=lambda: secrets.randbelow(MAX_SEED + 1),
            text=self._text.extended(caller.lexicon),
            rules=rules or DialectRules(),
            naming=self.config.voices,
            spend=caller.spend,
        )
        if response_s is not None:
            setup = replace(setup, response_s=response_s)
        metrics = SessionMetrics(self.metrics, dialect, encoding)
        observer = SessionObserver(metrics, self._tracer, given_context(headers), setup.session_id, self.clock)
        return SessionRunner(Session(setup, self.clock()), connection, self._service, observer, key=caller.name)

    async def voice(self, given: str | None) -> str:
        """Return the id of the voice that a request names, or the name if it is unknown even after another fetch."""
        name = given or self.config.voices.default
        await self.current_voices()
        if resolve_voice(name, self._voices, self.config.voices) is None:
            await self.refetch_voices()
        return resolve_voice(name, self._voices, self.config.voices) or name

    async def check_voice(self, given: str | None) -> None:
        """Check that a request's voice can be used.

        Raises:
            VoiceNotFoundError: see :func:`serve_app.voices.voice.check_voice`.
        """
        check_voice(await self.voice(given), self._voices)

    async def current_voices(self) -> dict[str, VoiceStatus]:
        """Return the voices by id; fetch them again if they are old. Empty if no fetch has succeeded yet."""
        if self._voices_at_s is None or self.clock() - self._voices_at_s >= VOICES_REFRESH_S:
            await self.refresh_voices()
        return self._voices

    async def _keep_voices_fresh(self) -> None:
        while True:
            await asyncio.sleep(VOICES_REFRESH_S)
            await self.refresh_voices()

    async def _keep_reporting_load(self) -> None:
        while True:
            try:
                async with asyncio.timeout(VOICES_TIMEOUT_S):
                    self._queue.resize(await self.backend.share_load(self._queue.backlog))
            except Exception:
                log.exception("the load could not be reported; the number of streams that may run stays as it is")
            await asyncio.sleep(LOAD_REPORT_S)

    async def keep_recording(self) -> None:
        """Record the gauges periodically, as long as the replica runs."""
        while True:
            self.metrics.now(self._queue.backlog)
            await asyncio.sleep(RECORD_PERIOD_S)

    async def refetch_voices(self) -> None:
        """Fetch the voices because a request names an unknown one, unless another request has just done so."""
        async with self._refetching:
            if self.clock() - self._refetched_at_s >= VOICES_REFETCH_S:
                await self.refresh_voices()
                self._refetched_at_s = self.clock()

    async def refresh_voices(self) -> None:
        """Fetch the voices into the mapping that all sessions share; if the fetch fails, the old voices stay."""
        try:
            async with asyncio.timeout(VOICES_TIMEOUT_S):
                voices = await self.backend.voices()
        except Exception:
            log.exception("the list of voices could not be fetched")
            return
        self._voices.clear()
        self._voices.update({status.voice: status for status in voices})
        self._voices_at_s = self.clock()
        self._warn_of_aliases()

    def _warn_of_aliases(self) -> None:
        """Warn once about each alias without a voice; an upload may supply the voice later."""
        for alias, voice in self.config.voices.aliases.items():
            if voice not in self._voices and alias not in self._warned:
                self._warned.add(alias)
                log.warning("voices.aliases: %r means the voice %r, which does not exist", alias, voice)


def forbidden_origin() -> Response:
    """Return the response to a page whose origin is not allowed."""
    return JSONResponse({"message": "this origin may not use this service"}, status_code=403)


def given_context(headers: Headers) -> TraceContext:
    """Return the trace context of a request; a malformed or repeated header is ignored."""
    parents: Sequence[str] = headers.getlist("traceparent")
    match = _TRACEPARENT.fullmatch(parents[0].strip()) if len(parents) == 1 else None
    if match is None or (match[1] == "00" and match[5]):
        return TraceContext()
    state = ",".join(headers.getlist("tracestate"))
    # Headers of later versions begin with the fields of this version, and are passed on as this version.
    parent = f"00-{match[2]}-{match[3]}-{match[4]}"
    return TraceContext(parent, state if _TRACESTATE.fullmatch(state) else None)
