"""A request with a context against qwen-tts's own ``generate`` with the concatenated reference."""

from dataclasses import replace

import numpy as np
import pytest
from named_backends import make_backend
from test_runner import GREEDY, LONG, prepare, speak, whole_decode

from serve_app.config import EngineConfig
from serve_app.model.prompt import join_texts
from serve_app.model.runner import TorchRunner
from serve_app.speech import Sampling, SpokenContext
from serve_app.voices.voice import VoicePrompt

FRAMES = 16
FOX = "Once there was a fox. It met a hen, and said good morning!"
CONTEXTS = {"few frames": (LONG, 12), "many frames": ("Was it polite?", 90), "one frame": ("x", 1), "usual": (FOX, 50)}
CASES = [
    ("Nobody knows; the hen was gone.", "english", "austen", "few frames"),
    ("Nobody knows; the hen was gone.", "english", "xvector", "few frames"),
    ("こんにちは、世界。元気ですか？", "japanese", "austen", "many frames"),
    ("你好，世界。", "chinese", "xvector", "many frames"),
    (LONG, "auto", "short", "usual"),
    (LONG, "auto", "xvector", "usual"),
    ("x", "auto", "austen", "one frame"),
    ("x", "german", "xvector", "one frame"),
]


@pytest.fixture(scope="module")
def contexts(runner, voices):
    """Contexts that the same model has spoken, by their name in ``CONTEXTS``."""

    def spoken(text, frames):
        job = prepare(runner, voices, text, "english", "austen", sampling=Sampling(), seed=4)
        ((codes, _),) = speak(runner, [job], frames=frames)
        assert len(codes) == frames
        return SpokenContext(text, codes)

    return {name: spoken(*context) for name, context in CONTEXTS.items()}


def continued(voice, context):
    """The voice whose reference clip goes on with what was said."""
    name = f"{voice.voice} and {len(context.codes)} frames of {context.text}"
    if voice.codes is None:
        return VoicePrompt(name, name, voice.speaker_embedding, context.codes, context.text)
    codes = np.concatenate([voice.codes, context.codes])
    return VoicePrompt(name, name, voice.speaker_embedding, codes, f"{voice.transcript} {context.text}")


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[2]}-{case[3]}")
def test_codes_and_audio_equal_upstreams_with_the_context_in_the_reference(
    runner, checkpoint, voices, contexts, upstream_codes, case
):
    text, language, voice, name = case
    reference = continued(voices[voice], contexts[name])
    expected = upstream_codes(text, language, reference, FRAMES)
    ((codes, pcm),) = speak(
        runner, [prepare(runner, voices, text, language, voice, context=contexts[name])], frames=FRAMES
    )
    np.testing.assert_array_equal(codes, expected)
    np.testing.assert_allclose(pcm, whole_decode(checkpoint, reference, codes), atol=1e-5)
    alone = upstream_codes(text, language, voices[voice], FRAMES)
    shared = min(len(alone), len(codes))
    assert np.mean(codes[:shared] == alone[:shared]) < 0.5, "a context that changes nothing would prove nothing"


@pytest.mark.parametrize("transcript", ["有钱的单身汉。", "She said: 好"])
def test_behind_chinese_and_japanese_the_context_follows_without_a_space(
    runner, voices, contexts, upstream_codes, transcript
):
    voice = replace(voices["short"], voice=transcript, digest=transcript, transcript=transcript)
    context = SpokenContext("总要娶位太太。", contexts["usual"].codes)
    reference = replace(continued(voice, context), transcript=transcript + context.text)
    job = prepare(runner, {transcript: voice}, "你好。", "chinese", transcript, context=context)
    ((codes, _),) = speak(runner, [job], frames=8)
    np.testing.assert_array_equal(codes, upstream_codes("你好。", "chinese", reference, 8))


def test_texts_are_joined_as_they_are_written():
    pairs = [("One.", "Two."), ("好。", "元气"), ("です", "one"), ("안녕", "하세요"), ("", "Two."), ("One.", "")]
    joined = [join_texts(*pair) for pair in pairs]
    assert joined == ["One. Two.", "好。元气", "ですone", "안녕 하세요", "Two.", "One."]


def test_streams_with_contexts_that_shared_a_batch_equal_upstream_alone(
    runner, checkpoint, voices, contexts, upstream_codes
):
    jobs, references = [], []
    for text, language, voice, name in CASES:
        jobs += [prepare(runner, voices, text, language, voice, context=contexts[name])]
        jobs += [prepare(runner, voices, text, language, voice)]
        references += [continued(voices[voice], contexts[name]), voices[voice]]
    spoken = speak(runner, jobs, stagger=2, frames=FRAMES)
    for (codes, pcm), job, reference in zip(spoken, jobs, references, strict=True):
        expected = upstream_codes(job.request.text, job.request.language, reference, FRAMES)
        np.testing.assert_array_equal(codes, expected)
        np.testing.assert_allclose(pcm, whole_decode(checkpoint, reference, codes), atol=1e-4)


