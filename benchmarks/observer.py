"""Answers questions about a running service from inside its Ray cluster: one line of JSON per line of JSON.

    python benchmarks/observer.py 127.0.0.1:6379     # with the service's token in the environment

``streams`` counts streams that run or wait on all generators, ``ready`` counts generators that serve, and ``load``
returns both and more. ``speak`` lets a generator speak without an ingress, and returns the engine's own timings of that
stream. Ray reads its environment when it is imported, so callers start this as a separate process.
"""

import contextlib
import json
import logging
import sys
import time
from collections.abc import Iterator
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError

from serve_app.cluster.registry import GeneratorStatus
from serve_app.deployments.coordinator import ACTOR_NAME, namespace_of
from serve_app.speech import SpeechEnd, SpeechEvent, SpeechRequest

APPLICATION = "tts"
PATIENCE = 60


def main() -> None:
    """Answer until standard input ends."""
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    ray.init(address=sys.argv[1], namespace="observer", log_to_driver=False, logging_level="ERROR")
    answers = {"streams": streams, "ready": ready, "load": load, "speak": spoken}
    for line in sys.stdin:
        question = json.loads(line)
        print(json.dumps(answers[question.pop("ask")](**question)), flush=True)


def streams() -> dict[str, int]:
    """Streams of all generators, as last reported."""
    return {"streams": sum(status.running + status.waiting for status in statuses())}


def load() -> dict[str, int]:
    """Generators that serve, streams in their slots, and text chunks that wait in them and at the ingresses."""
    said = statuses()
    return {
        "ready": sum(status.state == "ready" for status in said),
        "running": sum(status.running for status in said),
        "waiting": sum(status.waiting for status in said) + ray.get(store().demand.remote()).waiting,
    }


def ready() -> dict[str, int]:
    """Number of generators that serve, as last reported."""
    return {"ready": sum(status.state == "ready" for status in statuses())}


def statuses() -> list[GeneratorStatus]:
    """Latest status of each generator; waits for a store that restarts."""
    for _ in range(PATIENCE):
        with contextlib.suppress(RayError, ValueError):
            return ray.get(store().generators.remote(), timeout=10)
        time.sleep(1)
    raise TimeoutError("the coordinator did not come back")


def store() -> Any:  # noqa: ANN401 - an actor
    """The application's coordinator."""
    return ray.get_actor(ACTOR_NAME, namespace=namespace_of(APPLICATION))


def spoken(text: str, voice: str, seed: int) -> dict[str, float]:
    """Seconds of one stream's stages, measured by its engine."""
    generator: Any = serve.get_deployment_handle("Generator", APPLICATION)
    speak = generator.options(stream=True, method_name="speak", _by_reference=False)
    events: Iterator[SpeechEvent] = speak.remote(SpeechRequest(text, voice, seed=seed))
    (end,) = [event for event in events if isinstance(event, SpeechEnd)]
    return end.timings_s


if __name__ == "__main__":
    main()
