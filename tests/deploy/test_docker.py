"""The image's files agree: what the Dockerfile copies, what reaches it, what is tried without a container engine."""

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


def test_what_is_installed_behind_the_path_of_the_image_finds_its_script_and_dpkgs_programs():
    _, after = DOCKERFILE.split("ENV PATH=")
    assert "RUN install.sh compiler" in after
    assert {"/usr/local/sbin", "/usr/sbin", "/sbin"} <= set(after.split()[0].split(":"))


def test_every_image_is_pinned_and_none_runs_as_root():
    stages = re.findall(r"^FROM (\S+) AS (\S+)$", DOCKERFILE, re.MULTILINE)
    assert {base for base, _ in stages} - {name for _, name in stages} == {"debian:12.11-slim"}
    assert stages[-1] == ("runtime", "cuda")
    for stage in ("cpu", "cuda"):
        (instructions,) = re.findall(rf"^FROM runtime AS {stage}\n((?:(?!FROM).*\n?)*)", DOCKERFILE, re.MULTILINE)
        assert re.findall(r"^USER (.+)$", instructions, re.MULTILINE) == ["1000:1000"]
        assert "RUN" not in instructions.split("USER")[1]
    assert DOCKERFILE.count("\nUSER ") == 2
    assert "HEALTHCHECK" in DOCKERFILE


def test_everything_is_installed_at_the_versions_that_were_tested():
    assert "-c constraints.txt" in INSTALL
    assert not re.search(r"(curl|wget)[^\n]*\|", DOCKERFILE + INSTALL)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_can_be_read_and_run(script):
    assert script.stat().st_mode & 0o111
    shell = shutil.which("sh")
    assert subprocess.run([shell, "-n", script], capture_output=True, check=False).stderr == b""
