import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulation import SimulatedCosts, SimulatedRunner, Simulation, codes_of, pcm_of

from serve_app.config import EngineConfig
from serve_app.engine.engine import Engine, EngineLoad, PlaybackStats
from serve_app.errors import CapacityError, TtsUnavailableError
from serve_app.speech import SAMPLES_PER_FRAME, SilenceLimits, SpeechEnd, SpeechRequest


def expected_codes(text):
    return np.stack([codes_of(text, frame) for frame in range(len(text))])


def test_a_stream_says_its_whole_text_and_frees_its_slot():
    sim = Simulation()
    listener = sim.speak("a" * 25)
    sim.run()
    assert listener.end.finish_reason == "eos"
    assert listener.end.frames == 25
    np.testing.assert_array_equal(listener.codes, expected_codes("a" * 25))
    np.testing.assert_array_equal(listener.pcm, pcm_of("a" * 25, 0, 25))
    assert sim.engine.load == EngineLoad(0, 0)
    assert not sim.runner.texts


@given(
    st.lists(
        st.tuples(st.floats(0, 6), st.integers(1, 60), st.booleans()),
        min_size=1,
        max_size=25,
    ),
    st.integers(1, 6),
)
def test_a_stream_says_the_same_whatever_shares_the_engine(jobs, slots):
    sim = Simulation(SimulatedRunner(slots=slots), max_waiting_streams=100)
    sim.run([(at_s, chr(97 + n) * frames) for n, (at_s, frames, _) in enumerate(jobs)])
    assert len(sim.listeners) == len(jobs)
    for listener in sim.listeners:
        assert listener.end.finish_reason == "eos"
        np.testing.assert_array_equal(listener.codes, expected_codes(listener.text))
        np.testing.assert_array_equal(listener.pcm, pcm_of(listener.text, 0, len(listener.text)))
        firsts = [chunk.first_frame for chunk in listener.chunks]
        assert firsts == list(np.cumsum([0, *[len(chunk.codes) for chunk in listener.chunks]])[:-1])
    assert sim.engine.load == EngineLoad(0, 0)


def test_a_stream_says_which_character_each_frame_speaks_if_it_is_asked():
    sim = Simulation()
    asked, other = sim.speak("abc" * 9, words=True), sim.speak("d" * 9)
    sim.run()
    assert np.concatenate([chunk.spoken for chunk in asked.chunks]).tolist() == list(range(27))
    assert {chunk.spoken for chunk in other.chunks} == {None}
    assert {text for text, _ in sim.runner.asked} == {"abc" * 9}


@given(st.text("a_", min_size=1, max_size=40), st.integers(0, 40))
def test_every_delivered_frame_has_its_character_after_silence_and_a_resumption(text, delivered):
    codes = expected_codes(text)[: min(delivered, len(text) - 1)]
    silence = SilenceLimits(0.001, 960, left_out_samples=12_000, trailing_samples=4800)
    sim = Simulation()
    listener = sim.speak(text, words=True, silence=silence, delivered=codes if len(codes) else None)
    sim.run()
    for chunk in listener.chunks:
        assert chunk.spoken.tolist() == list(range(chunk.first_frame, chunk.first_frame + len(chunk.codes)))


def test_the_first_audio_leaves_before_the_talker_step_of_the_next_frame():
    sim = Simulation()
    listener = sim.speak("a" * 25)
    while listener.first_audio_s is None:
        assert sim.engine.step()
    assert [stage for stage, _ in sim.runner.log] == ["prefill", "predict", "decode"]
    assert len(listener.chunks[0].codes) == 1


def test_later_audio_chunks_grow_while_slack_allows():
    sim = Simulation(audio_chunk_max_frames=4)
    listener = sim.speak("a" * 100)
    sim.run()
    sizes = [len(chunk.codes) for chunk in listener.chunks]
    assert sizes[0] == 1
    assert max(sizes) == 4
    assert listener.underruns == 0


