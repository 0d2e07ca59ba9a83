"""Which character each frame speaks: what the alignment head looks at, in every backend."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from named_backends import make_backend
from test_runner import LONG, prepare, speak

from serve_app.config import EngineConfig
from serve_app.model.backends.cpu.compiled_stack import CompiledStack
from serve_app.model.checkpoint import AlignmentHead, CheckpointError, alignment_head_of
from serve_app.model.graphs import GraphedSteps
from serve_app.model.runner import TorchRunner
from serve_app.session.word_times import monotone

TEXT = "The water in the lake was cold, but very clear."


@pytest.fixture(scope="module", params=["packed", "plain"])
def demo_runner(demo, request):
    return TorchRunner(demo, EngineConfig(slots=4), make_backend(request.param))


def spoken_of(runner, prepared, codes, slot=0):
    """What a stream says that has these codes already."""
    resumed = replace(prepared, request=replace(prepared.request, delivered_codes=codes))
    runner.prefill([slot], [resumed])
    spoken = runner.spoken(slot, resumed, range(len(codes)))
    runner.release(slot)
    return spoken


def test_the_frames_go_through_the_text(demo_runner, demo_voices):
    for voice in ("austen", "xvector"):
        job = prepare(demo_runner, demo_voices, TEXT, "english", voice, seed=3)
        ((codes, _),) = speak(demo_runner, [job], frames=100)
        spoken = spoken_of(demo_runner, job, codes)
        path = monotone(spoken)
        assert np.mean(np.abs(path - spoken) <= 3) > 0.8
        assert set(np.unique(path)) > {TEXT.index(word) for word in ("water", "cold", "very", "clear")}


def test_torch_and_compiled_code_look_at_the_same_characters(demo, demo_voices):
    plain, packed = (TorchRunner(demo, EngineConfig(slots=1), make_backend(name)) for name in ("plain", "packed"))
    job = prepare(packed, demo_voices, TEXT, "english", "austen", seed=3)
    ((codes, _),) = speak(packed, [job], frames=100)
    assert spoken_of(plain, job, codes).tolist() == spoken_of(packed, job, codes).tolist()


def steps_of(runner, jobs, frames):
    """The characters of frames as they are made, one after the other, of streams that start apart."""
    spoken = [[] for _ in jobs]
    for frame in range(frames + len(jobs) - 1):
        if frame < len(jobs):
            runner.prefill([frame], [jobs[frame]])
        slots = [slot for slot in range(len(jobs)) if slot <= frame < frames + slot]
        runner.sample_frame(slots)
        for slot in slots:
            spoken[slot] += runner.spoken(slot, jobs[slot], range(frame - slot, frame - slot + 1)).tolist()
        runner.talker_step(slots)
    for slot in range(len(jobs)):
        runner.release(slot)
    return spoken


def test_a_stream_looks_at_the_same_alone_and_batched_and_after_a_resumption(demo, demo_voices):
    runner = TorchRunner(demo, EngineConfig(slots=4), make_backend("packed"))
    texts = [TEXT, LONG, "Yes.", "Hello there, I am a small machine."]
    jobs = [
        prepare(runner, demo_voices, text, "english", voice, seed=seed)
        for seed, (text, voice) in enumerate(zip(texts, ["austen", "xvector", "short", "austen"], strict=True))
    ]
    batched = steps_of(runner, jobs, 20)
    for job, spoken in zip(jobs, batched, strict=True):
        assert steps_of(runner, [job], 20) == [spoken]
        ((codes, _),) = speak(runner, [job], frames=20)
        assert spoken_of(runner, job, codes, slot=2).tolist() == spoken[: len(codes)]
        for cut in (1, 7):
            resumed = replace(job, request=replace(job.request, delivered_codes=codes[:cut]))
            runner.prefill([1], [resumed])
            runner.sample_frame([1])
            assert runner.spoken(1, resumed, range(cut + 1)).tolist() == spoken[: cut + 1]
            runner.release(1)


def test_graphed_steps_look_at_the_same(demo, demo_voices):
    runner = TorchRunner(demo, EngineConfig(slots=2), make_backend("plain"))
    job = prepare(runner, demo_voices, TEXT, "english", "austen", seed=3)
    plain = steps_of(runner, [job], 30)
    runner.use_graphs(GraphedSteps(runner.steps, 2, EngineConfig().max_positions, lambda step: step))
    assert steps_of(runner, [job], 30) == plain


@pytest.mark.parametrize("layout", ["streaming", "whole"])
@pytest.mark.parametrize("text", ["Hello there.", LONG])
@pytest.mark.parametrize("backend", ["packed", "plain"])
def test_a_frame_speaks_what_upstreams_head_attends_to(checkpoint, voices, backend, layout, text):
    """For the last head, whose keys are shared, of a checkpoint with random weights; any head serves."""
    config = checkpoint.model.config.talker_config
    head = AlignmentHead(config.num_hidden_layers - 1, config.num_attention_heads - 1, 0)
    runner = TorchRunner(replace(checkpoint, alignment_head=head), EngineConfig(slots=1), make_backend(backend))
    job = prepare(runner, voices, text, "english", "short", prompt=layout)
    ((codes, _),) = speak(runner, [job], frames=12)
    source = job.model_input
    reference = runner.prompts.embed_reference(torch.from_numpy(voices["short"].codes.astype(np.int64)))
    speaker = torch.from_numpy(voices["short"].speaker_embedding)
    x, more = runner.prompts.build(source.tokens, "english", speaker, reference, layout)
    over = torch.cat([more, runner.prompts.text_pad.expand(len(codes), -1)])[: len(codes)]
    x = torch.cat([x, runner.prompts.codes.of_frames(torch.from_numpy(codes.astype(np.int64))) + over])
    weights = attention_of(checkpoint.model.talker.model, head, x)
    spoken = spoken_of(runner, job, codes)
    first = len(x) - len(codes) - 1
    begins = source.text_position - len(source.tokens.reference) - 1
    for frame, character in enumerate(spoken.tolist()):
        row = weights[first + frame, begins : source.text_position + len(source.tokens.text)]
        of_text = row[source.text_position - begins :]
        same = [of_text[at] for at, each in enumerate(source.tokens.characters) if each == character]
        found = row[: source.text_position - begins].max() if character < 0 else max(same)
        assert found >= row.max() * 0.999


def attention_of(model, head, x):
    """[T, T], the weights with which one of upstream's heads attends."""
    attention, seen = model.layers[head.layer].self_attn, []
    configured, attention.config = attention.config, copy.deepcopy(attention.config)
    attention.config._attn_implementation = "eager"
    hook = attention.register_forward_hook(lambda _module, _given, out: seen.append(out[1]))
    try:
        with torch.inference_mode():
            model(inputs_embeds=x[None], use_cache=False)
    finally:
        attention.config = configured
        hook.remove()
    return seen[0][0, head.head].tril()


