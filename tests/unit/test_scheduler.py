import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulation import SimulatedCosts, SimulatedRunner, Simulation

from serve_app.config import EngineConfig
from serve_app.engine.costs import Costs
from serve_app.engine.scheduler import Sleep, SlotView, State, Step, plan, slack_s


def costs(prefill=0.2, predict=0.02, talk=0.01, decode=0.004):
    known = Costs()
    for stage, seconds in (("prefill", prefill), ("predict", predict), ("talk", talk), ("decode", decode)):
        known.observe(stage, 1, seconds)
    return known


def view(slot, stage="talk", undecoded=0, plays_until_s=100.0, listening=True, unconsumed=0, arrived_s=0.0):
    return SlotView(slot, stage, undecoded, plays_until_s, listening, unconsumed, arrived_s)


def decide(*views, waiting_since_s=None, frame_since_prefill=True, now_s=99.0, **settings):
    return plan(State(views, waiting_since_s, frame_since_prefill, costs(), EngineConfig(**settings)), now_s)


def test_nothing_to_do_waits_for_a_new_request():
    assert decide() == Sleep(None)


def test_a_new_request_does_not_wait_for_a_stream_whose_caller_takes_nothing():
    paused = view(0, "talk", plays_until_s=98.0, unconsumed=103)
    assert decide(paused, waiting_since_s=98.9, frame_since_prefill=False) == Step("prefill")


def test_urgent_stream_is_served_before_a_new_one():
    assert decide(view(0, "talk", plays_until_s=99.05), view(1, "predict", plays_until_s=None)) == Step("talk", (0,))


def test_urgent_stream_is_served_before_a_waiting_one():
    assert decide(view(0, "talk", plays_until_s=99.1), waiting_since_s=98.9).stage == "talk"


def test_a_listener_is_urgent_earlier_when_a_longer_prefill_waits():
    known = costs(prefill=0.05)  # of one position
    known.observe("prefill", 300, 1.0)
    listener = view(0, "talk", plays_until_s=99.5)
    for positions, stage in ((20, "prefill"), (310, "talk")):
        state = State([listener], 98.9, True, known, EngineConfig(), waiting_positions=[positions])
        assert plan(state, 99.0).stage == stage


@pytest.mark.parametrize(
    ("positions", "requests"),
    [
        ([12], 1),
        ([12] * 10, 10),
        ([12, 20, 16, 14], 4),
        ([12, 12, 300, 12], 2),  # two others would be padded to 300
        ([300, 12], 1),
        ([300, 290, 310], 3),
        ([1000, 1000, 1000], 2),  # no more than 2048 positions at once
    ],
)
def test_requests_of_about_one_length_are_prefilled_together(positions, requests):
    state = State([], 98.9, True, costs(prefill=0.001), EngineConfig(), waiting_positions=positions)
    assert plan(state, 99.0) == Step("prefill", requests=requests)


def test_no_more_requests_are_prefilled_together_than_the_listeners_can_afford():
    known = costs(prefill=0.1)
    listener = view(0, "talk", plays_until_s=99.6)
    state = State([listener], 98.9, True, known, EngineConfig(), waiting_positions=[12] * 8)
    assert plan(state, 99.0) == Step("prefill", requests=3)  # 1.5 times 0.3 s and a frame
    known.observe("prefill", 96, 0.15)  # measured: all of them take little longer than one
    assert plan(state, 99.0) == Step("prefill", requests=8)


def test_a_listener_past_saving_does_not_keep_requests_apart():
    state = State([view(0, "talk", plays_until_s=98.0)], 98.9, True, costs(), EngineConfig(), waiting_positions=[9, 9])
    assert plan(state, 99.0) == Step("prefill", requests=2)


def test_a_listener_past_saving_does_not_keep_new_requests_out():
    assert decide(view(0, "talk", plays_until_s=98.0), waiting_since_s=98.9) == Step("prefill")


def test_between_two_prefills_late_listeners_get_a_frame():
    late = view(0, "talk", plays_until_s=98.0)
    assert decide(late, waiting_since_s=98.9, frame_since_prefill=False).stage == "talk"


def test_a_request_that_waited_far_too_long_goes_before_a_listener_who_barely_keeps_up():
    assert decide(view(0, "talk", plays_until_s=99.1), waiting_since_s=90.0) == Step("prefill")


