import inspect
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from named_backends import make_backend

from serve_app.config import EngineConfig
from serve_app.engine.engine import Engine
from serve_app.errors import InvalidMessageError, TextTooLongError, UnsupportedLanguageError
from serve_app.model.backends.cpu import compiled_frame as frame_module
from serve_app.model.backends.cpu.cpu_sampling import sample
from serve_app.model.factory import use_graphs
from serve_app.model.graphs import GraphedSteps
from serve_app.model.runner import TorchRunner
from serve_app.model.sampling import SamplingParams, SamplingTensors
from serve_app.speech import AudioChunk, Sampling, SpeechRequest

GREEDY = Sampling(temperature=0.0)
FRAMES = 24
LONG = (
    "A long sentence that has so many words in it that its tokens do not fit over the codes of the reference clip, so"
    " that a good part of it trails along behind the prompt, one token a frame, until the end of all its words is"
    " reached at last and nothing but padding follows after them."
)
TEXTS = [
    ("Hello there.", "english"),
    ("こんにちは、世界。元気ですか？", "japanese"),
    ("你好，世界。", "chinese"),
    ("Guten Tag!", "german"),
    ("Bonjour à tous, ça va ?", "french"),
    ("안녕하세요.", "korean"),
    ("x", "auto"),
    (LONG, "auto"),
]
FIXTURES = {"packed": "runner", "plain": "plain_runner"}
COMBINATIONS = [(text, language, voice) for text, language in TEXTS for voice in ("austen", "xvector", "short")]


def speak(runner, jobs, stagger=0, chunk=3, frames=FRAMES):
    """Speak the jobs, each joining ``stagger`` frames after the one before; [(codes, pcm)] in their order."""
    waiting = list(enumerate(jobs))
    codes, pcm = [[] for _ in jobs], [[] for _ in jobs]
    slot_of, free, frame = {}, list(range(runner.slots)), 0
    undecoded = {}
    while waiting or slot_of:
        while waiting and free and (not stagger or frame >= stagger * waiting[0][0]):
            job, prepared = waiting.pop(0)
            slot_of[job] = free.pop(0)
            undecoded[job] = 0
            runner.prefill([slot_of[job]], [prepared])
        frame += 1
        if not slot_of:
            continue
        by_slot = sorted(slot_of.items(), key=lambda item: item[1])
        sampled = runner.sample_frame([slot for _, slot in by_slot])
        ending = []
        for (job, _), frame_codes, ended in zip(by_slot, sampled.codes, sampled.ended, strict=True):
            if not ended:
                codes[job].append(frame_codes)
                undecoded[job] += 1
            if ended or len(codes[job]) >= frames:
                ending.append(job)
        for job in [job for job, count in undecoded.items() if count and (job in ending or count >= chunk)]:
            pcm[job].append(runner.decode([slot_of[job]], undecoded[job])[0])
            undecoded[job] = 0
        for job in ending:
            runner.release(slot_of[job])
            free.append(slot_of.pop(job))
            undecoded.pop(job)
        going_on = sorted(slot_of.values())
        if going_on:
            runner.talker_step([slot for slot in going_on if slot in dict(by_slot).values()])
    shaped = [np.stack(rows) if rows else np.zeros((0, 16), np.int16) for rows in codes]
    return list(zip(shaped, [np.concatenate(rows) if rows else np.zeros(0, np.float32) for rows in pcm], strict=True))


def prepare(runner, voices, text, language, voice, **fields):
    return runner.prepare(SpeechRequest(text, voice, language, **{"sampling": GREEDY, **fields}), voices[voice])


def whole_decode(checkpoint, voice, codes):
    """One float32 decode of reference and codes together, cut at the reference's samples; not the codec under test."""
    reference = np.zeros((0, 16), np.int16) if voice.codes is None else voice.codes
    together = torch.from_numpy(np.concatenate([reference, codes]).astype(np.int64)).T[None]
    with torch.inference_mode():
        samples = checkpoint.model.speech_tokenizer.model.decoder(together)
    return samples[0, 0, len(reference) * 1920 :].numpy()