def test_streams_in_the_same_stage_share_a_step():
    sim = Simulation()
    for number in range(10):
        sim.speak(chr(97 + number) * 180)
    sim.run()
    together = sim.runner.batches["predict"]
    assert sum(together) / len(together) > 7


def test_a_slot_is_refilled_while_others_go_on():
    sim = Simulation(SimulatedRunner(slots=2))
    long, short, third = sim.speak("a" * 60), sim.speak("b" * 5), sim.speak("c" * 5)
    sim.run()
    assert third.first_audio_s < long.plays_until_s - 1
    assert short.end.frames == third.end.frames == 5


def test_a_full_waiting_list_refuses_with_a_time_to_try_again():
    sim = Simulation(SimulatedRunner(slots=1), max_waiting_streams=2)
    for _ in range(3):
        sim.speak("a" * 5)
    with pytest.raises(CapacityError) as refused:
        sim.speak("a" * 5)
    assert refused.value.retry_after_ms == 1000


def test_lower_priority_numbers_leave_the_waiting_list_first():
    sim = Simulation(SimulatedRunner(slots=1))
    sim.speak("a" * 5)
    sim.engine.step()
    late, early = sim.speak("b" * 5, priority=1), sim.speak("c" * 5, priority=0)
    sim.run()
    assert early.first_audio_s < late.first_audio_s


def test_a_cancelled_stream_frees_its_slot_within_one_step():
    sim = Simulation()
    listener = sim.speak("a" * 100)
    other = sim.speak("b" * 20)
    for _ in range(12):
        sim.engine.step()
    heard = len(listener.chunks)
    listener.stream.cancel()
    sim.engine.step()
    assert listener.end.finish_reason == "cancelled"
    assert len(listener.chunks) == heard
    assert sim.engine.load.running == 1
    sim.run()
    assert other.end.finish_reason == "eos"


def test_a_cancelled_stream_leaves_the_waiting_list():
    sim = Simulation(SimulatedRunner(slots=1))
    sim.speak("a" * 5)
    sim.engine.step()
    waiting = sim.speak("b" * 5)
    waiting.stream.cancel()
    sim.engine.step()
    assert waiting.end.finish_reason == "cancelled"
    assert sim.engine.load == EngineLoad(1, 0)


def test_a_resumed_stream_goes_on_at_the_next_frame():
    sim = Simulation()
    text = "a" * 30
    listener = sim.speak(text, delivered=expected_codes(text)[:12])
    sim.run()
    assert listener.chunks[0].first_frame == 12
    np.testing.assert_array_equal(listener.codes, expected_codes(text)[12:])
    assert listener.end.frames == 30


def test_the_budget_of_frames_ends_a_stream_that_does_not_stop():
    sim = Simulation()
    listener = sim.speak("a" * 500)
    sim.run()
    assert listener.end.finish_reason == "length"
    assert listener.end.frames == len(listener.codes) == 200


def test_a_stream_far_ahead_pauses_until_its_listener_catches_up():
    sim = Simulation(max_lead_s=2.0)
    listener = sim.speak("a" * 150)
    leads = []
    while listener.end is None:
        sim.run(until_s=sim.runner.now_s + 0.05)
        if listener.first_audio_s is not None:
            leads.append(listener.plays_until_s - sim.runner.now_s)
    assert max(leads) < 2.0 + 0.5
    assert listener.underruns == 0


@pytest.mark.parametrize("speed", [0.5, 1, 2])
def test_the_lead_is_counted_at_the_speed_of_the_listener(speed):
    costs = SimulatedCosts(predict_s=0.01, talk_s=0.005)
    sim = Simulation(SimulatedRunner(costs=costs), max_lead_s=2.0)
    listener = sim.speak("a" * 190, speed=speed)
    leads = []
    while listener.end is None:
        sim.run(until_s=sim.runner.now_s + 0.05)
        if listener.first_audio_s is not None:
            leads.append(listener.plays_until_s - sim.runner.now_s)
    assert 1.9 < max(leads) < 2.0 + 0.6
    assert listener.underruns == 0
    assert sim.runner.now_s > 0.08 * 190 / speed - 3  # it waited for the listener


