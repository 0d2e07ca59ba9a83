"""``tts-voices add|list|show|remove``: the voices of a running service, from a terminal.

A client of ``/v1/audio/voices`` (docs/voices.md) and nothing else; it imports no part of the service.
"""

import argparse
import json
import os
import secrets
import sys
import time
from collections.abc import Mapping, Sequence
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote, urlsplit

PATH = "/v1/audio/voices"
KEY_VARIABLE = "TTS_API_KEY"

Fields = Mapping[str, str | None]
Json = dict[str, Any]


class VoicesError(Exception):
    """What went wrong, in words for a terminal.

    Attributes:
        report: the checks of a clip that was refused.
    """

    def __init__(self, message: str, report: Sequence[Json] = ()) -> None:
        super().__init__(message)
        self.report = report


class Service:
    """A running service's voices."""

    def __init__(self, url: str, key: str, timeout_s: float) -> None:
        """Remember where it is; ``key`` may be empty."""
        self._url = urlsplit(url)
        self._key = key
        self._timeout_s = timeout_s

    def list(self) -> "list[Json]":
        """Every voice."""
        return self._json("GET", PATH)["voices"]

    def show(self, voice: str) -> Json:
        """One voice."""
        return self._json("GET", _path(voice))

    def audio(self, voice: str) -> bytes:
        """Its clip, as a WAV file."""
        return self._ask("GET", _path(voice) + "/audio")

    def add(self, audio: bytes, fields: Fields) -> Json:
        """Upload a clip; fields that are None are left out."""
        boundary = secrets.token_hex(16)
        parts = [f'name="{name}"\r\n\r\n{value}'.encode() for name, value in fields.items() if value is not None]
        parts.append(b'name="audio"; filename="clip"\r\ncontent-type: application/octet-stream\r\n\r\n' + audio)
        lead = f"--{boundary}\r\ncontent-disposition: form-data; ".encode()
        body = b"".join(lead + part + b"\r\n" for part in parts) + f"--{boundary}--\r\n".encode()
        return self._json("POST", PATH, body, f"multipart/form-data; boundary={boundary}")

    def remove(self, voice: str) -> None:
        """Forget an uploaded voice."""
        self._ask("DELETE", _path(voice))

    def _json(self, method: str, path: str, body: bytes | None = None, kind: str = "") -> Json:
        return json.loads(self._ask(method, path, body, kind))

    def _ask(self, method: str, path: str, body: bytes | None = None, kind: str = "") -> bytes:
        """One request.

        Raises:
            VoicesError: it was refused, or nobody answers.
        """
        make = HTTPSConnection if self._url.scheme == "https" else HTTPConnection
        headers = {"content-type": kind} if kind else {}
        if self._key:
            headers["authorization"] = f"Bearer {self._key}"
        connection = make(self._url.netloc, timeout=self._timeout_s)
        try:
            connection.request(method, self._url.path.rstrip("/") + path, body, headers)
            response = connection.getresponse()
            answer = response.read()
        except (OSError, HTTPException) as error:
            raise VoicesError(f"{self._url.geturl()}: {error or type(error).__name__}") from error
        finally:
            connection.close()
        if response.status >= 400:
            raise _refusal(response.status, answer)
        return answer


