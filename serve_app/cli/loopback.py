"""Runs first in every Ray worker of `tts-serve`: keeps Serve's own servers on this machine.

Serve binds the server through which replicas call each other to every address, whatever the node's address is.
A caller from outside would still need the run's token; with this it finds no port.
"""

from typing import Any

from ray._common import tls_utils


def bind() -> None:
    """Replace the function that Serve's replica module imports when it is loaded, later."""
    add_port: Any = tls_utils.add_port_to_grpc_server

    def add_loopback_port(server: object, address: str) -> int:
        return add_port(server, address.replace("[::]:", "127.0.0.1:"))

    tls_utils.add_port_to_grpc_server = add_loopback_port
