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

pytestmark = pytest.mark.slow

PLACEMENT = Path(__file__).with_name("placement.py")


def test_ingresses_are_placed_where_their_label_is_and_not_on_a_gpus_node():
    # Without `ingress.label_selector` they are spread over both nodes.
    path = ROOT / "configs" / "cluster.yaml"
    with tempfile.TemporaryDirectory(prefix="tts-") as directory:  # sockets in it have long names
        command = [sys.executable, PLACEMENT, directory, path]
        own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
        environment = {**os.environ, **own, "PYTHONPATH": str(ROOT)}
        placed = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=180, check=False
        )
    assert placed.returncode == 0, placed.stderr
    places = json.loads(placed.stdout.splitlines()[-1])
    replicas = yaml.safe_load(path.read_text())["applications"][0]["args"]["ingress"]["replicas"]
    assert places == ["cpus"] * replicas
