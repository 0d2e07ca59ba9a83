"""Prints where Serve places the ingresses of a configuration, of one node with a GPU and one without; no model runs."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import ray
import yaml
from ray import serve
from ray.cluster_utils import Cluster

from serve_app.app import ingress_options
from serve_app.cli import processes
from serve_app.config import AppConfig

directory, configuration = sys.argv[1:]
os.environ["RAY_TMPDIR"] = directory
PATIENCE_S = 150
"""Then it gives up by itself, and leaves nothing behind."""


def end(status: int) -> None:
    """End with everything that was started."""
    processes.end_descendants(processes.PATIENCE_S)
    os._exit(status)


processes.become_subreaper()
signal.signal(signal.SIGALRM, lambda _number, _frame: end(1))
signal.alarm(PATIENCE_S)
config = AppConfig.model_validate(yaml.safe_load(Path(configuration).read_text())["applications"][0]["args"])
local = {"node_ip_address": "127.0.0.1", "object_store_memory": 80 << 20, "include_dashboard": False}
head = {**local, "num_cpus": 0, "num_gpus": 0, "temp_dir": f"{directory}/ray"}
nodes = Cluster(initialize_head=True, head_node_args=head, shutdown_at_exit=False)
nodes.add_node(num_cpus=8, num_gpus=1, labels={"has": "gpu"}, **local)
nodes.add_node(num_cpus=8, num_gpus=0, labels={"has": "cpus", **config.ingress.label_selector}, **local)
ray.init(address=nodes.address, namespace="serve", log_to_driver=False, logging_level="ERROR")
serve.start(proxy_location="Disabled")


class Where:
    """A replica that says which it is, and where."""

    def __call__(self) -> tuple[str, str]:
        time.sleep(0.2)
        here = ray.get_runtime_context().get_node_id()
        (node,) = [node for node in ray.nodes() if node["NodeID"] == here]
        return serve.get_replica_context().replica_id.unique_id, node["Labels"]["has"]


options = {**ingress_options(config), "max_ongoing_requests": 1}
handle = serve.run(serve.deployment(Where, name="Ingress", **options).bind(), route_prefix=None)
# One call at a time for each replica: each of them is asked.
found = dict(answer.result() for answer in [handle.remote() for _ in range(4 * config.ingress.replicas)])
sys.stdout.write(json.dumps(sorted(found.values())) + "\n")
sys.stdout.flush()
end(0)
