"""What every request of one ingress replica shares: the backend, the sessions it has, the voices it knows."""

import asyncio
import logging
import math
import re
import secrets
import uuid
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import Context
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response

from serve_app.cluster.admission import Admission
from serve_app.config import AppConfig
from serve_app.errors import CapacityError, SpeechError
from serve_app.observability.metrics import NoRecorder, Recorder
from serve_app.observability.session_metrics import IngressMetrics
from serve_app.observability.tracing import NoTracer, Tracer
from serve_app.protocol.dialects import Dialect
from serve_app.protocol.messages import MAX_SEED
from serve_app.session.session import Session, SessionSetup
from serve_app.session.utterance import SpeechOptions, TextPipeline
from serve_app.speech import TraceContext
from serve_app.voices.voice import VoiceStatus, resolve_voice
from serve_app.web.admission_queue import AdmissionQueue
from serve_app.web.answers import error_response
from serve_app.web.api_keys import Scope
from serve_app.web.auth import Authenticator, Caller
from serve_app.web.backend import Backend
from serve_app.web.clips import Clips
from serve_app.web.leaving import Draining
from serve_app.web.session_runner import Connection, Service, SessionRunner

log = logging.getLogger(__name__)

_TRACEPARENT = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_TRACESTATE = re.compile(r"[\x20-\x7e\t]{1,512}")

VOICES_REFRESH_S = 5.0
"""How old the known voices get while there are sessions; a new voice can be asked for after so long."""

VOICES_LEARN_S = 0.25
"""How long an answer stands for who names a voice that is not in it; clients that do so ask for no more than this."""

VOICES_TIMEOUT_S = 2.0
"""How long a new session waits for the list of voices; without it the generator answers for them."""

ROOM_REFRESH_S = 1.0
"""How often, while there are sessions, the others are told what runs and waits here, and how much may run is learnt."""

RECORD_PERIOD_S = 1.0
"""How often what stands still is recorded again."""

FULL_RETRY_MS = 5000
"""When to try again at a replica that has all its sessions."""

Answer = Callable[[Request], Awaitable[Response]]
Refused = Callable[[SpeechError], Response]