def test_a_stream_whose_caller_takes_nothing_pauses_and_goes_on_when_it_does():
    sim = Simulation(max_lead_s=1.0)
    listener = sim.speak("a" * 100, listening=False)
    listener.stream.consumed_frames = -10_000  # a caller who has taken nothing for a long time
    sim.run()
    assert not listener.chunks
    assert listener.end is None
    listener.stream.consumed_frames = 0
    sim.run()
    assert listener.end.finish_reason == "eos"


def test_without_a_listener_audio_is_made_as_fast_as_capacity_allows():
    sim = Simulation(max_lead_s=1.0)
    listener = sim.speak("a" * 100, listening=False)
    sim.run()
    assert listener.end.timings_s["total"] < 100 * 0.08


def test_a_failed_step_ends_its_streams_and_the_engine_goes_on():
    sim = Simulation()
    first = sim.speak("a" * 50)
    for _ in range(6):
        sim.engine.step()
    sim.runner.broken = {"predict", "talk"}
    while first.end is None:
        sim.engine.step()
    assert (first.end.finish_reason, first.end.code) == ("error", "SYNTHESIS_ERROR")
    assert sim.engine.healthy
    sim.runner.broken = set()
    second = sim.speak("b" * 5)
    sim.run()
    assert second.end.finish_reason == "eos"
    assert sim.engine.healthy


@pytest.mark.parametrize("stage", ["prefill", "predict", "decode", "talk"])
def test_three_failed_steps_of_a_stage_in_a_row_make_the_engine_unhealthy(stage):
    sim = Simulation(failed_steps_until_unhealthy=3)
    sim.runner.broken = {stage}
    for number in range(3):
        assert sim.engine.healthy, number
        listener = sim.speak("a" * 30)
        sim.run()
        assert listener.end.code == "SYNTHESIS_ERROR"
    assert not sim.engine.healthy


def test_waiting_for_the_listener_is_not_counted_as_work():
    sim = Simulation(max_lead_s=2.0)
    listener = sim.speak("a" * 150)
    sim.run()
    timings_s = listener.end.timings_s
    assert timings_s["total"] > 8
    assert timings_s["total"] - timings_s["paused"] < 150 * 0.05 + 0.5


def test_an_engine_whose_own_code_fails_ends_its_streams_and_takes_no_more(monkeypatch):
    runner = SimulatedRunner()
    engine = Engine(runner, EngineConfig(stall_guard_s=None))
    ends = []
    engine.submit(runner.prepare(SpeechRequest("a", "v")), ends.append)
    monkeypatch.setattr(Engine, "_state", lambda _: 1 / 0)
    engine.start()
    engine._thread.join(10)
    assert [(end.finish_reason, end.code) for end in ends] == [("error", "SYNTHESIS_ERROR")]
    assert not engine.healthy
    with pytest.raises(TtsUnavailableError):
        engine.submit(runner.prepare(SpeechRequest("a", "v")), ends.append)


def test_a_prefill_that_refuses_harms_that_stream_alone():
    class Full(SimulatedRunner):
        def prefill(self, slots, prepared):
            if any(each.request.text == "big" for each in prepared):
                raise CapacityError("no memory", retry_after_ms=5)
            super().prefill(slots, prepared)

    sim = Simulation(Full())
    small, big = sim.speak("a" * 20), sim.speak("big")
    sim.run()
    assert (big.end.code, big.end.retry_after_ms) == ("CAPACITY", 5)
    assert small.end.finish_reason == "eos"
    np.testing.assert_array_equal(small.codes, expected_codes("a" * 20))
    assert sim.engine.healthy


