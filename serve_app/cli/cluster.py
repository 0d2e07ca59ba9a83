"""The process of `tts-serve` that starts Ray, deploys the configuration, and prints when the service is ready.

:mod:`serve_app.cli.serve` prepares the environment of this process, and ends all processes that this one started.
"""

import argparse
import logging
import math
import os
import shutil
import signal
import sys
import time
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from types import FrameType
from typing import Any

import ray
import yaml
from ray import serve
from ray.exceptions import RayError
from ray.serve.schema import ServeDeploySchema

from serve_app.cli import processes
from serve_app.cli.environment import RAY_DID_NOT_START
from serve_app.cluster.registry import GeneratorStatus
from serve_app.config import AppConfig
from serve_app.deployments import ray_internals
from serve_app.deployments.coordinator import ACTOR_NAME, namespace_of
from serve_app.hosts import PROXY_HOST
from serve_app.weights import NOTICES

_OBJECT_STORE_BYTES = 128 << 20
"""Audio travels by gRPC and voice prompts by value, so Ray's object store stays nearly empty."""


class DeployError(Exception):
    """The application did not start; the message is for the user."""


class StartupError(Exception):
    """Ray's own processes did not start."""


@dataclass(frozen=True, slots=True)
class Site:
    """Address and configuration of the service.

    Attributes:
        application: name of the Serve application.
        prefix: route prefix; empty if there is none.
        host: host that it listens on.
        port: port that it listens on.
        args: configuration of the application.
    """

    application: str
    prefix: str
    host: str
    port: int
    args: AppConfig

    @property
    def address(self) -> str:
        """Host, port and prefix for clients on this machine."""
        return f"{'127.0.0.1' if self.host == '0.0.0.0' else self.host}:{self.port}{self.prefix}"  # noqa: S104


def main() -> None:
    """Run until interrupted."""
    parser = argparse.ArgumentParser()
    parser.add_argument("config", type=Path)
    parser.add_argument("--metrics-port", type=int)
    arguments = parser.parse_args()
    path: Path = arguments.config
    _clean_up_after_launcher(path.parent)
    began_s = time.monotonic()
    try:
        document = ServeDeploySchema.model_validate(yaml.safe_load(path.read_text()))
        site = site_of(document)
        _start_ray(path.parent / "ray", site.args, arguments.metrics_port)
        deploy(document)
        status = wait_until_ready(site)
        announce(site, status, time.monotonic() - began_s)
        _watch(site)
    except DeployError as error:
        sys.exit(f"tts-serve: {error}")
    except StartupError as error:
        print(f"tts-serve: Ray did not start: {error}", file=sys.stderr)
        sys.exit(RAY_DID_NOT_START)


def _clean_up_after_launcher(directory: Path) -> None:
    """Clean up and exit if the launcher is killed; otherwise the launcher cleans up after this process."""

    def clean_up(_signal: int, _frame: FrameType | None) -> None:
        processes.end_descendants(processes.PATIENCE_S)
        shutil.rmtree(directory, ignore_errors=True)
        os._exit(1)

    processes.become_subreaper()
    signal.signal(signal.SIGUSR1, clean_up)
    processes.signal_on_parent_death(signal.SIGUSR1)


def site_of(document: ServeDeploySchema) -> Site:
    """Address of the file's only application; HAProxy may listen on another host than Serve's own servers behind it."""
    (application,) = document.applications
    http = document.http_options
    prefix = (application.route_prefix or "").rstrip("/")
    host = os.environ.get(PROXY_HOST) or http.host
    return Site(application.name, prefix, host, http.port, AppConfig.model_validate(application.args))


