"""docs/configuration.md and docs/metrics.md say what the code says."""

import importlib.util

import pytest
from pages import DOCS

from serve_app.config import AppConfig
from serve_app.observability.metrics import TABLE

SECTIONS = {name: field.annotation for name, field in AppConfig.model_fields.items()}
KEYS = [(section, key) for section, model in SECTIONS.items() for key in model.model_fields]


@pytest.fixture(scope="module")
def generate():
    spec = importlib.util.spec_from_file_location("generate_docs", DOCS / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pages_are_in_step_with_the_code(generate):
    for path, text in generate.files().items():
        assert path.read_text() == text, f"{path.name} has drifted: python docs/generate.py"


@pytest.mark.parametrize(("section", "key"), KEYS)
def test_every_key_says_what_it_is(section, key):
    description = SECTIONS[section].model_fields[key].description
    assert description, f"{section}.{key} has no description"
    assert description.endswith("."), f"{section}.{key}: {description}"


def test_every_key_and_every_metric_has_its_line(generate):
    configuration, metrics = generate.configuration(), generate.metrics()
    assert [f"`{section}.{key}`" for section, key in KEYS] == [
        line.split(" | ")[0].removeprefix("| ") for line in configuration.splitlines() if line.startswith("| `")
    ]
    for metric in TABLE:
        assert metrics.count(f"`{metric.exported}`") == (2 if metric.buckets else 1), metric.name


def test_a_line_has_type_default_and_bounds(generate):
    lines = {line.split(" | ")[0].strip("| `"): line for line in generate.configuration().splitlines()}
    assert "| integer | `10` | 1 to 64 |" in lines["engine.slots"]
    assert "| number or `null` | `4` | above 0 |" in lines["engine.stall_guard_s"]
    assert "| integer or `null` | `null` | 1 to 256 |" in lines["model.threads"]
    assert '| `drop`, `keep` | `"drop"` |  |' in lines["text.emoji"]
    assert "| list of strings | `[]` |  |" in lines["ingress.allowed_origins"]
    assert "`268435456` (256 MiB) | at least 1048576 |" in lines["voices.max_bytes"]
