"""What ``make`` would run, as the pages promise it; the commands themselves have tests of their own."""

import os
import shutil
import subprocess

import pytest
from pages import ROOT

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def recipe(*words):
    # Where the tests are run by make, it hands its own command line on.
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("MAKE") and "WORKERS" not in name
    }
    printed = subprocess.run(
        ["make", "--dry-run", "--no-print-directory", *words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return printed.stdout


def test_make_run_installs_and_serves_the_local_file():
    printed = recipe("--always-make", "run")
    steps = ["pip install", "-c constraints.txt -e '.[dev]'", "tts-serve configs/local.yaml"]
    assert [printed.find(step) for step in steps] == sorted(printed.find(step) for step in steps)
    assert all(step in printed for step in steps)


def test_make_run_takes_another_file_and_another_port():
    assert "tts-serve configs/cpu.yaml --port 8080" in recipe("run", "CONFIG=configs/cpu.yaml", "PORT=8080")


def test_make_say_speaks_to_the_service_of_make_run():
    say = '.venv/bin/tts-say --url http://127.0.0.1:8000 --out speech.wav "$TEXT"'
    assert say in recipe("say", "TEXT=It is alive.")


def test_make_docs_checks_the_references_and_builds_the_site():
    printed = recipe("docs")
    # Not with --quiet: warnings that are not printed are not counted either, and a dead link would pass.
    assert printed.index("docs/generate.py --check") < printed.index("properdocs build\n")


@pytest.mark.parametrize(
    ("target", "programs"),
    [
        (
            "test-all",
            [
                "pytest -n 2 --dist worksteal tests/model tests/unit tests/deploy",
                "pytest -n 2 --dist loadgroup tests/service",
            ],
        ),
        ("check", ["ruff check", "ruff format --check", "basedpyright", "lint-imports", "codespell", "deptry ."]),
    ],
)
def test_make_test_all_and_make_check_run_everything(target, programs):
    printed = recipe(target, "WORKERS=2")
    assert all(f".venv/bin/{program}\n" in printed for program in programs)


def test_make_test_leaves_out_what_is_slow_and_no_part():
    commands = [line for line in recipe("test").splitlines() if "pytest" in line]
    assert all('-m "not slow" --hypothesis-profile=short' in command for command in commands)
    assert set(" ".join(commands).split()) >= {"tests/unit", "tests/deploy", "tests/model", "tests/service"}


def test_make_bench_runs_benchmarks_that_exist():
    scripts = {word for word in recipe("bench").split() if word.startswith("benchmarks/")}
    assert scripts
    assert all((ROOT / script).exists() for script in scripts)
