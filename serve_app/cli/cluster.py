"""The process in which `tts-serve` holds its Ray: starts it, deploys the file, and says when it speaks.

Its environment was made by :mod:`serve_app.cli.serve`, which also ends whatever this process has started.
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
from ray.serve._private import api as serve_api
from ray.serve.config import gRPCOptions
from ray.serve.schema import ServeDeploySchema

from serve_app.cli import processes
from serve_app.cli.environment import RAY_DID_NOT_START
from serve_app.cluster.registry import GeneratorStatus
from serve_app.config import AppConfig
from serve_app.deployments.voice_store import ACTOR_NAME, namespace_of
from serve_app.hosts import PROXY_HOST

_OBJECT_STORE_BYTES = 128 << 20
"""Audio goes by gRPC and prompts by value: Ray's object store stays nearly empty."""


class DeployError(Exception):
    """The application did not come up; the message is for the person who started it."""


class StartupError(Exception):
    """Ray's own processes did not come up."""


@dataclass(frozen=True, slots=True)
class Site:
    """Where the service is found.

    Attributes:
        application: name of the Serve application.
        prefix: path that all of its routes begin with; empty where it has none.
        host: that it listens on.
        port: the same.
        args: its configuration.
    """

    application: str
    prefix: str
    host: str
    port: int
    args: AppConfig

    @property
    def address(self) -> str:
        """Host, port and prefix as this machine reaches them."""
        return f"{'127.0.0.1' if self.host == '0.0.0.0' else self.host}:{self.port}{self.prefix}"  # noqa: S104


def main() -> None:
    """Run until told to stop."""
    parser = argparse.ArgumentParser()
    parser.add_argument("config", type=Path)
    parser.add_argument("--metrics-port", type=int)
    arguments = parser.parse_args()
    path: Path = arguments.config
    _clear_up_after_launcher(path.parent)
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


def _clear_up_after_launcher(directory: Path) -> None:
    """The launcher clears up after this process; should it be killed, this process does it and ends."""

    def clear_up(_signal: int, _frame: FrameType | None) -> None:
        processes.end_descendants(processes.PATIENCE_S)
        shutil.rmtree(directory, ignore_errors=True)
        os._exit(1)

    processes.adopt_orphans()
    signal.signal(signal.SIGUSR1, clear_up)
    processes.tell_of_parents_death(signal.SIGUSR1)


def site_of(document: ServeDeploySchema) -> Site:
    """Where a file's one application is to be found; HAProxy may listen elsewhere than what Serve starts behind it."""
    (application,) = document.applications
    http = document.http_options
    prefix = (application.route_prefix or "").rstrip("/")
    host = os.environ.get(PROXY_HOST) or http.host
    return Site(application.name, prefix, host, http.port, AppConfig.model_validate(application.args))


def _start_ray(directory: Path, args: AppConfig, metrics_port: int | None) -> None:
    replicas, sockets = args.generator, args.ingress
    # Ingresses twice: a redeploy has the new ones beside the old.
    wanted = math.ceil(replicas.max_replicas * replicas.num_cpus + 2 * sockets.replicas * sockets.num_cpus)
    try:
        ray.init(
            address="local",
            namespace="serve",
            # Logical CPUs only count: a small machine must not wait for ever for a processor that it does not have.
            num_cpus=max(os.cpu_count() or 1, wanted),
            object_store_memory=_OBJECT_STORE_BYTES,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"worker_process_setup_hook": "serve_app.cli.loopback.bind"},
            _temp_dir=str(directory),
            _metrics_export_port=metrics_port,
        )
    except Exception as error:  # Ray raises no narrower one when its node is not there within 30 s
        raise StartupError(error) from error
    available = ray.cluster_resources().get("GPU", 0.0)
    if replicas.num_gpus > available:
        raise DeployError(
            f"the file asks for {replicas.num_gpus:g} of a GPU for each generator, and Ray finds {available:g} GPUs; "
            "configs/cpu.yaml runs the same model on a CPU"
        )


def deploy(document: ServeDeploySchema) -> None:
    """What ``serve run FILE`` does with it."""
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    client = serve_api.serve_start(
        http_options=document.http_options.model_dump(),
        proxy_location=document.proxy_location,
        grpc_options=gRPCOptions(**document.grpc_options.model_dump()),
        controller_options=document.controller_options,
        global_logging_config=document.logging_config,
    )
    client.deploy_apps(document, _blocking=False)


def wait_until_ready(site: Site) -> GeneratorStatus:
    """Wait for a generator that speaks and a page that answers, saying what it waits for.

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
        store: Any = ray.get_actor(ACTOR_NAME, namespace=namespace_of(site.application))
        return ray.get(store.generators.remote(), timeout=10)
    except (ValueError, RayError):  # not there yet, or coming back
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
    """Print what was started, and how it is spoken to."""
    context = ray.get_runtime_context()
    say = _beside_python("tts-say")
    lines = [
        "",
        f"Ready after {took_s:.0f} s: {status.model}, {status.slots} streams at a time.",
        "",
        f"  page       http://{site.address}/",
        f"  WebSocket  ws://{site.address}/api/v1/speak",
        f"             ws://{site.address}/ws/tts",
        f"  try        {say} --url ws://{site.address}/api/v1/speak --out speech.wav 'It is alive.'",
        "",
        f"  metrics    http://{_metrics_address()}/metrics",
        f"  Ray        {context.gcs_address}, its logs in {context.get_temp_dir()}/session_latest/logs",
    ]
    if status.random_weights:
        lines += [
            "",
            "The weights are random: what it says is noise, not speech. configs/cpu.yaml loads the real model.",
        ]
    lines += ["", "Ctrl-C ends everything."]
    print("\n".join(lines), flush=True)


def _metrics_address() -> str:
    """Where Prometheus finds this node's metrics, those of every replica among them."""
    here = ray.get_runtime_context().get_node_id()
    (node,) = [node for node in ray.nodes() if node["NodeID"] == here]
    return f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}"


def _beside_python(command: str) -> str:
    """How to call a command of this environment from here, whether the environment is active or not."""
    path = Path(sys.executable).with_name(command)
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def _watch(site: Site) -> None:
    """Wait for ever, and say so when the application's state changes."""
    said = "RUNNING"
    while True:
        time.sleep(2)
        try:
            application = serve.status().applications.get(site.application)
        except RayError as error:
            raise DeployError(f"Ray has ended: {error}") from error
        state = "gone" if application is None else str(application.status.value)
        if state != said:
            print(f"the application is {state}", flush=True)
            said = state


if __name__ == "__main__":
    main()