def test_a_new_stream_is_served_before_streams_with_slack():
    assert decide(view(0, "talk"), view(1, "predict", plays_until_s=None)) == Step("predict", (1,))


def test_a_new_stream_is_batched_with_all_that_need_the_same_stage():
    assert decide(view(0, "predict"), view(1, "predict", plays_until_s=None)) == Step("predict", (0, 1))


def test_the_oldest_new_request_is_served_first():
    young = view(0, "predict", plays_until_s=None, arrived_s=5.0)
    old = view(1, "talk", undecoded=1, plays_until_s=None, arrived_s=1.0)
    assert decide(young, old) == Step("decode", (1,), 1)


def test_a_burst_is_prefilled_together_as_long_as_no_listener_waits_too_long():
    assert decide(view(0, "predict", plays_until_s=None, arrived_s=98.5), waiting_since_s=98.5).stage == "prefill"
    assert decide(view(0, "predict", plays_until_s=None, arrived_s=97.5), waiting_since_s=98.5).stage == "predict"


def test_waiting_streams_come_before_streams_with_slack():
    assert decide(view(0), waiting_since_s=98.9) == Step("prefill")


def test_frames_gather_while_slack_allows():
    assert decide(view(0, "talk", undecoded=1), audio_chunk_max_frames=4) == Step("talk", (0,))
    assert decide(view(0, "talk", undecoded=4), audio_chunk_max_frames=4) == Step("decode", (0,), 4)


def test_the_last_frames_are_decoded_at_once():
    assert decide(view(0, None, undecoded=2)) == Step("decode", (0,), 2)


def test_a_stream_beyond_the_lead_pauses_and_says_when_it_wants_to_go_on():
    assert decide(view(0, plays_until_s=110.0), max_lead_s=4.0) == Sleep(106.0)


def test_a_stream_whose_caller_takes_nothing_pauses_without_a_time():
    assert decide(view(0, unconsumed=100), max_lead_s=4.0) == Sleep(None)


def test_slack_is_what_is_left_to_play():
    assert slack_s(view(0, plays_until_s=100.0), 98.5) == pytest.approx(1.5)
    assert slack_s(view(0, listening=False), 98.5) == float("inf")


views = st.builds(
    view,
    slot=st.integers(0, 9),
    stage=st.sampled_from(["talk", "predict", None]),
    undecoded=st.integers(0, 25),
    plays_until_s=st.none() | st.floats(90, 130),
    listening=st.booleans(),
    unconsumed=st.integers(0, 400),
    arrived_s=st.floats(0, 99),
)


@given(st.lists(views, max_size=10, unique_by=lambda each: each.slot), st.none() | st.floats(80, 99), st.booleans())
def test_every_plan_is_one_that_its_slots_can_do(slots, waiting_since_s, frame_since_prefill):
    slots = [each for each in slots if each.stage is not None or each.undecoded]
    waiting = waiting_since_s is not None
    action = decide(*slots, waiting_since_s=waiting_since_s, frame_since_prefill=frame_since_prefill)
    by_slot = {each.slot: each for each in slots}
    if isinstance(action, Sleep):
        assert not waiting
        return
    if action.stage == "prefill":
        assert waiting
        return
    assert action.slots
    for slot in action.slots:
        if action.stage == "decode":
            assert min(by_slot[slot].undecoded, 4) == action.frames > 0
        else:
            assert by_slot[slot].stage == action.stage


def test_a_burst_of_new_requests_does_not_starve_listeners():
    sim = Simulation(SimulatedRunner(costs=SimulatedCosts(prefill_s=0.25)))
    sim.run([(0.0, "a" * 150), (0.0, "b" * 150)] + [(3.0, chr(99 + n) * 60) for n in range(8)])
    assert [listener.underruns for listener in sim.listeners[:2]] == [0, 0]
    assert max(listener.ttfa_s for listener in sim.listeners[2:]) < 8 * 0.25 + 1.5


def test_a_long_prefill_waits_until_listeners_can_afford_it():
    sim = Simulation(SimulatedRunner(costs=SimulatedCosts(prefill_s=0.1, character_s=0.01)))
    sim.speak("w" * 100, prompt="whole")  # the first one is where its cost is learnt
    sim.run()
    listener = sim.speak("a" * 150)
    sim.run(until_s=sim.runner.now_s + 1.0)
    assert 0.3 < listener.plays_until_s - sim.runner.now_s < 1.1, "less slack than the prefill takes"
    fresh = sim.speak("b" * 100, prompt="whole")
    sim.run()
    assert listener.underruns == 0
    assert fresh.ttfa_s < 3.0


