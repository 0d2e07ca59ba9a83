"""The web application: its routes, the probes and the playground.

It depends only on :class:`serve_app.web.backend.Backend`, so it runs and is tested without Ray.
"""

import asyncio
import hashlib
import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import PurePath

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute

from serve_app.audio.mark import DISCLOSURE_HEADER
from serve_app.cluster.registry import Readiness
from serve_app.config import AppConfig
from serve_app.observability.metrics import Recorder
from serve_app.observability.tracing import Tracer
from serve_app.web.auth import RedactedKeys
from serve_app.web.backend import Backend
from serve_app.web.batch import SpeechBatch
from serve_app.web.context import IngressContext
from serve_app.web.draining import Draining
from serve_app.web.middleware import AllowedHosts, BodyTimeout, BufferedForHttp10, TrailingSlash
from serve_app.web.openai import Models, deepgram_speech, openai_speech
from serve_app.web.responses import VOICE_HEADER, openai_error_response
from serve_app.web.tts import BufferedSpeech
from serve_app.web.voice_routes import VoiceRoutes
from serve_app.web.websocket import Sockets
from serve_app.weights import NOTICES

log = logging.getLogger(__name__)

PAGE_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
}

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; media-src blob:; "
    "connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The page loads nothing from other origins and cannot be framed; `blob:` allows playing a recording."""


def build_web(
    backend: Backend,
    config: AppConfig,
    *,
    clock: Callable[[], float] = time.monotonic,
    recorder: Recorder | None = None,
    tracer: Tracer | None = None,
    listening: str | None = None,
    draining: Draining | None = None,
) -> Starlette:
    """Build the application of one ingress replica.

    Without ``recorder`` there are no metrics, without ``tracer`` no traces, and without ``draining`` sessions are not
    drained when the replica is being replaced. ``listening`` is the address that the service listens on, see
    :func:`serve_app.hosts.is_served`.
    """
    context = IngressContext(backend, config, clock, recorder, tracer, draining)
    sockets = Sockets(context)
    pages = _Pages()
    probes = _Probes(context)
    models = Models(context)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncGenerator[None]:
        recording = asyncio.create_task(context.keep_recording())
        yield
        recording.cancel()

    return Starlette(
        lifespan=lifespan,
        middleware=[
            Middleware(RedactedKeys),  # first, because the server logs the scope object that this middleware receives
            Middleware(TrailingSlash),
            Middleware(AllowedHosts, config=config, listening=listening, refused=context.metrics.refused),
            Middleware(BodyTimeout, clock=clock),
            Middleware(BufferedForHttp10),
            *_cross_origin(config.ingress.allowed_origins),
        ],
        routes=[
            Route("/", pages.index),
            Route("/playground/{name}", pages.named),
            Route("/health", probes.health),
            Route("/ready", probes.ready),
            *VoiceRoutes(context, context.clips).routes(),
            Route("/v1/audio/speech", openai_speech(context), methods=["POST"]),
            WebSocketRoute("/v1/audio/speech/stream", sockets.stream),
            Route("/v1/audio/speech/batch", SpeechBatch(context), methods=["POST"]),
            Route("/v1/speak", deepgram_speech(context), methods=["POST"]),
            WebSocketRoute("/v1/speak", sockets.deepgram),
            Route("/v1/models", context.guarded("speak", models.models, openai_error_response)),
            Route("/v1/models/{name:path}", context.guarded("speak", models.model, openai_error_response)),
            Route("/api/tts", BufferedSpeech(context).post, methods=["POST"]),
            WebSocketRoute("/ws/tts", sockets.research),
            WebSocketRoute("/api/v1/speak", sockets.speak),
        ],
    )


def _cross_origin(origins: tuple[str, ...]) -> list[Middleware]:
    """Return the CORS middleware for pages of other origins; the service's own page does not need it.

    An allowed page may send any header, because official client libraries send many, and more with each version.
    """
    cors = Middleware(
        CORSMiddleware,
        allow_origins=origins,
        allow_methods=["GET", "HEAD", "POST", "DELETE"],
        allow_headers=["*"],
        expose_headers=[DISCLOSURE_HEADER, "location", "retry-after", VOICE_HEADER, "www-authenticate", "x-request-id"],
    )
    return [cors] if origins else []


class _Probes:
    """The health and readiness probes."""

    def __init__(self, context: IngressContext) -> None:
        self._context = context

    async def health(self, request: Request) -> Response:
        """Answer that the process is alive, with its number of sessions; this says nothing about generators."""
        del request
        body = {"status": "ok", "sessions": self._context.sessions}
        return JSONResponse(body, headers={"cache-control": "no-store"})

    async def ready(self, request: Request) -> Response:
        """Answer 200 if a generator is ready, otherwise 503 with the reason."""
        del request
        try:
            state = await self._context.backend.readiness()
        except Exception:
            log.exception("the readiness could not be determined")
            state = Readiness(ready=False, detail="the generators do not answer")
        body = {
            "ready": state.ready,
            "model": state.model,
            "weights": state.weights,
            "random_weights": state.weights == "random",
            "notice": NOTICES[state.weights],
            "detail": state.detail,
        }
        return JSONResponse(body, status_code=200 if state.ready else 503, headers={"cache-control": "no-store"})


class _Pages:
    """The playground, which is read once from the package."""

    def __init__(self) -> None:
        folder = files("serve_app") / "playground"
        self._files = {file.name: file.read_bytes() for file in folder.iterdir() if _type_of(file.name)}

    async def index(self, request: Request) -> Response:
        """Return the page."""
        return self._file(request, "index.html")

    async def named(self, request: Request) -> Response:
        """Return a script or a style sheet of the page."""
        name = request.path_params["name"]
        return self._file(request, name) if name in self._files else Response(status_code=404)

    def _file(self, request: Request, name: str) -> Response:
        content = self._files[name]
        etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        headers = {
            "etag": etag,
            "cache-control": "no-cache",
            "content-security-policy": PAGE_POLICY,
            "x-content-type-options": "nosniff",
            "referrer-policy": "no-referrer",
        }
        if request.headers.get("if-none-match") == etag:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=_type_of(name), headers=headers)


def _type_of(name: str) -> str | None:
    return PAGE_TYPES.get(PurePath(name).suffix)
