"""Where Serve places replicas, on logical nodes."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import yaml
from running_service import ROOT

PLACEMENT = Path(__file__).with_name("placement.py")


@pytest.mark.parametrize(
    ("label_selector", "nodes"),
    [({"tts-role": "sockets"}, {"cpus"}), ({}, {"cpus", "gpu"})],
    ids=["tied to labelled nodes", "spread over all"],
)
def test_ingresses_are_placed_where_the_label_is(label_selector, nodes):
    document = yaml.safe_load((ROOT / "configs" / "cluster.yaml").read_text())
    ingress = document["applications"][0]["args"]["ingress"]
    assert ingress["label_selector"] == {"tts-role": "sockets"}
    ingress["label_selector"] = label_selector
    with tempfile.TemporaryDirectory(prefix="tts-") as directory:  # sockets in it have long names
        path = Path(directory) / "cluster.yaml"
        path.write_text(yaml.safe_dump(document))
        command = [sys.executable, PLACEMENT, directory, path]
        own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
        environment = {**os.environ, **own, "PYTHONPATH": str(ROOT)}
        placed = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=180, check=False
        )
    assert placed.returncode == 0, placed.stderr
    places = json.loads(placed.stdout.splitlines()[-1])
    assert len(places) == ingress["replicas"]
    assert set(places) == nodes
