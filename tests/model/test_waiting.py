import os
import re
import subprocess
import sys

import pytest


def spins_of(**given):
    asked = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    environment = {name: value for name, value in os.environ.items() if name not in asked}
    program = "import serve_app.model.backends.torch.torch_linear"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**environment, "OMP_DISPLAY_ENV": "verbose", **given},
        capture_output=True,
        text=True,
        check=True,
    )
    found = re.search(r"GOMP_SPINCOUNT = '(\d+)'", done.stderr)
    if found is None:
        pytest.skip("torch computes with another OpenMP than GNU's")
    return int(found[1])


def test_threads_wait_actively_for_a_short_time_unless_configured():
    assert spins_of() == 3000
    assert spins_of(GOMP_SPINCOUNT="17") == 17
    assert spins_of(OMP_WAIT_POLICY="passive") == 0