def _start_ray(directory: Path, args: AppConfig, metrics_port: int | None) -> None:
    replicas, sockets = args.generator, args.ingress
    # Ingresses count twice: a redeploy runs the new ones beside the old ones.
    wanted = math.ceil(replicas.max_replicas * replicas.num_cpus + 2 * sockets.replicas * sockets.num_cpus)
    try:
        ray.init(
            address="local",
            namespace="serve",
            # Ray only counts CPUs. With the true number, a small machine would wait forever for CPUs that it does not
            # have.
            num_cpus=max(os.cpu_count() or 1, wanted),
            object_store_memory=_OBJECT_STORE_BYTES,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"worker_process_setup_hook": ray_internals.LOOPBACK_HOOK},
            **ray_internals.node_options(directory, metrics_port),
        )
    except Exception as error:  # Ray raises no more specific error if its node does not start within 30 s
        raise StartupError(error) from error
    available = ray.cluster_resources().get("GPU", 0.0)
    if replicas.num_gpus > available:
        raise DeployError(
            f"the file requests {replicas.num_gpus:g} of a GPU for each generator, but Ray found {available:g} GPUs; "
            "configs/cpu.yaml runs the same model on a CPU"
        )


def deploy(document: ServeDeploySchema) -> None:
    """Deploy the file as ``serve run FILE`` does."""
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    ray_internals.deploy(document)


def wait_until_ready(site: Site) -> GeneratorStatus:
    """Wait until a generator is ready and the page answers; in the meantime, print what is missing.

    Raises:
        DeployError: a generator or the application has failed.
    """
    said = ""
    while True:
        statuses = _generators(site)
        for status in statuses:
            if status.state == "failed":
                raise DeployError(f"the generator did not start: {status.detail}")
            if status.state == "ready" and _answers(site):
                return status
        _check_deployed(site)
        detail = statuses[-1].detail if statuses else ""
        if detail and detail != said:
            print(f"… {detail}", flush=True)
            said = detail
        time.sleep(0.2)


def _check_deployed(site: Site) -> None:
    application = serve.status().applications.get(site.application)
    if application is not None and application.status == "DEPLOY_FAILED":
        reasons = [application.message, *(deployment.message for deployment in application.deployments.values())]
        raise DeployError("the application was not deployed:\n" + "\n".join(filter(None, reasons)))


def _generators(site: Site) -> list[GeneratorStatus]:
    try:
        coordinator: Any = ray.get_actor(ACTOR_NAME, namespace=namespace_of(site.application))
        return ray.get(coordinator.generators.remote(), timeout=10)
    except (ValueError, RayError):  # not started yet, or restarting
        return []


def _answers(site: Site) -> bool:
    connection = HTTPConnection(site.address.removesuffix(site.prefix), timeout=5)
    try:
        connection.request("GET", f"{site.prefix}/ready")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def announce(site: Site, status: GeneratorStatus, took_s: float) -> None:
    """Print what was started and how to use it."""
    context = ray.get_runtime_context()
    say = _beside_python("tts-say")
    lines = [
        "",
        f"Ready after {took_s:.0f} s: {status.model}, {status.slots} concurrent streams.",
        "",
        f"  page       http://{site.address}/",
        f"  WebSocket  ws://{site.address}/api/v1/speak",
        f"             ws://{site.address}/ws/tts",
        f"  try        {say} --url ws://{site.address}/api/v1/speak --out speech.wav 'It is alive.'",
        "",
        f"  metrics    http://{_metrics_address()}/metrics",
        f"  Ray        {context.gcs_address}, its logs in {context.get_temp_dir()}/session_latest/logs",
    ]
    if notice := NOTICES[status.weights]:
        lines += ["", notice]
    lines += ["", "Ctrl-C stops everything."]
    print("\n".join(lines), flush=True)


def _metrics_address() -> str:
    """Address where Prometheus finds the metrics of this node, including those of all replicas."""
    here = ray.get_runtime_context().get_node_id()
    (node,) = [node for node in ray.nodes() if node["NodeID"] == here]
    return f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}"


def _beside_python(command: str) -> str:
    """Path to a command of this environment, relative to the current directory if possible."""
    path = Path(sys.executable).with_name(command)
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def _watch(site: Site) -> None:
    """Wait forever, and print changes of the application's state."""
    said = "RUNNING"
    while True:
        time.sleep(2)
        try:
            application = serve.status().applications.get(site.application)
        except RayError as error:
            raise DeployError(f"Ray has stopped: {error}") from error
        state = "gone" if application is None else str(application.status.value)
        if state != said:
            print(f"the application is {state}", flush=True)
            said = state


if __name__ == "__main__":
    main()
