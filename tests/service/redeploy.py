"""Deploys a running service's file again with changes; a process of its own, as ``serve deploy`` is one.

The changes are JSON: sections of ``args``, and ``deployments``.
"""

import json
import sys
from pathlib import Path

import ray
import yaml
from ray.serve.schema import ServeDeploySchema

from serve_app.cli.cluster import deploy

address, path, changes = sys.argv[1:]
document = yaml.safe_load(Path(path).read_text())
application = document["applications"][0]
for name, values in json.loads(changes).items():
    if name == "deployments":
        application["deployments"] = values
    else:
        application["args"].setdefault(name, {}).update(values)
ray.init(address=address, namespace="serve", log_to_driver=False, logging_level="ERROR")
deploy(ServeDeploySchema.model_validate(document))
