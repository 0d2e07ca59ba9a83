"""Every overlay as `kubectl kustomize` renders it, and the schemas that its objects have to keep."""

import functools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
KUBERAY = ROOT / "deploy" / "kuberay"
OVERLAYS = sorted(path.parent.name for path in (KUBERAY / "overlays").glob("*/kustomization.yaml"))
KUBERNETES = "1.34"
"""The schemas of core kinds are this version's; what it takes, later ones take as well."""

Object = dict[str, Any]


def rendered(overlay: str) -> list[Object]:
    """The overlay's objects; skips the test where there is no kubectl that can build them."""
    return _build(KUBERAY / "overlays" / overlay)


def only(objects: list[Object], kind: str) -> Object:
    """The one object of this kind."""
    (found,) = (one for one in objects if one["kind"] == kind)
    return found


def pod_templates(objects: list[Object]) -> dict[str, Object]:
    """Every pod template, by what it belongs to; labels that KubeRay adds are on Ray's."""
    cluster = only(objects, "RayService")["spec"]["rayClusterConfig"]
    ray = {"head": ("head", cluster["headGroupSpec"]["template"])}
    ray |= {group["groupName"]: ("worker", group["template"]) for group in cluster["workerGroupSpecs"]}
    templates = {
        name: {
            **template,
            "metadata": {
                "labels": {
                    **template["metadata"]["labels"],
                    "ray.io/is-ray-node": "yes",
                    "ray.io/node-type": node_type,
                }
            },
        }
        for name, (node_type, template) in ray.items()
    }
    return templates | {one["metadata"]["name"]: one["spec"]["template"] for one in objects if one["kind"] == "Job"}


def crd_schema(name: str) -> Object:
    """KubeRay's schema of a kind, with unknown fields refused; skips the test where it is not at hand."""
    folder = Path(os.environ.get("KUBERAY_SCHEMAS", ROOT.parent / "shared" / "schemas"))
    path = folder / f"crd_{name}.json"
    if not path.is_file():
        pytest.skip(f"KubeRay's schema is not at {path}: set KUBERAY_SCHEMAS to a folder with crd_{name}.json")
    (version,) = json.loads(path.read_text())["spec"]["versions"]
    return _closed(version["schema"]["openAPIV3Schema"])


def _closed(schema: Any) -> Any:
    """The API server drops what a schema does not name, without a word; here it is an error."""
    if isinstance(schema, list):
        return [_closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items()}
    named = isinstance(closed.get("properties"), dict) and closed.get("type") == "object"
    if named and "additionalProperties" not in closed and not closed.get("x-kubernetes-preserve-unknown-fields"):
        closed["additionalProperties"] = False
    return closed


@functools.cache
def _build(folder: Path) -> list[Object]:
    command = [_kubectl(), "kustomize", str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 0, result.stderr
    assert not result.stderr, result.stderr  # a deprecated field is a warning there
    return list(yaml.safe_load_all(result.stdout))


@functools.cache
def _kubectl() -> str:
    """kubectl beside this Python (the `dev` extra brings it), else on the PATH."""
    beside = Path(sys.executable).with_name("kubectl")
    found = str(beside) if beside.exists() else shutil.which("kubectl")
    if found is None:
        pytest.skip("kubectl is not installed, so the overlays are not rendered")
    said = subprocess.run([found, "version", "--client"], capture_output=True, text=True, check=False).stdout
    version = re.search(r"Kustomize Version: v(\d+)", said)
    if version is None or int(version[1]) < 5:
        pytest.skip(f"{found} has a kustomize before 5, which does not know what the overlays use")
    return found
