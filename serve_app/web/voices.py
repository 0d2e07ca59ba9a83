"""``/v1/audio/voices`` over HTTP: lists, describes, adds and removes voices.

This module reads forms and writes JSON. Other modules define voices, check clips and store them.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Message

from serve_app.errors import (
    InvalidMessageError,
    SpeechError,
    UnsupportedLanguageError,
    VoiceConflictError,
    VoiceInvalidError,
    VoiceNotFoundError,
)
from serve_app.voices.decoding import MAX_CLIP_BYTES, check_size
from serve_app.voices.voice import UploadRecord, VoiceStatus, VoiceUpload, digest_of, voice_named
from serve_app.web.auth import Caller
from serve_app.web.clips import Clips
from serve_app.web.context import IngressContext
from serve_app.web.responses import error_response

log = logging.getLogger(__name__)

MAX_FORM_BYTES = MAX_CLIP_BYTES + (64 << 10)
"""Maximum size of an upload: the clip and its metadata."""

READ_TIMEOUT_S = 120.0
"""Time limit for the whole body of an upload."""

AUDIO_FIELDS = ("audio", "audio_sample")
"""Names of the form's field that contains the clip; clients of other services use the second name."""

_SAME = {"ref_text": "transcript"}
_NO_STORE = {"cache-control": "no-store"}