@pytest.mark.parametrize(("text", "language", "voice"), COMBINATIONS)
def test_greedy_codes_and_audio_equal_upstreams(runner, checkpoint, voices, upstream_codes, text, language, voice):
    expected = upstream_codes(text, language, voices[voice], FRAMES)
    ((codes, pcm),) = speak(runner, [prepare(runner, voices, text, language, voice)])
    np.testing.assert_array_equal(codes, expected)
    assert 0.02 < np.sqrt(np.mean(pcm**2)) < 0.5
    np.testing.assert_allclose(pcm, whole_decode(checkpoint, voices[voice], expected), atol=1e-4)


@pytest.mark.parametrize(("text", "language", "voice"), COMBINATIONS)
def test_a_text_before_its_frames_equals_upstreams_other_mode(
    runner, checkpoint, voices, upstream_codes, text, language, voice
):
    expected = upstream_codes(text, language, voices[voice], FRAMES, "whole")
    job = prepare(runner, voices, text, language, voice, prompt="whole")
    for _ in range(2):  # the second time with the cached prefix
        ((codes, pcm),) = speak(runner, [job])
        np.testing.assert_array_equal(codes, expected)
    np.testing.assert_allclose(pcm, whole_decode(checkpoint, voices[voice], expected), atol=1e-4)


def test_the_two_layouts_share_a_batch(runner, voices, upstream_codes):
    layouts = ["streaming", "whole", "whole", "streaming"]
    given = COMBINATIONS[:4]
    jobs = [prepare(runner, voices, *each, prompt=layout) for each, layout in zip(given, layouts, strict=True)]
    for (text, language, voice), layout, (codes, _) in zip(given, layouts, speak(runner, jobs, 2), strict=True):
        np.testing.assert_array_equal(codes, upstream_codes(text, language, voices[voice], FRAMES, layout))


def test_a_whole_prompt_counts_its_text_as_positions(runner, voices):
    streaming, whole = (
        prepare(runner, voices, "Hello there.", "english", "austen", prompt=layout) for layout in ("streaming", "whole")
    )
    tokens, frames = whole.model_input.tokens, len(voices["austen"].codes)
    assert whole.prefill_positions == len(tokens.text) + 1 + 1 + frames
    over_codes = min(len(tokens.reference), frames)
    before = streaming.model_input.constant_positions - over_codes
    assert whole.model_input.constant_positions == before + len(tokens.reference)


@pytest.mark.parametrize("stagger", [0, 2, 7])
@pytest.mark.parametrize("backend", ["packed", "plain"])
def test_streams_that_shared_a_batch_equal_upstream_alone(
    request, checkpoint, voices, upstream_codes, backend, stagger
):
    runner = request.getfixturevalue(FIXTURES[backend])
    spoken = speak(runner, [prepare(runner, voices, *combination) for combination in COMBINATIONS], stagger)
    for (text, language, voice), (codes, pcm) in zip(COMBINATIONS, spoken, strict=True):
        np.testing.assert_array_equal(codes, upstream_codes(text, language, voices[voice], FRAMES))
        np.testing.assert_allclose(pcm, whole_decode(checkpoint, voices[voice], codes), atol=1e-4)


@pytest.mark.parametrize("frames", [30, 64, 65, 66])
def test_a_transcript_of_more_tokens_than_frames_is_spoken_over_as_upstream_does(
    runner, voices, upstream_codes, frames
):
    austen = voices["austen"]
    assert len(runner.prompts.tokenize("x", austen.transcript).reference) == 65
    fast = replace(austen, voice=f"fast{frames}", digest=f"fast{frames}", codes=austen.codes[:frames])
    expected = upstream_codes("Hello there.", "english", fast, 8)
    for _ in range(2):  # the second time with what was kept
        job = prepare(runner, {fast.voice: fast}, "Hello there.", "english", fast.voice)
        ((codes, _),) = speak(runner, [job], frames=8)
        np.testing.assert_array_equal(codes, expected)


def test_codes_depend_on_text_language_and_voice(voices, upstream_codes):
    spoken = {key: upstream_codes(*key[:2], voices[key[2]], FRAMES) for key in COMBINATIONS}
    for one, other in itertools.combinations(spoken.values(), 2):
        shared = min(len(one), len(other))
        assert np.mean(one[:shared] == other[:shared]) < 0.5


def test_the_same_seed_gives_the_same_codes_alone_and_batched(runner, voices):
    jobs = [
        prepare(
            runner, voices, *combination, seed=seed, sampling=Sampling(temperature=0.8 + 0.05 * seed, top_k=40 + seed)
        )
        for seed, combination in enumerate(COMBINATIONS[:12])
    ]
    together = speak(runner, jobs, stagger=2)
    for job, (codes, pcm) in zip(jobs, together, strict=True):
        ((alone, alone_pcm),) = speak(runner, [job], chunk=1)
        np.testing.assert_array_equal(codes, alone)
        np.testing.assert_allclose(pcm, alone_pcm, atol=1e-5)