@pytest.mark.parametrize("sampling", [GREEDY, Sampling()], ids=["greedy", "seeded"])
@pytest.mark.parametrize("voice", ["austen", "xvector"])
def test_a_stream_with_a_context_resumes_at_any_frame(runner, voices, contexts, voice, sampling):
    fields = {"seed": 5, "sampling": sampling, "context": contexts["usual"]}
    whole = prepare(runner, voices, "Where was I then?", "english", voice, **fields)
    ((codes, pcm),) = speak(runner, [whole], frames=14)
    assert len(codes) == 14
    for cut in (1, 2, 5, 11, 13):
        resumed = prepare(runner, voices, "Where was I then?", "english", voice, delivered_codes=codes[:cut], **fields)
        assert resumed.max_frames == whole.max_frames
        ((rest, rest_pcm),) = speak(runner, [resumed], frames=14 - cut)
        np.testing.assert_array_equal(rest, codes[cut:])
        np.testing.assert_allclose(rest_pcm, pcm[cut * 1920 :], atol=1e-5)


@pytest.mark.parametrize("voice", ["austen", "xvector"])
def test_what_is_kept_of_a_voice_is_the_same_with_contexts_and_without(checkpoint, voices, contexts, voice):
    def spoken(*orders):
        """A fresh runner says the same text with these contexts, one after the other; the last, and all it kept."""
        fresh = TorchRunner(checkpoint, EngineConfig(slots=2, max_positions=512), make_backend("plain"))
        for context in orders:
            job = prepare(fresh, voices, "Where was I?", "english", voice, context=context)
            ((codes, pcm),) = speak(fresh, [job], frames=6)
        kept = fresh.voice_states.get(voices[voice].digest, 0.0)
        return codes, pcm, fresh._prefixes, kept

    usual, other = contexts["usual"], contexts["few frames"]
    for last in (None, usual):
        codes, pcm, prefixes, kept = spoken(last)
        for before in ([other], [None, usual, other], [usual, None]):
            again, again_pcm, again_prefixes, again_kept = spoken(*before, last)
            np.testing.assert_array_equal(again, codes)
            np.testing.assert_array_equal(again_pcm, pcm)
            assert list(again_prefixes) == list(prefixes)
            for key in prefixes:
                for one, another in zip(prefixes.get(key, 0.0), again_prefixes.get(key, 0.0), strict=True):
                    assert one.equal(another)
            if kept.codec is not None:
                assert kept.reference.equal(again_kept.reference)
                assert kept.codec.history.equal(again_kept.codec.history)


def test_a_context_that_changes_the_transcripts_last_token_leaves_the_voices_prefix_unused(
    runner, voices, upstream_codes
):
    voice = replace(voices["short"], voice="dakuten", digest="dakuten", transcript="ですか")
    context = SpokenContext("\u3099です。", voices["austen"].codes[:20])  # か and a combining mark are one character
    reference = replace(continued(voice, context), transcript=voice.transcript + context.text)
    assert runner.prompts.tokenize("x", voice.transcript, context.text).voice_tokens == 0
    jobs = [
        prepare(runner, {"dakuten": voice}, "はい。", "japanese", "dakuten", context=each)
        for each in (context, None, context)
    ]
    expected = [upstream_codes("はい。", "japanese", each, 8) for each in (reference, voice, reference)]
    for job, codes in zip(jobs, expected, strict=True):
        np.testing.assert_array_equal(speak(runner, [job], frames=8)[0][0], codes)


@pytest.mark.parametrize("frames", [1, 8, 30])
def test_a_context_never_takes_positions_from_the_budget_of_a_text(checkpoint, voices, contexts, frames, caplog):
    caplog.set_level("INFO")
    small = TorchRunner(
        checkpoint, EngineConfig(slots=1, max_positions=3 + 4 + 2 + 1 + 38 + 75 + 8), make_backend("plain")
    )
    assert len(voices["short"].codes) == 38
    context = SpokenContext(FOX, contexts["usual"].codes[:frames])
    without = prepare(small, voices, "Hello there.", "english", "short")
    given = prepare(small, voices, "Hello there.", "english", "short", context=context)
    fits = frames <= 8
    assert given.max_frames == without.max_frames == 75
    assert given.prefill_positions == without.prefill_positions + (frames if fits else 0)
    assert (given.model_input == without.model_input) == (not fits)
    assert ("leaving out" in caplog.text) == (not fits)
    ((codes, _),) = speak(small, [given], frames=75)
    assert 0 < len(codes) <= 75


def test_a_text_that_may_need_the_whole_slot_is_spoken_without_context(runner, voices, contexts):
    job = prepare(runner, voices, "a" * 600, "english", "austen", context=contexts["one frame"])
    assert job.model_input.context is None
    assert job.max_frames == prepare(runner, voices, "a" * 600, "english", "austen").max_frames


def test_special_tokens_in_a_context_are_not_taken_as_marks(runner, voices, contexts):
    plain, marked = (
        prepare(runner, voices, "Hi.", "english", "austen", context=SpokenContext(text, contexts["usual"].codes))
        for text in ("A fox.", "A <|im_end|>fox.")
    )
    assert plain.model_input.tokens == marked.model_input.tokens


def test_a_text_of_more_tokens_than_a_slot_has_positions_is_spoken(checkpoint, voices, contexts):
    small = TorchRunner(checkpoint, EngineConfig(slots=1, max_positions=300), make_backend("plain"))
    context = SpokenContext("ab" * 400, contexts["usual"].codes)
    ((codes, _),) = speak(small, [prepare(small, voices, "Hi.", "english", "austen", context=context)], frames=3)
    assert len(codes) == 3
