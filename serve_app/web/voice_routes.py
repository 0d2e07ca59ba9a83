"""``/v1/audio/voices`` over HTTP: lists, describes, adds and removes voices.

This module reads forms and writes JSON. Other modules define voices, check clips and store them.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
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
from serve_app.voices.voice import UploadRecord, VoiceManifest, VoiceStatus, VoiceUpload, digest_of, voice_named
from serve_app.voices.voice_file import VOICE_FILE, read_voice_file
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

VOICE_FIELD = "voice"
"""Name of the form's field that contains an exported voice instead of a clip."""

_OF_AN_IMPORT = ("id", "name", "consent")
"""Fields that an import may replace; all others are the file's."""

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
            Route(path + "/{voice}/file", guarded("voices", self.file), methods=["GET"]),
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

    async def file(self, request: Request) -> Response:
        """Return a voice as a file for another service."""

        async def answer(request: Request) -> Response:
            voice = (await self._known(request.path_params["voice"])).voice
            headers = {"content-disposition": f'attachment; filename="{voice}.safetensors"', **_NO_STORE}
            content = await self._context.backend.exported_voice(voice)
            return Response(content, media_type="application/octet-stream", headers=headers)

        return await self._answered(request, answer)

    async def add(self, request: Request) -> Response:
        """Add a voice from a form with a clip or an exported voice.

        The status is 201, 200 if the id already has the same clip, or 422, for a clip with the report.
        """
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
        with self._clips.coming():
            form = await _read_form(request)
            adding = await (self._imported(form) if form.part == VOICE_FIELD else self._uploaded(form))
        if isinstance(adding, VoiceStatus):
            return JSONResponse(described(adding))
        status = await self._context.backend.add_voice(adding.voice, adding.manifest, adding.content)
        await self._context.refresh_voices()
        report = status.report
        log.info("voice %s was %s", adding.voice, f"uploaded: {report.verdict}" if report else "imported")
        return JSONResponse(
            described(status),
            status_code=201,
            headers={"location": f"{request.scope.get('root_path', '')}/v1/audio/voices/{adding.voice}"},
        )

    async def _uploaded(self, form: "_Form") -> "_NewVoice | VoiceStatus":
        """Return the voice of a clip, or its status if the id already has the same clip."""
        upload = _upload(form.fields)
        digest = digest_of(form.content, upload.transcript)
        status = await self._taken(upload.voice, digest)
        if status is not None:
            return status
        reference = await self._clips.reference(upload.voice, form.content, upload.transcript, upload.language)
        assert reference.report is not None, "the clip was checked just now"
        record = UploadRecord(digest=digest, at=_now(), report=reference.report)
        return _NewVoice(upload.voice, upload.manifest(record), reference.wav())

    async def _imported(self, form: "_Form") -> "_NewVoice | VoiceStatus":
        """Return the voice of an exported file, or its status if the id already has the same voice."""
        file = read_voice_file(form.content)
        unknown = [name for name in form.fields if name not in _OF_AN_IMPORT]
        if unknown:
            allowed = ", ".join((VOICE_FIELD, *_OF_AN_IMPORT))
            raise InvalidMessageError(f"unknown field {unknown[0][:60]!r} of an import; allowed: {allowed}")
        given = {name: value for name, value in form.fields.items() if value.strip()}
        fields = {**file.fields, **given}
        if "name" in given and "id" not in given:
            fields.pop("id", None)  # it is made from the new name
        upload = _upload(fields)
        status = await self._taken(upload.voice, file.digest)
        if status is not None:
            return status
        record = UploadRecord(digest=file.digest, at=_now())
        return _NewVoice(upload.voice, upload.manifest(record, VOICE_FILE), form.content)

    async def _taken(self, voice: str, digest: str) -> VoiceStatus | None:
        """Return the status of a voice with this id and clip; None if it can be added.

        Raises:
            SpeechError: the id is taken by an alias or another clip, or there are too many voices.
        """
        meant = self._context.config.voices.aliases.get(voice)
        if meant is not None:  # ids have precedence over aliases, so the upload would change the alias's meaning
            raise VoiceConflictError(f"{voice!r} is an alias of the voice {meant!r}; allowed: another id")
        return await self._context.backend.known_voice(voice, digest)

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
            await self._context.refresh_voices()  # another replica may have added or encoded it
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
        if manifest.loudness_lufs is not None:
            body["loudness_lufs"] = manifest.loudness_lufs
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


@dataclass(frozen=True, slots=True)
class _Form:
    """A form with one file: its fields, the name of the file's part, and the file."""

    fields: dict[str, str]
    part: str
    content: bytes


@dataclass(frozen=True, slots=True)
class _NewVoice:
    """A voice to be stored."""

    voice: str
    manifest: VoiceManifest
    content: bytes


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


async def _read_form(request: Request) -> _Form:
    """Read a voice's metadata and its clip or file; the size is checked before and during reading.

    Raises:
        InvalidMessageError: the body is not such a form.
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
                if len(files) != 1 or named[0] not in (*AUDIO_FIELDS, VOICE_FIELD):
                    raise InvalidMessageError(
                        "the form needs one file: the clip in its part `audio`, or an exported voice in `voice`"
                    )
                content = await files[0].read()
    except (HTTPException, MultiPartException) as error:
        detail = error.detail if isinstance(error, HTTPException) else error.message
        raise InvalidMessageError(f"the form cannot be read: {detail}") from error
    except TimeoutError as error:
        raise InvalidMessageError(f"the form did not arrive within {READ_TIMEOUT_S:g} s") from error
    check_size(len(content))
    return _Form(fields, named[0], content)


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