def test_different_seeds_give_different_codes(runner, voices):
    jobs = [
        prepare(runner, voices, "Hello there.", "english", "austen", seed=seed, sampling=Sampling()) for seed in (1, 2)
    ]
    (one, _), (other, _) = speak(runner, jobs)
    shared = min(len(one), len(other))
    assert np.mean(one[:shared] == other[:shared]) < 0.5


@pytest.mark.parametrize("sampling", [GREEDY, Sampling()], ids=["greedy", "seeded"])
@pytest.mark.parametrize("voice", ["austen", "xvector"])
@pytest.mark.parametrize("layout", ["streaming", "whole"])
def test_a_stream_resumed_at_any_frame_goes_on_as_if_uninterrupted(runner, voices, layout, voice, sampling):
    given = {"seed": 5, "sampling": sampling, "prompt": layout}
    whole = prepare(runner, voices, "Where was I?", "english", voice, **given)
    ((codes, pcm),) = speak(runner, [whole], frames=14)
    for cut in range(1, len(codes)):
        resumed = prepare(runner, voices, "Where was I?", "english", voice, **given, delivered_codes=codes[:cut])
        assert resumed.max_frames == whole.max_frames
        ((rest, rest_pcm),) = speak(runner, [resumed], frames=len(codes) - cut)
        np.testing.assert_array_equal(rest, codes[cut:])
        np.testing.assert_allclose(rest_pcm, pcm[cut * 1920 :], atol=1e-5)


def check_that_batching_and_resumption_change_no_code(runner, voices):
    jobs = [
        prepare(runner, voices, "Where was I?", "english", voice, seed=seed, sampling=Sampling())
        for seed, voice in enumerate(["austen", "xvector", "short"] * 3)
    ]
    together = speak(runner, jobs, frames=14)
    for job, (codes, _) in zip(jobs, together, strict=True):
        ((alone, _),) = speak(runner, [job], frames=14)
        np.testing.assert_array_equal(codes, alone)
    codes, _ = together[0]
    for cut in range(1, len(codes)):
        fields = {"seed": 0, "sampling": Sampling(), "delivered_codes": codes[:cut]}
        resumed = prepare(runner, voices, "Where was I?", "english", "austen", **fields)
        ((rest, _),) = speak(runner, [resumed], frames=len(codes) - cut)
        np.testing.assert_array_equal(rest, codes[cut:])


def test_streams_of_compiled_stacks_are_exact_batched_and_resumed(exact_runner, voices):
    """In bfloat16 too, where torch's products round differently for another number of rows."""
    check_that_batching_and_resumption_change_no_code(exact_runner, voices)


@examples(8)
@given(
    st.lists(st.tuples(st.sampled_from(COMBINATIONS), st.integers(0, 3)), min_size=2, max_size=14), st.integers(2, 10)
)
def test_any_order_of_admission_gives_the_same_audio(runner, voices, upstream_codes, jobs, slots):
    engine = Engine(runner, EngineConfig(slots=10, max_waiting_streams=30, stall_guard_s=None))
    engine._free = list(reversed(range(slots)))
    heard = [[] for _ in jobs]
    for place, (combination, _) in enumerate(jobs):
        engine.submit(prepare(runner, voices, *combination, listening=bool(place % 2)), heard[place].append)
        for _ in range(jobs[place][1]):
            engine.step()
    streams_left = len(jobs)
    while streams_left:
        engine.step()
        for place in range(len(jobs)):
            chunks = [event for event in heard[place] if isinstance(event, AudioChunk)]
            stream = next((each for each in engine._running.values() if each.deliver == heard[place].append), None)
            if stream is not None and sum(len(chunk.codes) for chunk in chunks) >= FRAMES:
                stream.cancel()
        streams_left = len(engine._running) + len(engine._waiting)
    for (combination, _), events in zip(jobs, heard, strict=True):
        text, language, voice = combination
        codes = np.concatenate([event.codes for event in events[:-1]])[:FRAMES]
        np.testing.assert_array_equal(codes, upstream_codes(text, language, voices[voice], FRAMES))


