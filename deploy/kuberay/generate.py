"""Write the ``serveConfigV2`` of each overlay, and what follows from it for the environment of its pods.

Both come from the file of ``configs/`` that the overlay runs.

``python deploy/kuberay/generate.py`` writes them; with ``--check`` it says which have drifted, and fails.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml

from serve_app.cli.environment import ingress_environment
from serve_app.config import AppConfig

HERE = Path(__file__).parent
CONFIGS = HERE.parents[1] / "configs"

OVERLAYS = {"cpu-kind": "local.yaml", "gpu-single": "gpu.yaml", "gpu-cluster": "cluster.yaml"}
"""What each overlay runs."""

IN_A_POD: dict[str, Any] = {"http_options": {"host": "0.0.0.0"}, "proxy_location": "EveryNode"}  # noqa: S104
"""A pod's address is its own: other pods come in by it, and the network policy says which."""

VOICES = "/voices"
"""Where the volume of voices is mounted."""

HEADER = """\
# Written by deploy/kuberay/generate.py from configs/{source}: change that, and run it again.
"""


class _Literal(str):
    """Text that YAML writes as a block."""

    __slots__ = ()


def serve_config(document: dict[str, Any]) -> dict[str, Any]:
    """The same service as ``document`` describes, in a pod; ``document`` is left as it is."""
    application = document["applications"][0]
    args = {**application["args"], "voices": {**application["args"]["voices"], "path": VOICES}}
    return {
        **document,
        "proxy_location": IN_A_POD["proxy_location"],
        "http_options": {**document["http_options"], **IN_A_POD["http_options"]},
        "applications": [{**application, "args": args}],
    }


def patch(source: str) -> str:
    """The patch of the RayService, as the text of its file."""
    document = yaml.safe_load((CONFIGS / source).read_text())
    text = yaml.safe_dump(serve_config(document), sort_keys=False)
    service = {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "metadata": {"name": "tts"},
        "spec": {"serveConfigV2": _Literal(text)},
    }
    return HEADER.format(source=source) + yaml.dump(service, Dumper=_Dumper, sort_keys=False)


def environment(source: str) -> str:
    """What Serve reads from the environment of its nodes and the application from its configuration."""
    document = yaml.safe_load((CONFIGS / source).read_text())
    ingress = AppConfig.model_validate(document["applications"][0]["args"]).ingress
    lines = [f"{name}={value}\n" for name, value in ingress_environment(ingress).items()]
    return HEADER.format(source=source) + "".join(lines)


def files() -> dict[Path, str]:
    """Every file to write, with its text."""
    written = {}
    for overlay, source in OVERLAYS.items():
        written[HERE / "overlays" / overlay / "serve-config.yaml"] = patch(source)
        written[HERE / "overlays" / overlay / "serve.env"] = environment(source)
    return written


class _Dumper(yaml.SafeDumper):
    """Knows :class:`_Literal`."""


_Dumper.add_representer(
    _Literal, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", str(text), style="|")
)


def main() -> None:
    """Write the files, or compare them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a file has drifted")
    check: bool = parser.parse_args().check
    drifted = [path for path, text in files().items() if not path.exists() or path.read_text() != text]
    for path in drifted:
        print(f"{'drifted' if check else 'written'}: {path}")
        if not check:
            path.write_text(files()[path])
    sys.exit(1 if check and drifted else 0)


if __name__ == "__main__":
    main()
