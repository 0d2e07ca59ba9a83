"""What the service uses of Ray beyond its public API is as it was, and is used in one module."""

import ast
import asyncio
import inspect
import re
import warnings
from pathlib import Path

import pytest
import ray

with warnings.catch_warnings(action="ignore"):  # Ray 2.60 uses what pydantic 2.14 deprecates
    from ray.serve._private import api, replica
    from ray.serve._private.client import ServeControllerClient
    from ray.serve._private.controller import ServeController
    from ray.serve._private.direct_ingress_http_util import ASGIDIReceiveProxy
    from ray.serve.handle import DeploymentHandle
    from ray.serve.metrics import Counter

    from serve_app.deployments import ray_internals

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "serve_app").rglob("*.py"))
HERE = ROOT / "serve_app" / "deployments" / "ray_internals.py"

PARAMETERS = [
    (ray.init, "_temp_dir"),
    (ray.init, "_metrics_export_port"),
    (api.serve_start, "global_logging_config"),
    (api.serve_start, "controller_options"),
    (ServeControllerClient.deploy_apps, "_blocking"),
    (DeploymentHandle.options, "_by_reference"),
    (Counter._record, "value"),
    (Counter._record, "tags"),
    (ray_internals.RequestRouter.choose_replicas, "candidate_replicas"),
    (ray_internals.RequestRouter.choose_replicas, "pending_request"),
    (replica.add_port_to_grpc_server, "address"),
]
ATTRIBUTES = [
    (ray_internals.RequestRouter, "replica_queue_len_cache"),
    (ray_internals.RunningReplica, "replica_id"),
    (ray_internals.RunningReplica, "max_ongoing_requests"),
    (ray_internals.RunningReplica, "routing_stats"),
    (ASGIDIReceiveProxy, "queue"),
    (ServeController, "get_http_config"),
]


def test_the_installed_ray_is_the_one_that_this_was_written_for():
    assert ray.__version__ == ray_internals.RAY_VERSION, (
        f"Ray {ray.__version__} is installed, and this project was written for {ray_internals.RAY_VERSION}.\n\n"
        f"{inspect.getdoc(ray_internals)}"
    )


def test_the_pins_name_that_version():
    version = ray_internals.RAY_VERSION
    assert f"\nray=={version}\n" in (ROOT / "constraints.txt").read_text()
    major, minor, _ = version.split(".")
    pin = f'"ray[serve]>={major}.{minor},<{major}.{int(minor) + 1}"'
    assert pin in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize(("function", "name"), PARAMETERS, ids=lambda each: getattr(each, "__qualname__", each))
def test_a_function_of_ray_still_has_this_parameter(function, name):
    parameters = inspect.signature(function).parameters
    # ray.init takes its private options as further keyword arguments, and names them in its source.
    assert name in parameters or f'"{name}"' in inspect.getsource(inspect.unwrap(function)), function


@pytest.mark.parametrize(("owner", "name"), ATTRIBUTES, ids=lambda each: getattr(each, "__qualname__", each))
def test_a_class_of_ray_still_has_this_attribute(owner, name):
    assert hasattr(owner, name)


def test_a_pending_request_has_the_arguments_of_the_call():
    assert "args" in {
        field for base in ray_internals.PendingRequest.__mro__ for field in vars(base).get("__dataclass_fields__", {})
    }


async def test_the_queue_of_a_connection_is_bounded():
    receive = ASGIDIReceiveProxy({"type": "websocket"}, lambda: None, asyncio.get_running_loop())
    assert receive.queue.maxsize == 0

    async def app(scope, receive, send):
        for _ in range(ray_internals.MAX_INBOUND_MESSAGES):
            receive.queue.put_nowait({})
        with pytest.raises(asyncio.QueueFull):
            receive.queue.put_nowait({})

    await ray_internals.BoundedInbound(app)({"type": "websocket"}, receive, None)


def test_the_server_of_a_replica_is_bound_to_loopback(monkeypatch):
    bound = []
    monkeypatch.setattr(replica, "add_port_to_grpc_server", lambda server, address: bound.append(address) or 1)
    module, _, name = ray_internals.LOOPBACK_HOOK.rpartition(".")
    assert module == ray_internals.__name__
    getattr(ray_internals, name)()
    assert replica.add_port_to_grpc_server(object(), "[::]:0") == 1
    assert bound == ["127.0.0.1:0"]
    assert 'add_port_to_grpc_server(self._server, "[::]:' in inspect.getsource(replica)


def test_no_other_module_uses_rays_private_api():
    private = {source: names for source in SOURCES if (names := _private_names(ast.parse(source.read_text())))}
    assert set(private) == {HERE}, private


def _private_names(tree):
    imported = {name for node in ast.walk(tree) for name in _imported(node) if re.match(r"ray\b.*\._", name)}
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return imported | {each.arg for call in calls for each in call.keywords if (each.arg or "").startswith("_")}


def _imported(node):
    if isinstance(node, ast.ImportFrom):
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
