"""Measures the cost of recording metrics: microseconds per call, and for all that a frame of ten streams records.

    python benchmarks/metrics.py                    # about half a minute

Calls are timed in a worker of a separate Ray cluster, where they work as in a replica. A frame is 80 ms of audio, so in
real time each of ten listeners gets one every 80 ms; the share is relative to that time on one core.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import ray

STREAMS = 10
FRAME_S = 0.08
CALLS = 5000


@ray.remote(num_cpus=1)
class Worker:
    """Records metrics like the ingress and the generator."""

    def microseconds(self) -> dict[str, float]:
        """Medians of many calls of each kind."""
        from serve_app.deployments.ray_metrics import RayRecorder  # noqa: PLC0415
        from serve_app.observability import metrics  # noqa: PLC0415 - in the worker

        recorder = RayRecorder(application="tts", deployment="Generator", replica="r")
        work = {
            "count up": lambda: recorder.add(metrics.AUDIO_SECONDS, 0.08, encoding="pcm16"),
            "set a gauge": lambda: recorder.set(metrics.STREAMS_RUNNING, 3),
            "observe": lambda: recorder.observe(metrics.STEP_SECONDS, 0.02, stage="predict"),
        }
        return {name: _median_us(call) for name, call in work.items()}

    def step_us(self) -> float:
        """Recording a step on the engine's thread."""
        from collections import deque  # noqa: PLC0415

        from serve_app.engine.engine import StepSeen  # noqa: PLC0415

        seen: deque[StepSeen] = deque(maxlen=8192)
        return _median_us(lambda: seen.append(StepSeen("predict", STREAMS, 0.02)))

    def sent_us(self) -> float:
        """Everything that the ingress records when it sends one audio chunk."""
        from serve_app.deployments.ray_metrics import RayRecorder  # noqa: PLC0415
        from serve_app.observability.session_metrics import IngressMetrics, SessionMetrics  # noqa: PLC0415
        from serve_app.protocol.messages import AudioMessage  # noqa: PLC0415
        from serve_app.protocol.outbox import Send  # noqa: PLC0415
        from serve_app.session.session import Call  # noqa: PLC0415
        from serve_app.speech import SpeechRequest  # noqa: PLC0415

        metrics = SessionMetrics(IngressMetrics(RayRecorder()), "full")
        metrics.called(Call(1, SpeechRequest("Hello.", "austen"), "u", 0.0, 0.0), 0.0)
        message = AudioMessage(utterance_id="u", seq=0, start_ms=0, duration_ms=80, final=False)
        item = Send(message, bytes(3840), samples=1920, owner=1, encoding="pcm16")
        sent_bytes = 2 + len(item.payload or b"")
        return _median_us(lambda: metrics.sent(item, sent_bytes, 1.0))


def _median_us(call) -> float:  # noqa: ANN001 - anything that is called
    taken = []
    for _ in range(20):
        began_s = time.perf_counter()
        for _ in range(CALLS // 20):
            call()
        taken.append(1e6 * (time.perf_counter() - began_s) / (CALLS // 20))
    return float(statistics.median(taken))


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tts-m-", dir="/tmp") as folder:
        ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, _temp_dir=folder)
        worker = Worker.remote()
        calls = ray.get(worker.microseconds.remote())
        step_us, sent_us = ray.get([worker.step_us.remote(), worker.sent_us.remote()])
        ray.shutdown()
    steps = 3  # predict, talk, decode: ten streams share each
    frame_us = {
        "engine's thread": steps * step_us,
        "generator's loop": steps * 2 * calls["observe"],
        "ingress": STREAMS * sent_us,
    }
    share = sum(frame_us.values()) / (1e6 * FRAME_S)
    figures = {
        "us of a call": {name: round(us, 2) for name, us in calls.items()},
        "us to record a step": round(step_us, 2),
        "us per audio chunk sent": round(sent_us, 2),
        f"us of a frame of {STREAMS} streams": {name: round(us, 1) for name, us in frame_us.items()},
        "percent of a frame": round(100 * share, 3),
        "percent of a frame, engine's thread": round(100 * frame_us["engine's thread"] / (1e6 * FRAME_S), 4),
    }
    print(json.dumps(figures, indent=2))
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
