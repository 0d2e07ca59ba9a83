"""Where this package's log records go in a replica: into the log files that Serve keeps for it."""

import logging
from logging.handlers import MemoryHandler


def join_serve_log() -> None:
    """Hand everything from INFO on to the handlers of Serve's own logger of this process; twice changes nothing.

    Serve gathers a thousand records before it writes them when it is tuned for throughput; our few are written at once.
    """
    ours, serves = logging.getLogger("serve_app"), logging.getLogger("ray.serve")
    ours.setLevel(logging.INFO)
    ours.propagate = False
    for gathering in serves.handlers:
        handler = gathering.target if isinstance(gathering, MemoryHandler) else gathering
        if handler is not None and handler not in ours.handlers:
            ours.addHandler(handler)
