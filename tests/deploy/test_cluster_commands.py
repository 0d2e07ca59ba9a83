"""The commands of docs/deploying.md for a cluster; deploy/try-cluster.sh runs them on two nodes, in a minute."""

import re
import subprocess
import sys
from pathlib import Path

from manifests import ROOT

from serve_app.cli.environment import Ports, serve_environment
from serve_app.config import IngressConfig

PAGE = (ROOT / "docs" / "deploying.md").read_text()
(CLUSTER,) = re.findall(r"^## A cluster\n(.*?)^## ", PAGE, re.MULTILINE | re.DOTALL)
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", CLUSTER, re.MULTILINE | re.DOTALL)
ENVIRONMENT, TOKEN, HEAD, NODE, DEPLOY = BLOCKS

OF_ONE_MACHINE = re.compile(r"_(PATH|LOC|BASE|FILE|PORT|HOST|MAXCONN|TOKEN)$|^RAY_ENABLE_WINDOWS")


def test_the_documented_environment_is_the_launchers():
    commands = Path(sys.executable).parent
    command = ["env", "-i", f"PATH={commands}:/usr/bin:/bin", "sh", "-eu", "-c", f"{ENVIRONMENT}\nexec env"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    launcher = serve_environment(Path("/run"), Ports(1, 2, 3, 4), Path("/haproxy"), 4096, IngressConfig())
    wanted = {name: value for name, value in launcher.items() if not OF_ONE_MACHINE.search(name)}
    assert len(wanted) >= 6
    found = dict(line.split("=", 1) for line in printed.splitlines())
    assert wanted.items() <= found.items()
    assert found["RAY_SERVE_HAPROXY_BINARY_PATH"] == str(commands / "tts-haproxy")


def test_serve_run_and_its_second_shell_have_that_environment():
    (section,) = re.findall(r"^## `serve run`\n(.*?)^## ", PAGE, re.MULTILINE | re.DOTALL)
    blocks = re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    assert [block.startswith(ENVIRONMENT) for block in blocks] == [True, True]


def test_the_dashboard_listens_where_serve_looks_for_it():
    assert "--dashboard-host=HEAD" in HEAD.split()
    assert {line.partition("-a ")[2].split()[0] for line in DEPLOY.splitlines()} == {"http://HEAD:8265"}


def test_only_the_owner_can_read_the_token():
    assert TOKEN.startswith("(umask 077; ray get-auth-token --generate")


def test_the_trial_runs_every_block():
    trial = (ROOT / "deploy" / "try-cluster.sh").read_text()
    assert {int(number) for number in re.findall(r"\$\(block (\d)\)", trial)} == set(range(1, len(BLOCKS) + 1))
