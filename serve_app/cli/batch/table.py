"""The table of texts: one JSON object per line. It is checked completely before the first text is sent."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from serve_app.protocol.messages import FORMATS

Json = dict[str, Any]

_SPEECH = ("voice", "language", "response_format", "sample_rate", "speed", "seed", "sampling", "normalize", "prompt")
FIELDS = ("id", "text", *_SPEECH, "lexicon", "ref_audio", "ref_text", "x_vector_only_mode")
"""The fields of a line. All but the first two are those of ``POST /v1/audio/speech/batch``, which checks them."""

MAX_LINE_BYTES = 1 << 20
_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,119}")
_ID_RULE = "1 to 120 letters (A to Z), digits, '.', '_' and '-', not beginning with '.', because it names a file"


class BatchError(Exception):
    """The run cannot begin or go on; the message is for a terminal."""


@dataclass(frozen=True, slots=True)
class Row:
    """One text.

    Attributes:
        number: the number of its line.
        id: its id, which is unique in the table; by default the number of its line.
        item: the fields of the request.
        file: name of its audio file.
        digest: of all fields of the request, to see whether the text was spoken with the same ones before.
    """

    number: int
    id: str
    item: Json
    file: str
    digest: str


def check(path: Path, defaults: Mapping[str, Any]) -> int:
    """Check a table; return its number of texts.

    Raises:
        BatchError: the table is wrong; the message names the line, what is wrong, and what is allowed.
        OSError: the file cannot be read.
    """
    if path.exists() and not path.is_file():
        raise BatchError(f"{path} is not a regular file, and it has to be read several times; allowed: a file")
    lines: dict[str, int] = {}
    for row in rows(path, defaults):
        same = row.id.lower()  # some file systems do not tell case apart
        if lines.setdefault(same, row.number) != row.number:
            raise BatchError(f"line {row.number}: the id {row.id!r} is that of line {lines[same]}; allowed: unique ids")
    if not lines:
        raise BatchError(f"{path} has no texts")
    return len(lines)


def rows(path: Path, defaults: Mapping[str, Any]) -> Iterator[Row]:
    """Yield the texts of a table in order; ``defaults`` are the fields that a line may leave out.

    Raises:
        BatchError: a line is wrong.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(line) > MAX_LINE_BYTES:
                raise BatchError(f"line {number} is longer than {MAX_LINE_BYTES} bytes")
            if line.strip():
                yield _row(number, line, defaults)


def _row(number: int, line: bytes, defaults: Mapping[str, Any]) -> Row:
    try:
        given: Any = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
    except ValueError as error:
        raise BatchError(f"line {number} is not JSON: {error}") from None
    if not isinstance(given, dict):
        raise BatchError(f"line {number} is not a JSON object")
    fields = {name: value for name, value in cast("Json", given).items() if value is not None}
    unknown = next((name for name in fields if name not in FIELDS), None)
    if unknown is not None:
        raise BatchError(f"line {number}: unknown field {unknown[:100]!r}; allowed: {', '.join(FIELDS)}")
    text = fields.pop("text", None)
    if not isinstance(text, str):
        raise BatchError(f"line {number} needs a text: a string; given: {str(text)[:100]}")
    given_id = fields.pop("id", f"{number:06}")
    row_id = str(given_id)
    if not isinstance(given_id, str | int) or isinstance(given_id, bool) or not _ID.fullmatch(row_id):
        raise BatchError(f"line {number}: the id {row_id[:150]!r} is not allowed; allowed: {_ID_RULE}")
    item = {**defaults, **fields, "input": text}
    name = str(item["response_format"]).lower()
    if name not in FORMATS:
        raise BatchError(f"line {number}: response_format {name[:100]!r} is not known; allowed: {', '.join(FORMATS)}")
    digest = hashlib.sha256(json.dumps(item, sort_keys=True).encode(errors="surrogatepass")).hexdigest()[:16]
    return Row(number, row_id, item, f"{row_id}.{name}", digest)
