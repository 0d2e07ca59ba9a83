"""``tts-voices add|list|show|remove|export|import``: manages the voices of a running service from a terminal.

It is a client of ``/v1/audio/voices`` (docs/voices.md).
"""

import argparse
import json
import secrets
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import quote

from serve_app.cli.address import Address, add_options, given_address, refusal, unreachable
from serve_app.cli.outputs import STDOUT, OutputError, check_writable, write

PATH = "/v1/audio/voices"

Fields = Mapping[str, str | None]
Json = dict[str, Any]


class VoicesError(Exception):
    """The command failed; the message is for a terminal.

    Attributes:
        report: the checks of a clip that was rejected.
    """

    def __init__(self, message: str, report: Sequence[Json] = ()) -> None:
        super().__init__(message)
        self.report = report


class Service:
    """The voices of a running service."""

    def __init__(self, address: Address, timeout_s: float) -> None:
        """Store the address; every request has the same timeout."""
        self._address = address
        self._timeout_s = timeout_s

    def list(self) -> "list[Json]":
        """All voices."""
        return self._json("GET", PATH)["voices"]

    def show(self, voice: str) -> Json:
        """One voice."""
        return self._json("GET", _path(voice))

    def audio(self, voice: str) -> bytes:
        """The voice's clip, as a WAV file."""
        return self._ask("GET", _path(voice) + "/audio")

    def file(self, voice: str) -> bytes:
        """The voice as a file for another service."""
        return self._ask("GET", _path(voice) + "/file")

    def add(self, content: bytes, fields: Fields, part: str = "audio") -> Json:
        """Upload a clip, or an exported voice as the part ``voice``; omits fields that are None."""
        boundary = secrets.token_hex(16)
        parts = [f'name="{name}"\r\n\r\n{value}'.encode() for name, value in fields.items() if value is not None]
        head = f'name="{part}"; filename="{part}"\r\ncontent-type: application/octet-stream\r\n\r\n'
        parts.append(head.encode() + content)
        lead = f"--{boundary}\r\ncontent-disposition: form-data; ".encode()
        body = b"".join(lead + part + b"\r\n" for part in parts) + f"--{boundary}--\r\n".encode()
        return self._json("POST", PATH, body, f"multipart/form-data; boundary={boundary}")

    def remove(self, voice: str) -> None:
        """Remove an uploaded voice."""
        self._ask("DELETE", _path(voice))

    def _json(self, method: str, path: str, body: bytes | None = None, kind: str = "") -> Json:
        return json.loads(self._ask(method, path, body, kind))

    def _ask(self, method: str, path: str, body: bytes | None = None, kind: str = "") -> bytes:
        """Send one request and return the body of the response.

        Raises:
            VoicesError: the service refused the request, or cannot be reached.
        """
        address = self._address
        make = HTTPSConnection if address.secure else HTTPConnection
        headers = {"content-type": kind} if kind else {}
        if address.key:
            headers["authorization"] = f"Bearer {address.key}"
        connection = make(address.authority, timeout=self._timeout_s)
        try:
            # The service does not read a body that is too large, but it still answers.
            with suppress(BrokenPipeError, ConnectionResetError):
                connection.request(method, address.prefix + path, body, headers)
            response = connection.getresponse()
            answer = response.read()
        except (OSError, HTTPException) as error:
            raise VoicesError(unreachable(address, error)) from error
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
    report = said.get("report", ()) if isinstance(said, dict) else ()
    return VoicesError(refusal(status, answer), report)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns 0 if it succeeded, else 1."""
    arguments = _parser().parse_args(argv)
    service = Service(given_address(arguments), arguments.timeout)
    try:
        arguments.run(service, arguments)
    except (VoicesError, OSError) as error:
        print(f"tts-voices: {error}", file=sys.stderr)
        for line in _checks(getattr(error, "report", ())):
            print(line, file=sys.stderr)
        return 1
    return 0


def _add(service: Service, arguments: argparse.Namespace) -> None:
    names = ("name", "id", "transcript", "language", "consent", "speaker", "licence", "source", "prompt")
    fields = {name: getattr(arguments, name) for name in names}
    voice = service.add(arguments.audio.read_bytes(), fields | {"loudness_lufs": arguments.loudness})
    _wait_and_print(service, voice, arguments.wait)


def _wait_and_print(service: Service, voice: Json, wait_s: float) -> None:
    deadline_s = time.monotonic() + wait_s
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
    _print(service.show(arguments.voice), sys.stderr if arguments.out == STDOUT else sys.stdout)
    if arguments.out is not None:
        write(arguments.out, service.audio(arguments.voice))


def _remove(service: Service, arguments: argparse.Namespace) -> None:
    service.remove(arguments.voice)
    print(f"removed {arguments.voice}")


def _export(service: Service, arguments: argparse.Namespace) -> None:
    write(arguments.file, service.file(arguments.voice))


def _import(service: Service, arguments: argparse.Namespace) -> None:
    fields = {name: getattr(arguments, name) for name in ("name", "id", "consent")}
    voice = service.add(arguments.file.read_bytes(), fields, part="voice")
    _wait_and_print(service, voice, arguments.wait)


def _print(voice: Json, file: TextIO | None = None) -> None:
    for name, value in voice.items():
        if name != "report" and value not in (None, ""):
            print(f"{name:10}  {value}", file=file)
    for line in _checks(voice.get("report", ())):
        print(line, file=file)


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


def _wav(words: str) -> Path:
    path = Path(words)
    if path.suffix.lower() not in ("", ".wav"):
        raise argparse.ArgumentTypeError(f"{path}: clips are saved as WAV; allowed: .wav, no ending, or -")
    return _writable(words)


def _writable(words: str) -> Path:
    path = Path(words)
    try:
        check_writable(path)
    except OutputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return path


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tts-voices", description="Manage the voices of a running service.")
    _add_common(parser, again=False)
    commands = parser.add_subparsers(required=True, metavar="add|list|show|remove|export|import")

    def command(name: str, run: Callable[[Service, argparse.Namespace], None], words: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=words, description=words)
        made.set_defaults(run=run)
        _add_common(made, again=True)
        return made

    add = command("add", _add, "upload a clip")
    add.add_argument("audio", type=Path, help="3 to 30 s of one speaker: wav, flac, ogg, mp3, m4a, …")
    add.add_argument("--name", required=True, help="display name")
    add.add_argument("--consent", required=True, help="who agreed to the cloning of this voice, when, and for what use")
    add.add_argument("--id", help="default: made from the name")
    add.add_argument("--transcript", help="exactly what the clip says; without it, only the timbre is cloned")
    add.add_argument("--language", help='such as "english"')
    add.add_argument("--speaker", help="the person who speaks")
    add.add_argument("--licence", help="licence of the clip")
    add.add_argument("--source", help="origin of the clip")
    add.add_argument("--prompt", choices=("streaming", "whole"), help="where the talker gets the texts of this voice")
    add.add_argument("--loudness", metavar="LUFS", help="level of its speech, -40 to -10; default: as configured")
    _add_wait(add)
    command("list", _list, "list all voices")
    show = command("show", _show, "show a voice and its checks")
    show.add_argument("voice")
    show.add_argument("--out", type=_wav, metavar="FILE", help="save its clip as WAV; - is standard output")
    command("remove", _remove, "remove an uploaded voice").add_argument("voice")
    export = command("export", _export, "save a voice as a file for another service with the same checkpoint")
    export.add_argument("voice")
    export.add_argument("file", type=_writable, help="for example woolf.safetensors; - is standard output")
    importing = command("import", _import, "add a voice that another service exported")
    importing.add_argument("file", type=Path)
    importing.add_argument("--name", help="display name; default: the file's")
    importing.add_argument("--id", help="default: the file's, or made from --name")
    importing.add_argument("--consent", help="who agreed to the cloning; default: the file's, which may have none")
    _add_wait(importing)
    return parser


def _add_wait(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--wait", type=float, default=60.0, metavar="S", help="wait for encoding; default: %(default)s")


def _add_common(parser: argparse.ArgumentParser, *, again: bool) -> None:
    """Add options that are allowed before and after the name of a subcommand."""
    add_options(parser, again=again)
    timeout_s = argparse.SUPPRESS if again else 60.0
    parser.add_argument("--timeout", type=float, default=timeout_s, metavar="S", help="per request; default: 60")


if __name__ == "__main__":
    raise SystemExit(main())
