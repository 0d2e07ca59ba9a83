"""Runs first in every Ray worker of `tts-serve`: binds Serve's own servers to the loopback interface.

Serve binds the server through which replicas call each other to all addresses, whatever the node's address is. A
caller from another machine would still need the run's token; with this change it cannot even connect.
"""

from typing import Any

from ray._common import tls_utils


def bind() -> None:
    """Replace a function before Serve's replica module imports it."""
    add_port: Any = tls_utils.add_port_to_grpc_server

    def add_loopback_port(server: object, address: str) -> int:
        return add_port(server, address.replace("[::]:", "127.0.0.1:"))

    tls_utils.add_port_to_grpc_server = add_loopback_port