def test_new_requests_are_not_starved_by_streams_far_ahead():
    sim = Simulation(SimulatedRunner(slots=10))
    sim.run([(0.0, chr(97 + n) * 180) for n in range(6)] + [(6.0, "z" * 20)])
    assert sim.listeners[-1].ttfa_s < 0.2 + 4 * 0.05


def test_at_saturation_streams_run_dry_together_instead_of_one_for_ever():
    sim = Simulation(SimulatedRunner(costs=SimulatedCosts(predict_s=0.08, talk_s=0.04)))
    sim.run([(0.0, chr(97 + n) * 60) for n in range(10)])
    ends = [listener.plays_until_s for listener in sim.listeners]
    assert max(ends) - min(ends) < 0.35 * max(ends)


@pytest.mark.parametrize("predict_s", [0.03, 0.0345, 0.0352, 0.036, 0.05])
def test_no_audio_chunk_grows_past_its_bound_near_saturation(predict_s):
    sim = Simulation(SimulatedRunner(costs=SimulatedCosts(predict_s=predict_s, talk_s=0.0174)))
    sim.run([(0.0, chr(97 + n) * 150) for n in range(4)] + [(4.0, chr(105 + n) * 150) for n in range(6)])
    assert max(len(chunk.codes) for listener in sim.listeners for chunk in listener.chunks) <= 4
    assert all(listener.end.finish_reason == "eos" for listener in sim.listeners)


def test_one_slow_stage_is_measured_and_served_earlier():
    sim = Simulation(SimulatedRunner(costs=SimulatedCosts(decode_s=0.03, predict_s=0.01, talk_s=0.005)))
    sim.run([(0.0, "a" * 100), (0.5, "b" * 100)])
    assert [listener.underruns for listener in sim.listeners] == [0, 0]


def listener_of(**of_decoding):
    """Somebody who hears 100 frames, each of which takes 50 ms before the codec; and how long that took."""
    sim = Simulation(SimulatedRunner(costs=SimulatedCosts(predict_s=0.033, talk_s=0.017, **of_decoding)))
    sim.speak("w" * 5, listening=False)  # a replica's warm-up, in full audio chunks
    sim.run()
    began_s = sim.runner.now_s
    listener = sim.speak("a" * 100)
    sim.run()
    return listener, sim.runner.now_s - began_s


def test_a_listener_after_an_underrun_gets_full_audio_chunks_if_only_they_keep_up():
    listener, took_s = listener_of(decode_call_s=0.023, decode_s=0.022)  # alone a frame takes 95 ms, in fours 78 ms
    sizes = [len(chunk.codes) for chunk in listener.chunks]
    assert sizes[:2] == [1, 4]
    assert np.mean(sizes[1:]) >= 3
    assert took_s < 0.2 + 100 * 0.08 + 0.2, "in single frames it would be 9.7"
    assert listener.underruns <= 3


def test_a_listener_after_an_underrun_gets_single_frames_if_gathering_gains_little():
    listener, _ = listener_of(decode_call_s=0.005, decode_s=0.05)
    assert {len(chunk.codes) for chunk in listener.chunks} == {1}


@pytest.mark.parametrize(
    ("predict", "single", "full", "step"),
    [
        (0.03, 0.022, 0.007, Step("decode", (0,), 1)),  # single frames catch up
        (0.05, 0.045, 0.040, Step("decode", (0,), 1)),  # they do not, and full chunks hardly cost less
        (0.05, 0.045, 0.025, Step("talk", (0,))),
    ],
)
@pytest.mark.parametrize("plays_until_s", [98.0, 99.05])
def test_a_listener_near_an_underrun_waits_for_a_full_audio_chunk_only_if_it_pays(
    predict, single, full, step, plays_until_s
):
    known = costs(predict=predict, talk=0.015, decode=single)
    known.observe("decode", 1, full, frames=4)
    listener = view(0, "talk", undecoded=1, plays_until_s=plays_until_s)
    assert plan(State([listener], None, True, known, EngineConfig()), 99.0) == step


