"""Answers questions about a running service from within its Ray: a line of JSON for each line of JSON.

    python benchmarks/observer.py 127.0.0.1:6379     # with the service's token in the environment

``streams`` are those that run or wait on all generators. ``speak`` has a generator speak without an ingress, and
answers with the engine's own timings of that stream. Ray reads its environment when it is imported, so that whoever
asks starts this as a process of its own.
"""

import json
import logging
import sys
from collections.abc import Iterator
from typing import Any

import ray
from ray import serve

from serve_app.deployments.voice_store import ACTOR_NAME, namespace_of
from serve_app.speech import SpeechEnd, SpeechEvent, SpeechRequest

APPLICATION = "tts"


def main() -> None:
    """Answer until the questions end."""
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    ray.init(address=sys.argv[1], namespace="observer", log_to_driver=False, logging_level="ERROR")
    answers = {"streams": streams, "speak": spoken}
    for line in sys.stdin:
        question = json.loads(line)
        print(json.dumps(answers[question.pop("ask")](**question)), flush=True)


def streams() -> dict[str, int]:
    """How many streams the generators have, as they last reported."""
    store = ray.get_actor(ACTOR_NAME, namespace=namespace_of(APPLICATION))
    statuses = ray.get(store.generators.remote())
    return {"streams": sum(status.running + status.waiting for status in statuses)}


def spoken(text: str, voice: str, seed: int) -> dict[str, float]:
    """Seconds of one stream's stages, counted by the engine that ran it."""
    generator: Any = serve.get_deployment_handle("Generator", APPLICATION)
    speak = generator.options(stream=True, method_name="speak", _by_reference=False)
    events: Iterator[SpeechEvent] = speak.remote(SpeechRequest(text, voice, seed=seed))
    (end,) = [event for event in events if isinstance(event, SpeechEnd)]
    return end.timings_s


if __name__ == "__main__":
    main()
