"""Writes what the generators of an application report, a line of JSON for each line read."""

import dataclasses
import json
import sys

import ray

from serve_app.deployments.coordinator import ACTOR_NAME, namespace_of

ray.init(address=sys.argv[1], namespace="observer", log_to_driver=False, logging_level="ERROR")
for _ in sys.stdin:
    store = ray.get_actor(ACTOR_NAME, namespace=namespace_of("tts"))
    statuses = ray.get(store.generators.remote())
    sys.stdout.write(json.dumps([dataclasses.asdict(status) for status in statuses]) + "\n")
    sys.stdout.flush()
