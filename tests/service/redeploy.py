"""Deploys a running service's file again with another argument; a process of its own, as ``serve deploy`` is one."""

import sys
from pathlib import Path

import ray
import yaml
from ray.serve.schema import ServeDeploySchema

from serve_app.cli.cluster import deploy

address, path, max_waiting_streams = sys.argv[1:]
document = yaml.safe_load(Path(path).read_text())
document["applications"][0]["args"]["engine"]["max_waiting_streams"] = int(max_waiting_streams)
ray.init(address=address, namespace="serve", log_to_driver=False, logging_level="ERROR")
deploy(ServeDeploySchema.model_validate(document))