class VoiceRoutes:
    """The routes of ``/v1/audio/voices``."""

    def __init__(self, context: IngressContext, clips: Clips) -> None:
        self._context = context
        self._clips = clips

    def routes(self) -> list[Route]:
        """Return all routes."""
        path = "/v1/audio/voices"
        guarded = self._context.guarded
        return [
            Route(path, guarded(None, self.all), methods=["GET"]),
            Route(path, guarded("voices", self.add), methods=["POST"]),
            Route(path + "/{voice}", guarded(None, self.one), methods=["GET"]),
            Route(path + "/{voice}", guarded("voices", self.remove), methods=["DELETE"]),
            Route(path + "/{voice}/audio", guarded("voices", self.audio), methods=["GET"]),
        ]

    async def all(self, request: Request) -> Response:
        """Return all voices with their states, the aliases and the default voice."""
        describe = _description_for(request)
        voices = await self._context.current_voices()
        config = self._context.config.voices
        listed = [describe(each) for each in voices.values()]
        body = {"default": config.default, "aliases": config.aliases, "voices": listed}
        return JSONResponse(body, headers=_NO_STORE)

    async def one(self, request: Request) -> Response:
        """Return one voice."""

        async def answer(request: Request) -> Response:
            voice = await self._known(request.path_params["voice"])
            return JSONResponse(_description_for(request)(voice), headers=_NO_STORE)

        return await self._answered(request, answer)

    async def audio(self, request: Request) -> Response:
        """Return the clip of a voice, as it is encoded."""

        async def answer(request: Request) -> Response:
            voice = await self._known(request.path_params["voice"])
            return Response(
                await self._context.backend.voice_wav(voice.voice), media_type="audio/wav", headers=_NO_STORE
            )

        return await self._answered(request, answer)

    async def add(self, request: Request) -> Response:
        """Add a voice from a form: 201, 200 if the id already has the same clip, or 422 with the report."""
        return await self._answered(request, self._add)

    async def remove(self, request: Request) -> Response:
        """Delete an uploaded voice: 204."""
        return await self._answered(request, self._remove)

    async def _answered(self, request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        try:
            return await answer(request)
        except VoiceInvalidError as error:
            self._context.metrics.refused(error)
            body = {"code": error.code, "message": error.message, "report": list(error.report)}
            return JSONResponse(body, status_code=error.http_status)
        except SpeechError as error:
            self._context.metrics.refused(error)
            return error_response(error)
        except ClientDisconnect:
            return Response(status_code=400)

    async def _add(self, request: Request) -> Response:
        backend = self._context.backend
        with self._clips.coming():
            upload, audio = await _read_form(request)
            voice, digest = upload.voice, digest_of(audio, upload.transcript)
            meant = self._context.config.voices.aliases.get(voice)
            if meant is not None:  # ids have precedence over aliases, so the upload would change the alias's meaning
                raise VoiceConflictError(f"{voice!r} is an alias of the voice {meant!r}; allowed: another id")
            status = await backend.known_voice(voice, digest)
            if status is not None:
                return JSONResponse(described(status))
            reference = await self._clips.reference(voice, audio, upload.transcript, upload.language)
        assert reference.report is not None, "the clip was checked just now"
        now = datetime.now(UTC).isoformat(timespec="seconds")
        record = UploadRecord(digest=digest, at=now, report=reference.report)
        status = await backend.add_voice(voice, upload.manifest(record), reference.wav())
        await self._context.refresh_voices()
        log.info("voice %s was uploaded: %s", voice, reference.report.verdict)
        return JSONResponse(
            described(status),
            status_code=201,
            headers={"location": f"{request.scope.get('root_path', '')}/v1/audio/voices/{voice}"},
        )

    async def _remove(self, request: Request) -> Response:
        # Aliases are not accepted: their meaning may change, and a client must not remove another voice by mistake.
        given = request.path_params["voice"]
        voice = voice_named(given, await self._context.current_voices()) or given
        await self._context.backend.remove_voice(voice)
        await self._context.refresh_voices()
        log.info("voice %s was removed", voice)
        return Response(status_code=204)

    async def _known(self, given: str) -> VoiceStatus:
        voice = await self._context.voice(given)
        status = (await self._context.current_voices()).get(voice)
        if status is None or status.state == "pending":
            await self._context.refresh_voices()  # another replica may have added it, or a generator encoded it
            status = (await self._context.current_voices()).get(voice)
        if status is None:
            raise VoiceNotFoundError(f"there is no voice {given[:80]!r}")
        return status


def _description_for(request: Request) -> Callable[[VoiceStatus], dict[str, object]]:
    """Return the function that describes a voice to this caller; data about the speaker need the scope `voices`."""
    caller: Caller = request.state.caller
    return described if "voices" in caller.scopes else named


def named(status: VoiceStatus) -> dict[str, object]:
    """Return the fields that clients need to choose a voice, as JSON."""
    manifest = status.manifest
    body: dict[str, object] = {
        "id": status.voice,
        "name": status.voice if manifest is None else manifest.name,
        "language": "" if manifest is None else manifest.language,
        "state": status.state,
        "reason": status.reason,
    }
    if manifest is not None:
        body["mode"] = "in_context" if manifest.transcript else "x_vector"
        if manifest.prompt is not None:
            body["prompt"] = manifest.prompt
    return body


def described(status: VoiceStatus) -> dict[str, object]:
    """Return all data of a voice as JSON, including the speaker and the consent."""
    manifest, report = status.manifest, status.report
    body = named(status)
    if manifest is not None:
        body |= {
            "transcript": manifest.transcript,
            "speaker": manifest.speaker,
            "licence": manifest.licence,
            "source": manifest.source,
            "consent": manifest.consent,
            "uploaded": None if manifest.upload is None else manifest.upload.at,
        }
    if report is not None:
        body |= {"verdict": report.verdict, "report": [check.model_dump() for check in report.checks]}
    return body


async def _read_form(request: Request) -> tuple[VoiceUpload, bytes]:
    """Read a voice's metadata and its clip; the size is checked before and during reading.

    Raises:
        InvalidMessageError: the body is not such a form, or a field is wrong.
        VoiceInvalidError: the body is too large.
    """
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > MAX_FORM_BYTES:
        check_size(int(length))
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise InvalidMessageError("the body is not a form; allowed: multipart/form-data")
    read = 0

    async def receive() -> Message:
        nonlocal read
        message = await request.receive()
        read += len(message.get("body", b""))
        if read > MAX_FORM_BYTES:
            check_size(read)
        return message

    bounded = Request(request.scope, receive)
    try:
        async with asyncio.timeout(READ_TIMEOUT_S):
            async with bounded.form(max_files=1, max_fields=12, max_part_size=16 << 10) as form:
                files = [value for value in form.values() if isinstance(value, UploadFile)]
                fields = {_SAME.get(name, name): value for name, value in form.items() if isinstance(value, str)}
                named = [name for name, value in form.items() if isinstance(value, UploadFile)]
                if len(files) != 1 or named[0] not in AUDIO_FIELDS:
                    raise InvalidMessageError("the form needs the clip as a file in its part `audio`")
                audio = await files[0].read()
    except (HTTPException, MultiPartException) as error:
        detail = error.detail if isinstance(error, HTTPException) else error.message
        raise InvalidMessageError(f"the form cannot be read: {detail}") from error
    except TimeoutError as error:
        raise InvalidMessageError(f"the form did not arrive within {READ_TIMEOUT_S:g} s") from error
    check_size(len(audio))
    return _upload(fields), audio


def _upload(fields: dict[str, str]) -> VoiceUpload:
    try:
        return VoiceUpload.model_validate({name: value for name, value in fields.items() if value.strip()})
    except ValidationError as error:
        fault = error.errors(include_url=False, include_context=False)[0]
        name = str(fault["loc"][0])[:60] if fault["loc"] else ""
        if fault["type"] == UnsupportedLanguageError.code:
            raise UnsupportedLanguageError(fault["msg"]) from error
        known = VoiceUpload.model_fields.get(name)
        if known is None:
            allowed = ", ".join(("audio", *VoiceUpload.model_fields))
            raise InvalidMessageError(f"unknown field {name!r} of a voice; allowed: {allowed}") from error
        missing = "is missing" if fault["type"] == "missing" else "is wrong"
        raise InvalidMessageError(f"{name} {missing}: {known.description}") from error
