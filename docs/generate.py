"""Generate the reference pages: ``configuration.md`` from ``serve_app/config.py``, ``metrics.md`` from ``metrics.py``.

``python docs/generate.py`` replaces the text between the marks of each page. With ``--check`` it writes nothing, lists
the pages that are out of date, and exits with status 1 if there are any.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from serve_app.config import AppConfig
from serve_app.observability.metrics import TABLE

HERE = Path(__file__).parent
BEGIN = "<!-- docs/generate.py -->"
END = "<!-- end -->"
MIB = 1 << 20

Schema = dict[str, Any]


def configuration() -> str:
    """Tables of the configuration, one for each section."""
    parts: list[str] = []
    for section, field in AppConfig.model_fields.items():
        model = field.annotation
        assert model is not None
        introduction = _linked(" ".join((model.__doc__ or "").split()))
        rows = [_row(section, name, schema) for name, schema in model.model_json_schema()["properties"].items()]
        parts += [f"## {section}", introduction, _table(("key", "type", "default", "bounds", "meaning"), rows)]
    return "\n\n".join(parts)


def metrics() -> str:
    """Tables of the metrics, one for each part of the service, and one of the histograms' buckets."""
    parts: list[str] = []
    for where in dict.fromkeys(metric.where for metric in TABLE):
        rows = [
            (f"`{metric.exported}`", metric.kind, _words(metric.labels), metric.help)
            for metric in TABLE
            if metric.where == where
        ]
        parts += [f"## {where.capitalize()}", _table(("name", "kind", "labels", "meaning"), rows)]
    rows = [(f"`{metric.exported}`", _numbers(metric.buckets)) for metric in TABLE if metric.buckets]
    return "\n\n".join([*parts, "## Buckets", _table(("histogram", "upper bounds, without +Inf"), rows)])


PAGES = {"configuration.md": configuration, "metrics.md": metrics}


def files() -> dict[Path, str]:
    """All pages with their new text."""
    return {HERE / name: _filled(HERE / name, make()) for name, make in PAGES.items()}


def _filled(page: Path, text: str) -> str:
    """The page with ``text`` between its marks."""
    before, _, rest = page.read_text().partition(BEGIN)
    assert END in rest, f"{page} has no {BEGIN} followed by {END}"
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.partition(END)[2]}"


def _row(section: str, name: str, schema: Schema) -> tuple[str, ...]:
    choices = [choice for choice in schema.get("anyOf", [schema]) if choice.get("type") != "null"]
    (value,) = choices
    if "$ref" in value:
        value = {"type": "object"}
    kind = _kind(value) + (" or `null`" if "anyOf" in schema else "")
    return f"`{section}.{name}`", kind, _default(schema["default"]), _bounds({**schema, **value}), schema["description"]


def _kind(schema: Schema) -> str:
    if "enum" in schema:
        return _words(schema["enum"])
    if schema["type"] == "array":
        return f"list of {schema['items']['type']}s"
    return schema["type"]


def _default(value: Any) -> str:  # noqa: ANN401 a default may have any type
    text = f"{value:g}" if isinstance(value, float) else json.dumps(value)
    is_mib = isinstance(value, int) and value >= MIB and value % MIB == 0
    return f"`{text}` ({value // MIB} MiB)" if is_mib else f"`{text}`"


def _bounds(schema: Schema) -> str:
    least, most = schema.get("minimum"), schema.get("maximum")
    if least is not None and most is not None:
        return f"{_number(least)} to {_number(most)}"
    parts = [
        f"{word} {_number(schema[key])}"
        for key, word in {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most"}.items()
        if key in schema
    ]
    return ", ".join(parts)


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"


def _numbers(values: Iterable[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _words(values: Iterable[str]) -> str:
    return ", ".join(f"`{value}`" for value in values)


def _linked(text: str) -> str:
    """Turn names of pages into links."""
    return re.sub(r"docs/(\w+\.md)", r"[\1](\1)", text)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([_linked(cell).replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Write the pages, or compare them with ``--check``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a page is out of date")
    check: bool = parser.parse_args().check
    drifted = {path: text for path, text in files().items() if path.read_text() != text}
    for path, text in drifted.items():
        print(f"{'out of date' if check else 'written'}: {path}")
        if not check:
            path.write_text(text)
    sys.exit(1 if check and drifted else 0)


if __name__ == "__main__":
    main()