def counting_capture(step):
    step()
    return step


def test_graphs_that_agree_with_the_plain_steps_are_kept(checkpoint, caplog):
    caplog.set_level("INFO")
    small = TorchRunner(checkpoint, EngineConfig(slots=3, max_positions=400), make_backend("plain"))
    use_graphs(small, checkpoint, EngineConfig(slots=3, max_positions=400), counting_capture)
    assert small.graph_fallbacks == 0
    assert "captured" in caplog.text


def test_graphs_that_differ_are_left_loudly(checkpoint, voices, caplog):
    def wrong(step):
        step()
        return lambda: step() * 0

    small = TorchRunner(checkpoint, EngineConfig(slots=3, max_positions=400), make_backend("plain"))
    use_graphs(small, checkpoint, EngineConfig(slots=3, max_positions=400), wrong)
    assert small.graph_fallbacks == 1
    assert "CUDA graphs are off" in caplog.text
    ((codes, _),) = speak(small, [prepare(small, voices, "Hello there.", "english", "austen")], frames=4)
    assert codes.any()


@pytest.mark.parametrize("top_k", [0, 50, 100])
def test_the_draws_of_the_checkpoints_own_sampling_are_captured_when_it_is_loaded(checkpoint, voices, top_k):
    captured = []

    def capture(step):
        captured.append(step)
        return step

    parameters = SamplingParams(0.9, top_k, 1.0)
    loaded = replace(checkpoint, talker_sampling=parameters, predictor_sampling=parameters)
    settings = EngineConfig(slots=1, max_positions=256, audio_chunk_max_frames=1)
    small = TorchRunner(loaded, settings, make_backend("packed"))
    use_graphs(small, loaded, settings, capture)
    of_load = len(captured)
    speak(small, [prepare(small, voices, "Hello there.", "english", "xvector", sampling=Sampling())], chunk=1, frames=3)
    assert len(captured) == of_load


SPARE = 4


@pytest.mark.parametrize("stale", ["rows", "starts", "lengths", "prompts", "padding"])
def test_graphs_that_are_wrong_for_prompts_that_start_together_alone_are_left(checkpoint, caplog, stale):
    """A graph of one prompt is right here. One of several replays what it was captured with, or pads with slot 0."""

    def capture(step):
        step()
        buffers = inspect.getclosurevars(step).nonlocals.get("buffers")
        if buffers is None or len(buffers.rows) == 1:
            return step
        tensor = buffers.rows if stale == "padding" else getattr(buffers, stale)
        captured = tensor.clone()

        def replay():
            given = tensor.clone()
            tensor.copy_(torch.where(given == SPARE, 0, given) if stale == "padding" else captured)
            step()
            tensor.copy_(given)

        return replay

    settings = EngineConfig(slots=SPARE, max_positions=256)
    small = TorchRunner(checkpoint, settings, make_backend("packed"))
    use_graphs(small, checkpoint, settings, capture)
    assert small.graph_fallbacks == 1
    assert "CUDA graphs are off" in caplog.text


@pytest.mark.parametrize("shape", list(itertools.product([1, 2, 4], [1, 16, 32, 64, 128])), ids=str)
def test_a_wrong_graph_of_any_number_and_length_of_prompts_is_found(checkpoint, shape):
    """It replays the prompts that it was captured with; all other graphs are right."""

    def capture(step):
        step()
        buffers = inspect.getclosurevars(step).nonlocals.get("buffers")
        if buffers is None or tuple(buffers.prompts.shape[:2]) != shape:
            return step
        captured = buffers.prompts.clone()

        def replay():
            buffers.prompts.copy_(captured)
            step()

        return replay

    settings = EngineConfig(slots=4, max_positions=200, audio_chunk_max_frames=1)
    small = TorchRunner(checkpoint, settings, make_backend("packed"))
    use_graphs(small, checkpoint, settings, capture)
    assert small.graph_fallbacks == 1


@pytest.mark.parametrize("slots", [1, 2, 5])
def test_any_number_of_slots_can_be_probed(checkpoint, slots):
    settings = EngineConfig(slots=slots, max_positions=128, audio_chunk_max_frames=1)
    small = TorchRunner(checkpoint, settings, make_backend("packed"))
    use_graphs(small, checkpoint, settings, counting_capture)
    assert small.graph_fallbacks == 0