def test_a_full_audio_chunk_is_urgent_while_all_its_frames_can_still_be_made():
    known = costs(predict=0.035, talk=0.015, decode=0.045)  # alone a frame takes 95 ms, in fours 75 ms
    known.observe("decode", 1, 0.025, frames=4)
    for undecoded, plays_until_s, stage in ((1, 99.3, "talk"), (4, 99.11, "decode")):
        listener = view(0, "talk", undecoded=undecoded, plays_until_s=plays_until_s)
        fresh = view(1, "predict", plays_until_s=None)
        assert plan(State([listener, fresh], None, True, known, EngineConfig()), 99.0).stage == stage
        assert plan(State([fresh], None, True, known, EngineConfig()), 99.0).stage == "predict"


def test_cancellations_in_a_crowd_leave_the_others_alone():
    sim = Simulation()
    crowd = [sim.speak(chr(97 + n) * 80) for n in range(10)]
    sim.run(until_s=3.0)
    for listener in crowd[::2]:
        listener.stream.cancel()
    sim.run()
    assert [listener.end.finish_reason for listener in crowd[1::2]] == ["eos"] * 5
    assert [listener.underruns for listener in crowd[1::2]] == [0] * 5


def test_costs_of_an_unseen_batch_come_from_the_nearest_seen_one():
    known = Costs()
    assert known.of("talk", 3) == 0.0
    known.observe("talk", 2, 1.0)
    known.observe("talk", 8, 4.0)
    assert [known.of("talk", batch) for batch in (1, 2, 4, 9)] == [1.0, 1.0, 1.0, 4.0]
    known.observe("talk", 2, 2.0)
    assert known.of("talk", 2) == pytest.approx(1.1), "a rise counts by halves at the most"


def test_a_decoded_frame_is_judged_by_audio_chunks_of_about_as_many_frames():
    known = Costs()
    known.observe("decode", 1, 0.045)
    known.observe("decode", 1, 0.027, frames=4)
    known.observe("decode", 10, 0.240)
    assert [known.of("decode", 1, frames) for frames in (1, 2, 3, 4, 9)] == [0.045, 0.045, 0.027, 0.027, 0.027]
    assert [known.of("decode", 10, frames) for frames in (1, 4)] == [0.240, 0.240], "a crowd is judged by crowds"


def test_gathering_is_tried_once_for_every_number_of_streams():
    known = Costs()
    known.observe("decode", 1, 0.045)
    assert known.of_gathered(1) is None
    known.observe("decode", 1, 0.027, frames=4)
    known.observe("decode", 1, 0.033, frames=2)
    assert known.of_gathered(10) == 0.027
    known.observe("decode", 10, 0.230, frames=4)
    assert known.of_gathered(10) == 0.230


def test_one_slow_step_does_not_change_the_cost_and_the_first_may_have_compiled():
    known = Costs()
    known.observe("decode", 1, 0.027, frames=4)
    known.observe("decode", 1, 0.300, frames=4)
    assert known.of("decode", 1, 4) < 0.030
    known.observe("prefill", 12, 8.0)
    known.observe("prefill", 12, 0.1)
    assert known.of("prefill", 12) == 0.1


def test_one_slow_step_does_not_end_gathering():
    sim = Simulation(SimulatedRunner(costs=SimulatedCosts(0.2, 0.033, 0.017, 0.022, decode_call_s=0.023)))
    for text in ("w" * 5, "a" * 30):
        sim.speak(text, listening=len(text) > 5)
        sim.run()
    sim.runner.costs.decode_call_s += 0.3
    sim.runner.decode = slow_once(sim.runner, sim.runner.decode)
    listener = sim.speak("b" * 60)
    sim.run()
    assert np.mean([len(chunk.codes) for chunk in listener.chunks][1:]) > 2.5


def slow_once(runner, decode):
    """The first decoding of several frames takes 0.3 s longer than the others."""

    def decoded(slots, frames):
        result = decode(slots, frames)
        if frames > 1:
            runner.costs.decode_call_s, runner.decode = 0.023, decode
        return result

    return decoded


def test_prefills_are_judged_by_prefills_of_about_their_length():
    known = Costs()
    known.observe("prefill", 12, 0.1)
    known.observe("prefill", 262, 1.5)
    assert [known.of("prefill", positions) for positions in (1, 40, 120, 180, 250, 2000)] == [0.1] * 3 + [1.5] * 3
