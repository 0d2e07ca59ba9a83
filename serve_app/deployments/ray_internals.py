"""Everything that the service uses of Ray beyond its public API, in one place.

Written for Ray 2.60.0 (:data:`RAY_VERSION`). Ray may change any of it without notice. For another version, check:

- the imports of this module, and the attributes and parameters that ``tests/unit/test_ray_internals.py`` lists;
- HAProxy's file, which Serve writes and :mod:`serve_app.cli.haproxy` corrects (``tests/unit/test_haproxy.py``);
- how Serve drains an ingress replica, see :mod:`serve_app.web.draining` (``tests/service/test_redeploy.py``);
- how Serve buffers its log, see :mod:`serve_app.observability.logging` (``tests/unit/test_logs.py``);
- that under ``tts-serve`` every port is on loopback (``tests/service/test_operation.py``), and that a client that does
  not read fills no memory (``tests/service/test_slow_client.py``);
- then the other tests in ``tests/service``, and :data:`RAY_VERSION` with the pins in ``pyproject.toml`` and
  ``constraints.txt``.
"""

import asyncio
from pathlib import Path
from typing import Any

import ray
from ray.serve._private import api, replica
from ray.serve._private.constants import (
    RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT,
    RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S,
    RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT,
    RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD,
    SERVE_CONTROLLER_NAME,
    SERVE_NAMESPACE,
)
from ray.serve._private.request_router.common import PendingRequest
from ray.serve._private.request_router.replica_wrapper import RunningReplica
from ray.serve._private.request_router.request_router import FIFOMixin, RequestRouter
from ray.serve.config import gRPCOptions
from ray.serve.metrics import Counter
from ray.serve.schema import ServeDeploySchema
from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["FIFOMixin", "PendingRequest", "RequestRouter", "RunningReplica"]
"""The classes of Serve's request router, which are private in this version."""

RAY_VERSION = "2.60.0"
"""The version that this module was written for."""

INGRESS_PORTS = range(RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT, RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT + 1)
"""Each ingress replica listens on one of these ports, behind HAProxy."""

DRAIN_GRACE_S = RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S
"""How long an ingress replica that is being replaced keeps its sockets."""

SHARES_SERVES_LOOP = not RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD
"""Whether our code and Serve's run on the same event loop, as they do only with
``RAY_SERVE_THROUGHPUT_OPTIMIZED=1``."""

STREAM_BY_VALUE: dict[str, Any] = {"stream": True, "_by_reference": False}
"""Options of a handle whose responses are streams by gRPC.

A reference would cost two round trips, and the producer would see no backpressure.
"""

MAX_INBOUND_MESSAGES = 16
"""Maximum number of a connection's messages that wait for the application; at this number, its socket is not read."""

LOOPBACK_HOOK = "serve_app.deployments.ray_internals.bind_to_loopback"
"""Ray's ``worker_process_setup_hook`` that calls :func:`bind_to_loopback`."""


class BoundedInbound:
    """ASGI middleware that bounds the queue behind ``receive``, so that a client that floods it has to wait.

    Serve (``ASGIDIReceiveProxy``) reads a client's messages into an unbounded queue, even if the application does not
    receive them. A flood would therefore fill the replica's memory, although the server below would apply backpressure.

    This works only if :data:`SHARES_SERVES_LOOP`. On another loop the task that fills the queue would not wait, and
    messages that a full queue refuses would be lost.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection; messages that are already queued stay in the queue."""
        queue = getattr(receive, "queue", None)
        if isinstance(queue, asyncio.Queue):
            # asyncio checks this attribute on every put; a new queue would lose the messages in this one.
            queue._maxsize = MAX_INBOUND_MESSAGES  # noqa: SLF001  # pyright: ignore[reportAttributeAccessIssue]
        await self._app(scope, receive, send)


def bind_to_loopback() -> None:
    """Bind the server through which replicas call each other to the loopback interface, in this process.

    Serve binds it to all addresses, whatever the node's address is. A caller from another machine would still need the
    cluster's token; with this change it cannot even connect.
    """
    module: Any = replica
    add_port = module.add_port_to_grpc_server

    def add_loopback_port(server: object, address: str) -> int:
        return add_port(server, address.replace("[::]:", "127.0.0.1:"))

    module.add_port_to_grpc_server = add_loopback_port


def node_options(directory: Path, metrics_port: int | None) -> dict[str, Any]:
    """Return the arguments of ``ray.init`` for a node's files and the port of its metrics; None: any port."""
    return {"_temp_dir": str(directory), "_metrics_export_port": metrics_port}


def deploy(document: ServeDeploySchema) -> None:
    """Start Serve and deploy a file as ``serve run FILE`` does, without waiting until its applications are ready."""
    client = api.serve_start(
        http_options=document.http_options.model_dump(),
        proxy_location=document.proxy_location,
        grpc_options=gRPCOptions(**document.grpc_options.model_dump()),
        controller_options=document.controller_options,
        global_logging_config=document.logging_config,
    )
    client.deploy_apps(document, _blocking=False)


async def http_host() -> str:
    """Return the host that Serve's own proxy listens on."""
    controller: Any = ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
    options = await controller.get_http_config.remote()
    return options.host


def export_at_zero(counter: Counter, labels: dict[str, str]) -> None:
    """Export a counter before its first count; Ray's ``inc`` rejects 0."""
    counter._record(0.0, labels)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