def _refusal(status: int, answer: bytes) -> VoicesError:
    try:
        said: Any = json.loads(answer)
    except ValueError:
        said = None
    if not isinstance(said, dict) or "message" not in said:
        return VoicesError(f"HTTP {status} {answer[:200].decode(errors='replace')}".strip())
    fields = cast("Json", said)
    return VoicesError(f"{fields.get('code', f'HTTP {status}')}: {fields['message']}", fields.get("report", ()))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 when it was done, 1 when it was refused."""
    arguments = _parser().parse_args(argv)
    service = Service(arguments.url, os.environ.get(KEY_VARIABLE, ""), arguments.timeout)
    try:
        arguments.run(service, arguments)
    except (VoicesError, OSError) as error:
        print(f"tts-voices: {error}", file=sys.stderr)
        for line in _checks(getattr(error, "report", ())):
            print(line, file=sys.stderr)
        return 1
    return 0


def _add(service: Service, arguments: argparse.Namespace) -> None:
    names = ("name", "id", "transcript", "language", "consent", "speaker", "licence", "source")
    voice = service.add(arguments.audio.read_bytes(), {name: getattr(arguments, name) for name in names})
    deadline_s = time.monotonic() + arguments.wait
    while voice["state"] == "pending" and time.monotonic() < deadline_s:
        time.sleep(0.5)
        voice = service.show(voice["id"])
    _print(voice)


def _list(service: Service, arguments: argparse.Namespace) -> None:
    del arguments
    voices = service.list()
    rows: list[tuple[str, ...]] = [("ID", "STATE", "VERDICT", "MODE", "LANGUAGE", "LICENCE", "CONSENT")]
    for voice in voices:
        shown = (str(voice.get(name) or "-") for name in ("verdict", "mode", "language", "licence", "consent"))
        rows.append((voice["id"], voice["state"], *(text if len(text) <= 40 else text[:39] + "…" for text in shown)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def _show(service: Service, arguments: argparse.Namespace) -> None:
    _print(service.show(arguments.voice))
    if arguments.out is not None:
        arguments.out.write_bytes(service.audio(arguments.voice))


def _remove(service: Service, arguments: argparse.Namespace) -> None:
    service.remove(arguments.voice)
    print(f"{arguments.voice} is removed")


def _print(voice: Json) -> None:
    for name, value in voice.items():
        if name != "report" and value not in (None, ""):
            print(f"{name:10}  {value}")
    for line in _checks(voice.get("report", ())):
        print(line)


def _checks(report: Sequence[Json]) -> list[str]:
    lines: list[str] = []
    for check in report:
        measured = "-" if check["measured"] is None else f"{check['measured']:g}"
        measured = f"over {measured}" if check.get("over") else measured
        line = f"  {check['verdict']:6}  {check['name']} {measured} (allowed: {check['limit']})"
        lines.append(f"{line}: {check['advice']}" if check["advice"] else line)
    return lines


def _path(voice: str) -> str:
    return f"{PATH}/{quote(voice, safe='')}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tts-voices", description="The voices of a running service.")
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="default: %(default)s")
    parser.add_argument("--timeout", type=float, default=60.0, metavar="S", help="default: %(default)s")
    commands = parser.add_subparsers(required=True, metavar="add|list|show|remove")
    add = commands.add_parser("add", help="upload a clip")
    add.set_defaults(run=_add)
    add.add_argument("audio", type=Path, help="3 to 30 s of one speaker: wav, flac, ogg, mp3, m4a, …")
    add.add_argument("--name", required=True, help="shown to people")
    add.add_argument("--consent", required=True, help="who agreed to this cloning, when, and to what use")
    add.add_argument("--id", help="default: made from the name")
    add.add_argument("--transcript", help="exactly what the clip says; without it only the timbre is cloned")
    add.add_argument("--language", help='such as "english"')
    add.add_argument("--speaker", help="who speaks")
    add.add_argument("--licence", help="what allows the use of the clip")
    add.add_argument("--source", help="where the clip is from")
    add.add_argument("--wait", type=float, default=60.0, metavar="S", help="until it is encoded; default: %(default)s")
    commands.add_parser("list", help="every voice").set_defaults(run=_list)
    show = commands.add_parser("show", help="one voice, with its checks")
    show.set_defaults(run=_show)
    show.add_argument("voice")
    show.add_argument("--out", type=Path, metavar="FILE", help="write its clip there, as WAV")
    remove = commands.add_parser("remove", help="forget an uploaded voice")
    remove.set_defaults(run=_remove)
    remove.add_argument("voice")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