def test_requests_that_arrive_together_are_prefilled_together():
    sim = Simulation()
    listeners = [sim.speak(chr(97 + number) * 20) for number in range(12)]
    sim.run()
    assert sim.runner.batches["prefill"][0] == 10
    assert max(listener.ttfa_s for listener in listeners[:10]) < 0.5
    for listener in listeners:
        np.testing.assert_array_equal(listener.codes, expected_codes(listener.text))


def test_a_stream_that_stopped_saying_anything_is_ended_as_stalled():
    class Humming(SimulatedRunner):
        def sample_frame(self, slots):
            frames = super().sample_frame(slots)
            frames.codes[:] = 7
            return frames

    runner = Humming()
    sim = Simulation(runner)
    sim.settings = EngineConfig(slots=10, stall_guard_s=1.0)
    sim.engine = Engine(runner, sim.settings, clock=lambda: runner.now_s)
    listener = sim.speak("a" * 150)
    sim.run()
    assert listener.end.finish_reason == "stalled"
    assert listener.end.frames <= 20


def test_the_thread_serves_submissions_from_other_threads_and_stops():
    runner = SimulatedRunner(costs=SimulatedCosts(0, 0, 0, 0))
    engine = Engine(runner, EngineConfig(stall_guard_s=None))
    engine.start()
    ended = threading.Event()
    ends: list[SpeechEnd] = []
    streams = []

    def deliver(event):
        if isinstance(event, SpeechEnd):
            ends.append(event)
            if len(ends) == 20:
                ended.set()
        else:
            streams[0].consumed(0)

    streams.extend(engine.submit(runner.prepare(SpeechRequest("a" * (5 + n), "v")), deliver) for n in range(20))
    assert ended.wait(10)
    assert {end.finish_reason for end in ends} == {"eos"}
    last = engine.submit(runner.prepare(SpeechRequest("a" * 190, "v")), deliver)
    last.cancel()
    until_s = time.monotonic() + 5
    while len(ends) < 21 and time.monotonic() < until_s:
        time.sleep(0.001)
    assert ends[-1].finish_reason == "cancelled"
    engine.stop()
    assert not engine.healthy


def test_a_step_that_does_not_end_makes_the_engine_unhealthy():
    class Stuck(SimulatedRunner):
        def prefill(self, slots, prepared):
            super().prefill(slots, prepared)
            entered.set()
            assert leave.wait(10)

    now_s = [0.0]
    entered, leave = threading.Event(), threading.Event()
    runner = Stuck()
    engine = Engine(runner, EngineConfig(stall_guard_s=None, step_timeout_s=60), clock=lambda: now_s[0])
    engine.start()
    assert engine.healthy
    engine.submit(runner.prepare(SpeechRequest("a", "v")), lambda _: None)
    assert entered.wait(10)
    now_s[0] = 4.9
    assert engine.responsive
    now_s[0] = 60.0
    assert engine.healthy
    assert not engine.responsive
    now_s[0] = 60.1
    assert not engine.healthy
    leave.set()
    engine.stop()


def test_listeners_are_heard_of_once_they_are_past_the_start():
    sim = Simulation()
    assert sim.engine.playback == PlaybackStats(0, 0, 0.0)
    sim.speak("a" * 150)
    sim.speak("b" * 150, listening=False)
    sim.run(until_s=1.5)
    assert sim.engine.playback.listeners == 0
    sim.run(until_s=3.5)
    playback = sim.engine.playback
    assert (playback.listeners, playback.late) == (1, 0)
    assert playback.slack_s == pytest.approx(sim.listeners[0].plays_until_s - sim.runner.now_s)