@pytest.mark.parametrize("form", ["packed", "plain"])
def test_codes_of_a_wider_talker_equal_upstreams(wide_checkpoint, wide_voices, wide_upstream_codes, form):
    runner = TorchRunner(wide_checkpoint, EngineConfig(slots=4, max_positions=512), make_backend(form))
    assert (runner.predictor.frame is not None) == (form == "packed")
    given = [("Hello there.", "english", voice) for voice in ("austen", "xvector")] + [("x", "auto", "short")]
    spoken = speak(runner, [prepare(runner, wide_voices, *each) for each in given], stagger=2)
    for (text, language, voice), (codes, _) in zip(given, spoken, strict=True):
        np.testing.assert_array_equal(codes, wide_upstream_codes(text, language, wide_voices[voice], FRAMES))


@pytest.mark.parametrize("graphed", [False, True])
@pytest.mark.parametrize("form", ["packed", "plain"])
def test_prompts_that_are_filled_together_equal_each_filled_alone(request, voices, form, graphed):
    """Of several lengths: padding is overwritten before it is read."""
    runner = request.getfixturevalue(FIXTURES[form])
    delivered = np.random.default_rng(0).integers(0, 60, (20, 16)).astype(np.int16)
    given = [COMBINATIONS[0], COMBINATIONS[1], COMBINATIONS[2], COMBINATIONS[-1]]
    jobs = [
        prepare(runner, voices, *each, delivered_codes=None if n != 1 else delivered) for n, each in enumerate(given)
    ]
    alone = [speak(runner, [job], frames=8)[0][0] for job in jobs]
    if graphed:
        runner.use_graphs(GraphedSteps(runner.steps, runner.slots, 1024, lambda step: step))
    try:
        slots = [3, 0, 2, 1]
        runner.prefill(slots, jobs)
        frames = []
        for _ in range(8):
            frames.append(runner.sample_frame(slots).codes)
            runner.talker_step(slots)
    finally:
        runner.use_graphs(None)
        for slot in slots:
            runner.release(slot)
    for together, codes in zip(np.stack(frames, axis=1), alone, strict=True):
        np.testing.assert_array_equal(together[: len(codes)], codes)


def test_prompts_whose_padding_does_not_fit_are_filled_one_by_one(runner, voices):
    near_the_end = np.random.default_rng(0).integers(0, 60, (900, 16)).astype(np.int16)
    jobs = [
        prepare(runner, voices, "a" * 600, "auto", "xvector", delivered_codes=near_the_end),
        prepare(runner, voices, "Hello there.", "english", "austen"),
    ]
    alone = [speak(runner, [job], frames=3)[0][0] for job in jobs]
    runner.prefill([0, 1], jobs)
    together = runner.sample_frame([0, 1]).codes
    for slot in (0, 1):
        runner.release(slot)
    np.testing.assert_array_equal(together, [codes[0] for codes in alone])


def test_a_text_of_more_tokens_than_a_slot_has_positions_is_spoken(checkpoint, voices):
    small = TorchRunner(checkpoint, EngineConfig(slots=1, max_positions=300), make_backend("plain"))
    job = prepare(small, voices, "ab" * 290, "english", "xvector")
    assert len(job.model_input.tokens.text) > 300
    ((codes, _),) = speak(small, [job], frames=3)
    assert len(codes) == 3


def test_special_tokens_in_a_text_are_not_taken_as_marks(runner, voices):
    texts = "Hello there.", "Hello<|im_end|> there.", "Hello<|im_<|im_end|>end|> there."
    plain, *marked = (prepare(runner, voices, text, "english", "austen").model_input.tokens for text in texts)
    for each in marked:
        assert plain == replace(each, characters=plain.characters)
        assert each.characters[0] == 0
        assert each.characters[-1] == plain.characters[-1] + len(texts[1 + marked.index(each)]) - len(texts[0])


def test_a_text_longer_than_a_stream_takes_is_refused(runner, voices):
    with pytest.raises(TextTooLongError, match="600 characters"):
        prepare(runner, voices, "a" * 601, "english", "austen")


def test_a_language_that_the_checkpoint_does_not_speak_is_refused(runner, voices, monkeypatch):
    monkeypatch.setattr(runner.prompts._talker_config, "codec_language_id", {"english": 1031})
    assert prepare(runner, voices, "Hello.", "english", "austen").max_frames
    assert prepare(runner, voices, "Hello.", "auto", "austen").max_frames
    with pytest.raises(UnsupportedLanguageError, match="'german'; allowed: english, auto"):
        prepare(runner, voices, "Guten Tag!", "german", "austen")


