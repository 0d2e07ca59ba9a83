"""Runs the service on a Ray cluster of several nodes on this machine, and executes commands line by line.

    python benchmarks/nodes.py service.yaml --port 8123 --workers 2 --gpus 1

Every node has its own raylet, object store and worker processes, as on separate machines; they share an address and two
cores. GPUs are logical: Ray counts them, but nothing computes on one. The head runs the ingresses, and no generator if
the file gives generators a share of a GPU. ``benchmarks/service.py`` starts this program. It answers each line of JSON
on standard input with a line on standard output::

    {"do": "add"}                        add a worker node
    {"do": "kill", "node": 0}            kill -9 of everything on the oldest remaining worker node
    {"do": "deploy", "args": {...}, "generator": {...}}     deploy the file again; some of its `args`, or of the options
                                         of its generator deployment, are replaced from now on
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import yaml

from serve_app.cli import processes
from serve_app.cli.environment import free_ports, serve_environment, write_haproxy
from serve_app.config import AppConfig

DIRECTORY = "NODES_DIRECTORY"
OBJECT_STORE_BYTES = 100 << 20
HEAD_CPUS = 16


def main() -> None:
    """Set the environment that Ray reads when it is imported, in a new process; then run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--gpus", type=float, default=1.0, help="logical GPUs per worker node")
    arguments = parser.parse_args()
    if DIRECTORY not in os.environ:
        directory = Path(tempfile.mkdtemp(prefix="tts-"))
        os.environ.update(environment(directory, arguments.config))
        os.execv(sys.executable, [sys.executable, *sys.argv])  # noqa: S606 - ourselves
    processes.become_subreaper()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    try:
        run(arguments)
    except KeyboardInterrupt:
        pass
    except Exception:  # noqa: BLE001 - the process exits below, without Python's own report
        traceback.print_exc()
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        processes.end_descendants(processes.PATIENCE_S)
        shutil.rmtree(os.environ[DIRECTORY], ignore_errors=True)
        os._exit(0)  # Ray's exit handlers would look for processes that are already gone


def interrupt(_signal: int, _frame: object) -> None:
    """Ignore a second interrupt, so that the cleanup completes."""
    raise KeyboardInterrupt


def environment(directory: Path, config: Path) -> dict[str, str]:
    """The environment of all nodes, as ``tts-serve`` sets it."""
    application = yaml.safe_load(config.read_text())["applications"][0]
    ingress = AppConfig.model_validate(application["args"]).ingress
    root = str(Path(__file__).parents[1])
    return {
        **serve_environment(directory, free_ports(), write_haproxy(directory), 1000, ingress),
        DIRECTORY: str(directory),
        "RAY_TMPDIR": str(directory),  # other processes find the cluster's address here
        "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])),
    }


def run(arguments: argparse.Namespace) -> None:
    """Start, deploy, wait, announce, then execute commands."""
    import ray  # noqa: PLC0415 - in the new process
    from ray.cluster_utils import Cluster  # noqa: PLC0415

    from serve_app.cli import cluster as launcher  # noqa: PLC0415 - its steps after Ray's start

    document = yaml.safe_load(arguments.config.read_text())
    document["proxy_location"] = "HeadOnly"  # proxies on several nodes would need the same ports
    document["http_options"]["port"] = arguments.port
    local = {"node_ip_address": "127.0.0.1", "object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False}
    labels = document["applications"][0]["args"].get("ingress", {}).get("label_selector", {})
    head = {**local, "num_cpus": HEAD_CPUS, "num_gpus": 0, "temp_dir": f"{os.environ[DIRECTORY]}/ray", "labels": labels}
    nodes = Cluster(initialize_head=True, head_node_args=head, shutdown_at_exit=False)
    workers = [nodes.add_node(num_cpus=0, num_gpus=arguments.gpus, **local) for _ in range(arguments.workers)]
    ray.init(
        address=nodes.address,
        namespace="serve",
        log_to_driver=False,
        logging_level="ERROR",
        runtime_env={"worker_process_setup_hook": "serve_app.deployments.ray_internals.bind_to_loopback"},
    )
    deployed = launcher.ServeDeploySchema.model_validate(document)
    launcher.deploy(deployed)
    site = launcher.site_of(deployed)
    launcher.announce(site, launcher.wait_until_ready(site), 0.0)
    for line in sys.stdin:
        wish = json.loads(line)
        match wish["do"]:
            case "add":
                workers.append(nodes.add_node(num_cpus=0, num_gpus=arguments.gpus, **local))
            case "kill":
                kill(workers.pop(wish["node"]))
            case "deploy":
                change(document, wish.get("args", {}), wish.get("generator", {}))
                launcher.deploy(launcher.ServeDeploySchema.model_validate(document))
            case unknown:
                raise ValueError(unknown)
        print(json.dumps({"done": wish["do"], "at_s": time.time()}), flush=True)


def kill(node: Any) -> None:  # noqa: ANN401 - Ray's own class
    """Kill all processes of a node at the same time, as in a power failure."""
    roots = [info.process.pid for of_kind in node.all_processes.values() for info in of_kind]
    for pid in [*roots, *(child for root in roots for child in processes.descendants(root))]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def change(document: dict[str, Any], args: dict[str, dict[str, Any]], generator: dict[str, Any]) -> None:
    """Replace some of the application's arguments, and of the options of its generator deployment."""
    application = document["applications"][0]
    for section, values in args.items():
        application["args"].setdefault(section, {}).update(values)
    if generator:
        application["deployments"] = [{"name": "Generator", **generator}]


if __name__ == "__main__":
    main()
