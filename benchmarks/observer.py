"""Answers questions about a running service from within its Ray: a line of JSON for each line of JSON.

    python benchmarks/observer.py 127.0.0.1:6379     # with the service's token in the environment

``streams`` are those that run or wait on all generators, ``ready`` the generators that serve, ``load`` all of it.
``speak`` has a generator speak without an ingress, and answers with the engine's own timings of that stream. Ray reads
its environment when it is imported, so that whoever asks starts this as a process of its own.
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
from serve_app.deployments.voice_store import ACTOR_NAME, namespace_of
from serve_app.speech import SpeechEnd, SpeechEvent, SpeechRequest

APPLICATION = "tts"
PATIENCE = 60


def main() -> None:
    """Answer until the questions end."""
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    ray.init(address=sys.argv[1], namespace="observer", log_to_driver=False, logging_level="ERROR")
    answers = {"streams": streams, "ready": ready, "load": load, "speak": spoken}
    for line in sys.stdin:
        question = json.loads(line)
        print(json.dumps(answers[question.pop("ask")](**question)), flush=True)


def streams() -> dict[str, int]:
    """How many streams the generators have, as they last reported."""
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
    """How many generators serve, as they last reported."""
    return {"ready": sum(status.state == "ready" for status in statuses())}


def statuses() -> list[GeneratorStatus]:
    """What the generators said last; a store that is coming back is waited for."""
    for _ in range(PATIENCE):
        with contextlib.suppress(RayError, ValueError):
            return ray.get(store().generators.remote(), timeout=10)
        time.sleep(1)
    raise TimeoutError("the voice store does not come back")


def store() -> Any:  # noqa: ANN401 - an actor
    """The application's voice store."""
    return ray.get_actor(ACTOR_NAME, namespace=namespace_of(APPLICATION))


def spoken(text: str, voice: str, seed: int) -> dict[str, float]:
    """Seconds of one stream's stages, counted by the engine that ran it."""
    generator: Any = serve.get_deployment_handle("Generator", APPLICATION)
    speak = generator.options(stream=True, method_name="speak", _by_reference=False)
    events: Iterator[SpeechEvent] = speak.remote(SpeechRequest(text, voice, seed=seed))
    (end,) = [event for event in events if isinstance(event, SpeechEnd)]
    return end.timings_s


if __name__ == "__main__":
    main()