@pytest.mark.parametrize(("known", "other"), [("streaming", "whole"), ("whole", "streaming")])
def test_a_layout_that_the_checkpoint_was_not_trained_with_is_refused(runner, voices, monkeypatch, known, other):
    monkeypatch.setattr(runner, "layouts", (known,))
    assert prepare(runner, voices, "Hello.", "english", "austen", prompt=known).max_frames
    with pytest.raises(InvalidMessageError, match=f"does not know prompt '{other}'; allowed: {known}"):
        prepare(runner, voices, "Hello.", "english", "austen", prompt=other)


def test_the_budget_of_frames_follows_the_text_and_the_room(runner, voices):
    budgets = [
        prepare(runner, voices, text, "auto", "austen").max_frames for text in ("Hi.", "a" * 100, "好" * 100, "a" * 600)
    ]
    assert budgets[:3] == [75, 250, 750]
    assert budgets[3] < 1024 - 80


@pytest.mark.parametrize(
    "sampling", [GREEDY, Sampling(), Sampling(top_k=0)], ids=["greedy", "seeded", "whole-vocabulary"]
)
@pytest.mark.parametrize("backend", ["packed", "plain"])
def test_steps_in_fixed_shapes_give_the_same_codes_and_audio(request, voices, backend, sampling):
    runner = request.getfixturevalue(FIXTURES[backend])
    jobs = [prepare(runner, voices, *combination, seed=3, sampling=sampling) for combination in COMBINATIONS[:6]]
    plain = speak(runner, jobs, stagger=2)
    replays = []

    def capture(step):
        step()
        replays.append(step)
        return step

    runner.use_graphs(GraphedSteps(runner.steps, runner.slots, 1024, capture))
    try:
        graphed = speak(runner, jobs, stagger=2)
    finally:
        runner.use_graphs(None)
    assert len(replays) > 10
    for (codes, pcm), (expected, expected_pcm) in zip(graphed, plain, strict=True):
        np.testing.assert_array_equal(codes, expected)
        np.testing.assert_allclose(pcm, expected_pcm, atol=1e-5)


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("rows", [slice(0, 1), slice(0, 5), torch.tensor([4, 0, 2])])
@pytest.mark.parametrize(("dtype", "backend"), [("float32", "packed"), ("bfloat16", "packed"), ("bfloat16", "int4")])
def test_a_frame_in_one_call_draws_what_one_codebook_after_the_other_does(
    checkpoint, bfloat16_checkpoint, dtype, backend, rows, threads, monkeypatch
):
    monkeypatch.setattr(frame_module, "threads", lambda: threads)
    source = checkpoint if dtype == "float32" else bfloat16_checkpoint
    predictor = TorchRunner(
        source, EngineConfig(slots=5, max_positions=512), make_backend(backend, source.dtype)
    ).predictor
    sampling = SamplingTensors(5, torch.device("cpu"))
    for slot, each in enumerate(
        (
            SamplingParams(0.9, 50, 1.0),
            SamplingParams(0.0, 50, 1.0),
            SamplingParams(1.2, 7, 0.8),
            SamplingParams(0.7, 1, 0.5),
        )
    ):
        sampling.set(slot, each)  # the last is greedy, as all are to begin with
    batch = len(torch.arange(5)[rows])
    generator = torch.Generator().manual_seed(batch)
    width = predictor.frame.passes["hidden"][0]
    hidden = torch.randn(batch, width, generator=generator).to(source.dtype)
    uniform, first = torch.rand(batch, 16, generator=generator), torch.arange(batch)

    def choose(codebook, logits):
        return sample(logits, uniform[:, codebook], sampling, rows, 50)

    with torch.inference_mode():
        stepped = predictor.step_through(hidden, first, choose)
        assert torch.equal(predictor.sample_frame(hidden, first, uniform, sampling, rows, 50), stepped)
        greedy = predictor.step_through(hidden, first, lambda _codebook, logits: logits.argmax(dim=-1))
        all_greedy = SamplingTensors(5, hidden.device)
        assert torch.equal(predictor.sample_frame(hidden, first, uniform, all_greedy, rows, None), greedy)
    assert not torch.equal(stepped, greedy) or batch == 1