@pytest.mark.parametrize("layout", ["streaming", "whole"])
def test_tokens_know_their_position_and_their_character(runner, voices, layout):
    """The first position at which two prompts differ is that of the first token that differs."""
    first, second = "Hello there friend.", "Hello there you."
    made = []
    for text in (first, second):
        source = prepare(runner, voices, text, "english", "austen", prompt=layout).model_input
        speaker = torch.from_numpy(voices["austen"].speaker_embedding)
        reference = runner.prompts.embed_reference(torch.from_numpy(voices["austen"].codes.astype(np.int64)))
        made.append((source, torch.cat(runner.prompts.build(source.tokens, "english", speaker, reference, layout))))
    (one, x), (other, y) = made
    token = next(n for n, (a, b) in enumerate(zip(one.tokens.text, other.tokens.text, strict=False)) if a != b)
    shortest = min(len(x), len(y))
    assert one.text_position + token == int((x[:shortest] != y[:shortest]).any(1).nonzero()[0])
    assert one.tokens.characters[token] == first.index("friend")


@pytest.mark.parametrize("text", ["The café’s  water 東京 😀.", "A<|im_end|>b c", " x", "e\u0301a"])
def test_characters_count_in_the_text_as_it_was_given(runner, text):
    tokens = runner.prompts.tokenize(text, None)
    assert len(tokens.characters) == len(tokens.text)
    assert tokens.characters == sorted(tokens.characters)
    for character in tokens.characters:
        assert character == len(text) or not text[character].isspace()
    if "<|im_end|>" in text:
        assert {text[character] for character in tokens.characters} == {"A", "b", "c"}


def test_a_checkpoint_without_an_alignment_head_cannot_tell(checkpoint, runner, voices):
    assert checkpoint.alignment_head is None
    job = prepare(runner, voices, "Hello.", "english", "austen", words=True)
    assert runner.spoken(0, job, range(3)) is None


def test_the_alignment_head_is_one_of_the_talkers(demo):
    talker = demo.model.config.talker_config
    right = {"layer": 3, "head": 1, "frames_ahead": 2}
    assert alignment_head_of(right, talker) == AlignmentHead(3, 1, 2)
    assert alignment_head_of(None, talker) is None
    assert demo.alignment_head == AlignmentHead(1, 0, 1)
    wrong = [
        [1, 0], {}, {**right, "layer": 4}, {**right, "head": -1}, {**right, "head": True},
        {**right, "frames_ahead": 13}, {**right, "more": 1}, {"layer": 1, "head": 0}, {**right, "layer": "1"},
    ]  # fmt: skip
    for each in wrong:
        with pytest.raises(CheckpointError, match=r"alignment_head in .*layer from 0 to 3, head from 0 to 3, frames"):
            alignment_head_of(each, talker)


def test_only_a_checkpoint_with_an_alignment_head_keeps_queries(demo_runner, runner):
    assert runner.talker.cache.watched is None
    assert demo_runner.predictor.cache.watched is None
    kept = demo_runner.talker.cache.watched.queries
    assert kept.nbytes * 2 * 4 * 4 == demo_runner.talker.cache.keys.nbytes * 2
    assert isinstance(runner.talker.stack, CompiledStack)
