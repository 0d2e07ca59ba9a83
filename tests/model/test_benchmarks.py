import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_benchmark_of_the_engine_measures_all_that_it_says(tmp_path):
    """On the tiny checkpoint; its figures say nothing but that each part was run, its parts alone too."""
    found = tmp_path / "figures.json"
    command = ["benchmarks/engine.py", "--model", "tiny", "--device", "cpu", "--json", str(found)]
    options = ["--streams", "1,2", "--frames", "6", "--rounds", "1"]
    done = subprocess.run(
        [sys.executable, *command, *options], cwd=ROOT, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr[-4000:]
    figures = json.loads(found.read_text())
    assert [(row["streams"], row["frames"]) for row in figures["engine"]] == [(1, 6), (2, 12)]
    assert all(row["times_upstream"] > 0 and row["ttfa_s"] > 0 for row in figures["engine"])
    ours, released = (row["positions"] for row in figures["like_the_release"][:2])
    assert ours < released
    assert [row["streams"] for row in figures["where"]] == [1, 2]
    for row in figures["where"]:
        parts = row["predict"], row["talk"], row["codec"], row["products"], row["compiled_attention"], row["sampling"]
        assert min(parts) > 0, row
    assert figures["floor"]["weight_bytes_per_frame"] > 0
    assert sum(figures["bytes_per_slot"].values()) > 0