class IngressContext:
    """One per ingress replica; lives on its event loop."""

    def __init__(
        self,
        backend: Backend,
        config: AppConfig,
        clock: Callable[[], float],
        recorder: Recorder | None = None,
        tracer: Tracer | None = None,
        leaving: Draining | None = None,
    ) -> None:
        self.meter = IngressMetrics(recorder or NoRecorder())
        self.backend = backend
        self.config = config
        self.clock = clock
        self.sessions = 0
        # Until the generators were heard of: what one of them runs. Serve starts it for the first who comes.
        self._gate = AdmissionQueue(Admission(config.admission, config.engine.slots), clock)
        self.clips = Clips(config.voices)
        self._service = Service(
            backend,
            self._gate,
            clock,
            self.clips,
            self.learn_voices,
            self.meter,
            tracer or NoTracer(),
            leaving or Draining(math.inf, clock),
        )
        self._doorkeeper = Authenticator(config.access, clock)
        self._text = TextPipeline.configured(config.text, config.engine.max_chunk_characters)
        self._voices: dict[str, VoiceStatus] = {}
        self._voices_at_s: float | None = None
        self._learning = asyncio.Lock()
        self._learnt_at_s = -math.inf
        self._refreshers: list[asyncio.Task[None]] = []
        self._warned: set[str] = set()

    def allows(self, headers: Headers) -> bool:
        """Whether a browser may do this from the page it shows; what is no browser names no origin."""
        origin = headers.get("origin")
        if origin is None:
            return True
        allowed = self.config.ingress.allowed_origins
        same = urlsplit(origin).netloc.lower() == headers.get("host", "").lower() != ""
        return same or origin in allowed or "*" in allowed

    def admit(self, connection: HTTPConnection) -> AbstractContextManager[Caller]:
        """Let a caller in to speak, for as long as he does; see :meth:`Authenticator.admit` for what it raises."""
        return self._doorkeeper.admit(connection)

    def guarded(self, scope: Scope | None, answer: Answer, refused: Refused = error_response) -> Answer:
        """A route for callers with ``scope`` (None: with any key of the file), and for no foreign page.

        The others are told why. The answer finds its :class:`Caller` in ``request.state.caller``.
        """

        async def ask(request: Request) -> Response:
            if not self.allows(request.headers):
                return foreign_page()
            try:
                request.state.caller = self._doorkeeper.check(request, scope)
                return await answer(request)
            except SpeechError as error:
                self.meter.refused(error)
                return refused(error)

        return ask

    def check_room(self) -> None:
        """Raise :class:`CapacityError` where this replica has all the sessions it may have."""
        limit = self.config.ingress.max_sessions
        if self.sessions >= limit:
            raise CapacityError(f"all {limit} sessions of this server are in use", retry_after_ms=FULL_RETRY_MS)

    @contextmanager
    def room(self) -> Generator[None]:
        """Count one session for as long as it lasts.

        Raises:
            CapacityError: see :meth:`check_room`.
        """
        self.check_room()
        self.sessions += 1
        if not self._refreshers:
            self._refreshers = [
                # Theirs is nobody's request, although somebody's session begins them.
                asyncio.create_task(keep(), context=Context())
                for keep in (self._keep_voices_fresh, self._keep_room_fresh)
            ]
        try:
            yield
        finally:
            self.sessions -= 1
            if self.sessions == 0:
                for refresher in self._refreshers:
                    refresher.cancel()
                self._refreshers.clear()

    async def driver(self, dialect: Dialect, connection: Connection, caller: Caller, headers: Headers) -> SessionRunner:
        """A new session with its driver; ``headers`` may say which trace it is part of."""
        await self.know_voices()
        setup = SessionSetup(
            session_id=uuid.uuid4().hex,
            manner=SpeechOptions(voice=self.config.voices.default, normalize=self.config.text.normalize),
            limits=self.config.session,
            voices=self._voices,
            new_seed=lambda: secrets.randbelow(MAX_SEED + 1),
            text=self._text,
            errors_in_order=dialect.errors_in_order,
            naming=self.config.voices,
            spend=caller.spend,
        )
        context = given_context(headers)
        return SessionRunner(
            Session(setup, self.clock()), dialect, connection, self._service, key=caller.name, context=context
        )

    async def voice(self, given: str | None) -> str:
        """The id of the voice that a request means; what is not known, even when asked again, stays as it is."""
        name = given or self.config.voices.default
        await self.know_voices()
        if resolve_voice(name, self._voices, self.config.voices) is None:
            await self.learn_voices()
        return resolve_voice(name, self._voices, self.config.voices) or name

    async def know_voices(self) -> dict[str, VoiceStatus]:
        """The voices by id, asked for again where they are old; empty where nobody could be asked yet."""
        if self._voices_at_s is None or self.clock() - self._voices_at_s >= VOICES_REFRESH_S:
            await self.refresh_voices()
        return self._voices

    async def _keep_voices_fresh(self) -> None:
        while True:
            await asyncio.sleep(VOICES_REFRESH_S)
            await self.refresh_voices()

    async def _keep_room_fresh(self) -> None:
        while True:
            try:
                async with asyncio.timeout(VOICES_TIMEOUT_S):
                    self._gate.resize(await self.backend.share_load(self._gate.backlog))
            except Exception:
                log.exception("how many streams may run could not be learnt; it stays as it is")
            await asyncio.sleep(ROOM_REFRESH_S)

    async def keep_recording(self) -> None:
        """Say how things stand, as long as the replica lives."""
        while True:
            self.meter.now(self._gate.backlog)
            await asyncio.sleep(RECORD_PERIOD_S)

    async def learn_voices(self) -> None:
        """Ask again, for a voice that is not known here, unless somebody just did."""
        async with self._learning:
            if self.clock() - self._learnt_at_s >= VOICES_LEARN_S:
                await self.refresh_voices()
                self._learnt_at_s = self.clock()

    async def refresh_voices(self) -> None:
        """Ask for the voices; sessions see the new ones, which share the mapping. The old stay where it fails."""
        try:
            async with asyncio.timeout(VOICES_TIMEOUT_S):
                voices = await self.backend.voices()
        except Exception:
            log.exception("the list of voices could not be had")
            return
        self._voices.clear()
        self._voices.update({status.voice: status for status in voices})
        self._voices_at_s = self.clock()
        self._warn_of_aliases()

    def _warn_of_aliases(self) -> None:
        """Say once of each alias that it means no voice that there is; it may come by an upload later."""
        for alias, voice in self.config.voices.aliases.items():
            if voice not in self._voices and alias not in self._warned:
                self._warned.add(alias)
                log.warning("voices.aliases: %r means the voice %r, which there is not", alias, voice)


def foreign_page() -> Response:
    """The answer to a browser that shows a page from elsewhere."""
    return JSONResponse({"message": "this origin may not use this service"}, status_code=403)


def given_context(headers: Headers) -> TraceContext:
    """The trace that a request says it is part of; what is malformed, or there twice, counts as not given."""
    parents: Sequence[str] = headers.getlist("traceparent")
    match = _TRACEPARENT.fullmatch(parents[0].strip()) if len(parents) == 1 else None
    if match is None or (match[1] == "00" and match[5]):
        return TraceContext()
    state = ",".join(headers.getlist("tracestate"))
    # A later version begins with the fields of this one, and is handed on as this one.
    parent = f"00-{match[2]}-{match[3]}-{match[4]}"
    return TraceContext(parent, state if _TRACESTATE.fullmatch(state) else None)