def test_a_listener_with_nearly_nothing_left_is_late():
    slow = SimulatedCosts(predict_s=0.08, talk_s=0.04)
    sim = Simulation(SimulatedRunner(costs=slow))
    sim.speak("a" * 100)
    sim.run(until_s=6.0)
    playback = sim.engine.playback
    assert (playback.listeners, playback.late) == (1, 1)
    assert playback.slack_s < 0.25


def test_a_listener_who_does_not_take_its_audio_is_not_late():
    sim = Simulation()
    sim.speak("a" * 300)
    sim.listeners[0].stream = SimpleNamespace(consumed=lambda frames: None)
    sim.run(until_s=20.0)
    assert sim.listeners[0].plays_until_s < 20.0
    assert sim.engine.playback == PlaybackStats(0, 0, 0.0)


def test_an_engine_knows_how_long_streams_hold_their_slots():
    sim = Simulation(SimulatedRunner(slots=1))
    assert sim.engine.stream_s == 0.0
    first = sim.speak("a" * 25)
    sim.run()
    took_s = sim.engine.stream_s
    assert took_s == pytest.approx(first.end.timings_s["total"])
    waiting = [sim.speak("a" * 25) for _ in range(3)]
    sim.run()
    assert sim.engine.stream_s == pytest.approx(took_s, rel=0.01), "the time before the slot does not count"
    assert waiting[-1].end.timings_s["total"] > 2 * took_s


SILENCE = SilenceLimits(0.005, leading_samples=960, left_out_samples=6 * SAMPLES_PER_FRAME, trailing_samples=4800)
"""A frame is 1920 samples: half a frame of a soft start, and two and a half of silence at the end."""


def test_silence_before_the_first_sound_and_after_the_last_is_left_out():
    sim = Simulation()
    text = "____abcdefgh____ijk_______"
    listener = sim.speak(text, silence=SILENCE)
    sim.run()
    whole = pcm_of(text, 0, len(text))
    np.testing.assert_array_equal(listener.pcm, whole[4 * 1920 - 960 : 19 * 1920 + 4800])
    np.testing.assert_array_equal(listener.codes, expected_codes(text))
    assert (listener.end.finish_reason, listener.end.frames) == ("eos", len(text))
    assert listener.chunks[-1].silent_samples == 4800


def test_the_first_audio_and_the_slack_count_from_the_first_sample_sent():
    sim = Simulation()
    listener = sim.speak("____" + "a" * 40, silence=SILENCE)
    while listener.first_audio_s is None:
        assert sim.engine.step()
    assert [stage for stage, _ in sim.runner.log].count("decode") == 5
    assert listener.chunks[0].timings_s["codec"] == pytest.approx(5 * 0.004)
    assert sum(listener.chunks[0].timings_s.values()) == pytest.approx(listener.ttfa_s)
    assert listener.stream.plays_until_s == pytest.approx(listener.first_audio_s + 0.12)
    sim.run()
    assert listener.underruns == 0
    assert listener.end.timings_s["first_audio"] == pytest.approx(listener.ttfa_s)


@pytest.mark.parametrize("text", ["___abcd_____efg_____", "abc_________d"])
def test_a_stream_that_is_resumed_anywhere_leaves_out_the_same_silence(text):
    sim = Simulation()
    whole = sim.speak(text, silence=SILENCE)
    sim.run()
    for taken in range(1, len(whole.chunks)):
        had = whole.chunks[:taken]
        codes = np.concatenate([chunk.codes for chunk in had])
        silence = replace(SILENCE, delivered_samples=had[-1].silent_samples)
        rest = sim.speak(text, delivered=codes, silence=silence)
        sim.run()
        np.testing.assert_array_equal(np.concatenate([*[chunk.pcm for chunk in had], rest.pcm]), whole.pcm)


def test_a_stream_without_any_sound_ends():
    sim = Simulation()
    listener = sim.speak("____", silence=SILENCE)
    sim.run()
    assert (listener.end.finish_reason, listener.end.frames, len(listener.pcm)) == ("eos", 4, 960)
