from recorded import Recorded
from simulation import SimulatedRunner

from serve_app.config import EngineConfig
from serve_app.engine.engine import Engine
from serve_app.observability.generator_metrics import GeneratorMetrics
from serve_app.speech import AudioChunk, SpeechRequest
from serve_app.voices.voice import BoundedCache

MODEL = {"model": "tiny", "device": "cpu", "dtype": "float32", "weights": "plain"}


def engine_of(runner):
    return Engine(runner, EngineConfig(slots=runner.slots), clock=lambda: runner.now_s)


def speak(engine, runner, text="Hello."):
    events = []
    engine.submit(runner.prepare(SpeechRequest(text, "v", listening=False)), events.append)
    while engine.step():
        pass
    return events


def test_every_step_is_recorded_once_with_its_stage_and_its_streams():
    runner, recorded = SimulatedRunner(slots=2), Recorded()
    engine, metrics = engine_of(runner), GeneratorMetrics(recorded, slots=2)
    metrics.loaded(MODEL, 3.0)
    for _ in range(2):
        before = len(runner.log)
        speak(engine, runner)
        recorded.histograms.clear()
        metrics.engine(engine, graph_fallbacks=0)
        taken = [stage for stage, _ in runner.log[before:]]
        for stage in ("prefill", "predict", "talk", "decode"):
            assert len(recorded.histograms[f"step_seconds {stage}"]) == taken.count(stage) > 0
            assert set(recorded.histograms[f"step_streams {stage}"]) == {1}
    assert recorded.gauges["engine_up"] == 1
    assert recorded.gauges["streams_running"] == 0
    assert recorded.gauges["model_info tiny cpu float32 plain"] == 1
    assert (recorded.gauges["slots"], recorded.gauges["load_seconds"]) == (2, 3.0)


def test_a_step_that_raised_is_counted_as_such():
    runner, recorded = SimulatedRunner(), Recorded()
    engine, metrics = engine_of(runner), GeneratorMetrics(recorded, slots=10)
    metrics.loaded(MODEL, 3.0)
    runner.broken.add("predict")
    speak(engine, runner)
    metrics.engine(engine, graph_fallbacks=0)
    assert recorded.counters["steps_failed predict"] == 1
    assert "step_seconds predict" not in recorded.histograms


def test_first_audio_says_what_came_before_it_and_later_audio_nothing():
    runner = SimulatedRunner(slots=1)
    engine = engine_of(runner)
    chunks = [event for event in speak(engine, runner, "Hello there, all of you.") if isinstance(event, AudioChunk)]
    costs = runner.costs
    assert set(chunks[0].timings_s) == {"queue", "prefill", "predictor", "codec"}
    assert abs(chunks[0].timings_s["prefill"] - costs.prefill_s) < 1e-9
    assert abs(chunks[0].timings_s["predictor"] - len(chunks[0].codes) * costs.predict_s) < 1e-9
    assert [chunk.timings_s for chunk in chunks[1:]] == [{}] * (len(chunks) - 1) != []


def test_counts_of_caches_go_on_where_they_were():
    recorded, cache = Recorded(), BoundedCache[str, str](1000, len)
    metrics = GeneratorMetrics(recorded, slots=1)
    cache.get("a", 0.0)
    metrics.caches({"prompt": cache})
    cache.put("a", "voice", 0.0)
    for _ in range(3):
        cache.get("a", 0.0)
    metrics.caches({"prompt": cache})
    metrics.caches({"prompt": cache})
    assert recorded.counters == {"voice_misses prompt": 1, "voice_hits prompt": 3}
    assert recorded.gauges == {"voice_cache_bytes prompt": 5}
