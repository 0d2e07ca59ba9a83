"""The image: the Dockerfile, the build context, and the trial without a container engine agree."""

import re
import shutil
import subprocess

import pytest
from manifests import ROOT

DOCKER = ROOT / "deploy" / "docker"
DOCKERFILE = (DOCKER / "Dockerfile").read_text()
INSTALL = (DOCKER / "install.sh").read_text()
TRY = (DOCKER / "try-install.sh").read_text()
SCRIPTS = [
    DOCKER / "install.sh",
    DOCKER / "try-install.sh",
    ROOT / "deploy" / "kuberay" / "try-nodes.sh",
    ROOT / "deploy" / "try-cluster.sh",
]


def _copied():
    """Sources of the build context that the Dockerfile copies."""
    lines = re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
    return {source for line in lines for source in line.split()[:-1]}


def test_what_is_copied_exists_and_is_let_through():
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert _copied() == allowed
    assert all((ROOT / one).exists() for one in allowed)


def test_the_trial_takes_the_same_files_and_steps():
    (parts,) = re.findall(r"^for part in (.+); do$", TRY, re.MULTILINE)
    assert set(parts.split()) == _copied()
    for step in ("install.sh system", "install.sh compiler", "install.sh python"):
        assert re.search(rf"^RUN {step}", DOCKERFILE, re.MULTILINE)
        assert f"sh {step}" in TRY


def test_the_image_is_pinned_and_does_not_run_as_root():
    bases = set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)) - set(
        re.findall(r" AS (\S+)$", DOCKERFILE, re.MULTILINE)
    )
    assert bases == {"debian:12.11-slim"}
    for stage in ("cpu", "cuda"):
        instructions = DOCKERFILE.split(f"FROM runtime AS {stage}\n")[1].split("\nFROM ")[0]
        _, after_user = instructions.split("USER 1000:1000")
        assert "RUN" not in after_user


def test_the_tested_versions_are_installed():
    assert "-c constraints.txt" in INSTALL


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_can_be_read_and_run(script):
    assert script.stat().st_mode & 0o111
    shell = shutil.which("sh")
    assert subprocess.run([shell, "-n", script], capture_output=True, check=False).stderr == b""
