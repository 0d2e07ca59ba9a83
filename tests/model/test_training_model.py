"""The recipe in training/ and upstream's own classes: the same prompt, the same codes."""

import copy

import numpy as np
import pytest
import torch
from named_backends import make_backend
from qwen_tts.core.models.configuration_qwen3_tts import Qwen3TTSConfig
from qwen_tts.core.models.modeling_qwen3_tts import Qwen3TTSForConditionalGeneration

from serve_app.config import EngineConfig, ModelConfig
from serve_app.model.checkpoint import load_checkpoint
from serve_app.model.runner import TorchRunner
from serve_app.model.upstream import import_qwen_tts
from serve_app.speech import Sampling, SpeechRequest
from serve_app.voices.voice import Reference
from training import (
    checkpoint,
    codes,
    decoder,
    predict,
    predictor,
    prompt_layout,
    reading,
    rooms,
    shapes,
    synthesis,
    talker,
    text_tokens,
)
from training.encoder import Labeller, nearness
from training.voice import Voice

TEXTS = ["The cat sat on the mat, and then it left.", "Nobody knows where the other cats went."] * 20


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    directory = tmp_path_factory.mktemp("text")
    text_tokens.train(TEXTS, directory)
    tokenizer = text_tokens.load(directory)
    role = tokenizer.encode("<|im_start|>assistant\n", add_special_tokens=False).ids
    return tokenizer, prompt_layout.Marks.of(shapes.language_model(), role)


@pytest.fixture(scope="module")
def model():
    model = Qwen3TTSForConditionalGeneration(Qwen3TTSConfig(**copy.deepcopy(shapes.language_model())))
    model.talker.load_state_dict(talker.build(0).state_dict())
    return model.eval()


def books():
    rng = np.random.default_rng(0)
    sounds = np.zeros((shapes.GROUPS - 2, shapes.CODES, codes.SOUND_DIMS), np.float32)
    for book, part in zip(sounds, codes.PARTS, strict=True):
        book[:, part] = rng.standard_normal(book[:, part].shape)
    return codes.Codebooks(
        codes.TripleTable([("a", "b", "b")]), np.zeros(256), np.zeros((codes.SOUND_DIMS, 256)), sounds
    )


def ids(tokenizer, text):
    return torch.tensor([tokenizer.encode(text, add_special_tokens=False).ids])


@pytest.mark.parametrize("language", ["auto", "english"])
@pytest.mark.parametrize("reference", [None, "The cat left."])
def test_the_prompt_is_laid_out_as_upstream_does(prepared, model, monkeypatch, language, reference):
    tokenizer, marks = prepared
    text = "And the mat?"
    speaker = torch.randn(shapes.TALKER_WIDTH)
    coded = torch.randint(shapes.CODES, (3, shapes.GROUPS))
    captured = {}

    def generate(**given):
        captured.update(given)
        raise InterruptedError

    monkeypatch.setattr(model.talker, "generate", generate)
    with pytest.raises(InterruptedError):
        model.generate(
            input_ids=[ids(tokenizer, f"<|im_start|>assistant\n{text}<|im_end|>\n<|im_start|>assistant\n")],
            ref_ids=[ids(tokenizer, f"<|im_start|>assistant\n{reference}<|im_end|>\n")],
            voice_clone_prompt={
                "ref_code": [coded],
                "ref_spk_embedding": [speaker],
                "x_vector_only_mode": [reference is None],
                "icl_mode": [reference is not None],
            },
            languages=[language],
        )
    tokens = [*(ids(tokenizer, reference)[0].tolist() if reference else []), *ids(tokenizer, text)[0].tolist()]
    frames = 3 if reference else 0
    tokens = torch.tensor([[*tokens, marks.text_eos]])
    with torch.no_grad():
        head = prompt_layout.head(model.talker, marks, speaker[None], tagged=language != "auto")
        body = prompt_layout.body(model.talker, marks, tokens[:, : frames + 1], coded[None, :frames])
        rest = prompt_layout.text_vectors(model.talker, tokens[:, frames + 1 :])
    torch.testing.assert_close(captured["inputs_embeds"], torch.cat([head, body], 1))
    torch.testing.assert_close(captured["trailing_text_hidden"], rest)


def test_text_is_lower_case_bytes_and_few_merges(prepared):
    tokenizer, marks = prepared
    assert len(marks.role) == 3
    for text in ("The cat, 19 mats & an assistant's naïve façade.", "x\n\ny"):
        found = tokenizer.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode(found) == text.lower()
        assert max(found) < shapes.TEXT_TOKENS - 7


def test_losses_count_what_stands_behind_no_end(prepared):
    """A row's losses are the same whatever longer row stands beside it."""
    _, marks = prepared
    module = talker.build(0)
    sounds = torch.from_numpy(books().sounds)
    predictor.set_weights(module, sounds)  # with them, it does not see the random codes that it reads
    attention = talker.Attention(module.model.layers[shapes.ALIGNMENT_LAYER])
    rng = np.random.default_rng(0)

    def a_reading(frames):
        coded = rng.integers(0, shapes.CODES, (frames, shapes.GROUPS))
        return reading.Reading(rng.integers(0, 300, frames // 2), coded, np.arange(frames) // 2, Voice(), "")

    short, long = a_reading(6), a_reading(12)
    with torch.no_grad():
        alone, other, both = (
            talker.losses(module, attention, talker.Batch(rows, marks), marks, sounds)
            for rows in ([short], [long], [short, long])
        )
    for name, weights in {"phones": (7, 13), "looking": (6, 12), "pitch": (6, 12), "sound": (6, 12)}.items():
        torch.testing.assert_close(both[name], (alone[name] * weights[0] + other[name] * weights[1]) / sum(weights))


def test_the_guided_head_is_what_upstream_attends_with():
    module = talker.build(0)
    layer = module.model.layers[shapes.ALIGNMENT_LAYER]
    attention = talker.Attention(layer)
    seen = {}
    layer.self_attn.config = copy.deepcopy(layer.self_attn.config)
    layer.self_attn.config._attn_implementation = "eager"
    layer.self_attn.register_forward_hook(lambda _module, _given, out: seen.update(weights=out[1]))
    x = torch.randn(1, 5, shapes.TALKER_WIDTH)
    with torch.no_grad():
        module.model(inputs_embeds=x, use_cache=False)
        later = torch.ones(5, 5, dtype=torch.bool).triu(1)
        ours = attention.scores().masked_fill(later, -torch.inf).softmax(-1)
    torch.testing.assert_close(ours[:, -1], seen["weights"][:, 0, -1])


@pytest.fixture(scope="module")
def assembled(tmp_path_factory, prepared):
    """A checkpoint of the recipe's shapes with first values, as upstream loads it."""
    directory = tmp_path_factory.mktemp("checkpoint")
    text_tokens.train(TEXTS, directory / "state" / "text")
    books().save(codes.path_of(directory / "state"))
    assert checkpoint.assemble(directory / "state", directory / "out", unfinished=True) == dict.fromkeys(
        ("talker", "speaker", "decoder", "encoder"), 0
    )
    return load_checkpoint(ModelConfig(source=str(directory / "out"), device="cpu", dtype="float32"))


def test_the_engine_speaks_eight_codes_a_frame_as_upstream_does(assembled):
    pcm = np.random.default_rng(0).standard_normal(24000).astype(np.float32) * 0.1
    voice = assembled.encode(Reference("noise", pcm, 24000, "Hiss.", "noise"))
    assert voice.codes.shape == (13, shapes.GROUPS)
    runner = TorchRunner(assembled, EngineConfig(slots=1), make_backend("packed"))
    greedy = Sampling(temperature=0.0)
    runner.prefill([0], [runner.prepare(SpeechRequest("The mat.", "noise", "english", sampling=greedy), voice)])
    ours = []
    for _ in range(6):
        ours.append(runner.sample_frame([0]).codes[0])
        runner.talker_step([0])
    samples = runner.decode([0], 6)[0]

    upstream = assembled.upstream
    item = import_qwen_tts().VoiceClonePromptItem(
        ref_code=torch.from_numpy(voice.codes.astype(np.int64)),
        ref_spk_embedding=torch.from_numpy(voice.speaker_embedding),
        x_vector_only_mode=False,
        icl_mode=True,
        ref_text=voice.transcript,
    )
    theirs, _ = assembled.model.generate(
        input_ids=upstream._tokenize_texts([upstream._build_assistant_text("The mat.")]),
        ref_ids=[upstream._tokenize_texts([upstream._build_ref_text("Hiss.")])[0]],
        voice_clone_prompt=upstream._prompt_items_to_voice_clone_prompt([item]),
        languages=["english"],
        do_sample=False,
        subtalker_dosample=False,
        repetition_penalty=1.0,
        max_new_tokens=7,
    )
    assert np.array_equal(ours, theirs[0].numpy()[:6])
    together = torch.cat([torch.from_numpy(voice.codes.astype(np.int64)), theirs[0][:6]]).T[None]
    with torch.inference_mode():
        whole = assembled.model.speech_tokenizer.model.decoder(together)[0, 0, 13 * 1920 :]
    torch.testing.assert_close(torch.from_numpy(samples), whole, atol=1e-4, rtol=0)


def test_the_encoder_finds_the_nearest_of_its_trained_codebooks():
    labeller = Labeller(books()).eval()
    labeller.set_codebooks()
    samples = torch.randn(1, 4 * 1920) * 0.1
    with torch.no_grad():
        semantic, acoustic = labeller(samples)
        found = labeller.encoder.encode(samples[:, None]).audio_codes[0].T  # [T, GROUPS]
    assert torch.equal(found[:, 0], nearness(semantic[0], labeller.triples).argmax(1))
    assert torch.equal(found[:, 1], nearness(acoustic[0, :, codes.SOUND_DIMS :], labeller.pitch).argmax(1))
    assert torch.equal(found[:, 2], nearness(acoustic[0, :, : codes.SOUND_DIMS], labeller.sounds[0]).argmax(1))
    assert found[:, 1:].max() < shapes.CODES


def test_the_decoders_last_layers_are_the_lapped_transform():
    module = decoder.build(books(), 0)
    coded = torch.randint(shapes.CODES, (1, shapes.GROUPS, 5))
    coded[:, 1] = coded[:, 1].clamp(max=400)
    with torch.no_grad():
        wanted = synthesis.synthesize(decoder.channels(module, coded))
        made = module(coded)[:, 0]
    assert wanted.abs().max() > 0.01
    torch.testing.assert_close(made, wanted.clamp(-1, 1), atol=1e-4, rtol=0)


def test_what_the_channels_hold_is_heard_again():
    """Tones below 5.2 kHz come back exactly; the fixed noise above comes back as it is, but for its first quarter."""
    time = torch.arange(5 * 1920) / 24000
    tones = (0.3 * torch.sin(2 * torch.pi * 440 * time) + 0.1 * torch.cos(2 * torch.pi * 3000 * time))[None]
    again = synthesis.synthesize(synthesis.analyse(tones))
    inner = slice(synthesis.HOP, -synthesis.HOP)
    torch.testing.assert_close(again[:, inner], tones[:, : again.shape[1]][:, inner], atol=2e-3, rtol=0)
    noise = torch.zeros(1, 19, synthesis.CHANNELS)
    quarter = torch.arange(19) % synthesis.QUARTERS
    for band in range(synthesis.NOISE_BANDS):
        noise[0, torch.arange(19), synthesis.TONES + quarter * synthesis.NOISE_BANDS + band] = 1.0 + band
    heard = synthesis.analyse(torch.nn.functional.pad(synthesis.synthesize(noise), (0, synthesis.HOP)))
    torch.testing.assert_close(heard[:, 1:-1], noise[:, 1:-1], atol=0.02, rtol=0)


def test_rooms_leave_loudness_and_pitch_about_as_they_were():
    time = torch.arange(24000) / 24000
    buzz = sum(torch.cos(2 * torch.pi * 150 * number * time) for number in range(1, 20))[None].expand(8, -1) * 0.02
    heard = rooms.recorded(buzz, np.random.default_rng(0))
    assert heard.shape == buzz.shape
    assert (heard != buzz).any(1).sum() >= 4
    for row in heard:
        spectrum = torch.fft.rfft(row).abs()
        assert float(spectrum[[150 * number for number in range(1, 20)]].square().sum() / spectrum.square().sum()) > 0.6


def test_some_recordings_hold_nothing_above_a_frequency():
    heard = rooms.recorded(torch.randn(32, 24000, generator=torch.Generator().manual_seed(0)), np.random.default_rng(0))
    spectrum = torch.fft.rfft(heard).abs().square()
    high = spectrum[:, 11_500:].sum(1) / spectrum.sum(1)
    assert 6 <= (high < 1e-6).sum() <= 18
    assert all(row.square().sum() > 0 for row in heard)


def test_the_code_predictor_is_built_around_the_codebooks_of_sound():
    """Its output layers take the code nearest to the coordinates in its output, and its embeddings keep distances."""
    module = talker.build(0)
    sounds = torch.from_numpy(books().sounds)
    predictor.set_weights(module, sounds)
    wanted = torch.randn(50, codes.SOUND_DIMS)
    for number, (part, book) in enumerate(zip(codes.PARTS, sounds, strict=True)):
        output = torch.zeros(50, module.code_predictor.model.norm.weight.shape[0])
        output[:, : codes.SOUND_DIMS], output[:, codes.SOUND_DIMS] = wanted / predictor.deviations(sounds), 2.0
        drawn = module.code_predictor.lm_head[number + 1](output).argmax(1)
        assert torch.equal(drawn, torch.cdist(wanted[:, part], book[:, part]).argmin(1))
        read = module.code_predictor.model.codec_embedding[number + 1].weight
        near, far = torch.cdist(book, book)[0, 1:].sort().indices[[0, -1]] + 1
        assert (read[near] - read[0]).norm() < (read[far] - read[0]).norm()


def test_the_code_predictor_learns_sounds_by_regression():
    module = talker.build(0)
    sounds = torch.from_numpy(books().sounds)
    predictor.set_weights(module, sounds)
    coded = torch.randint(shapes.CODES, (8, shapes.GROUPS)).repeat(10, 1)
    hidden = torch.randn(8, shapes.TALKER_WIDTH).repeat(10, 1)
    optimizer = torch.optim.Adam(module.code_predictor.parameters(), 3e-3)
    seen = []
    for _ in range(40):
        found = predictor.losses(module, hidden, coded, sounds)
        optimizer.zero_grad()
        found["sound"].backward()
        optimizer.step()
        seen.append(float(found["sound"].detach()))
    assert seen[-1] < 0.5 * seen[0]


def test_predicted_codes_keep_phonemes_and_pitch_and_do_not_depend_on_the_batch(prepared):
    _, marks = prepared
    module = talker.build(0)
    predictor.set_weights(module, torch.from_numpy(books().sounds))
    rng = np.random.default_rng(0)

    def a_reading(frames):
        coded = rng.integers(0, 400, (frames, shapes.GROUPS))
        return reading.Reading(rng.integers(0, 300, 4), coded, np.full(frames, reading.UNKNOWN), Voice(), "")

    long, short = a_reading(9), a_reading(5)
    found = predict.predicted(module, [long, short], marks)
    for given, made in zip([long, short], found, strict=True):
        assert np.array_equal(made[:, :2], given.codes[:, :2])
        assert (made[:, 2:] != given.codes[:, 2:]).any()
        assert np.array_equal(made, predict.predicted(module, [given], marks)[0])


def test_a_part_can_be_the_mean_of_several_checkpoints(tmp_path):
    paths = [tmp_path / "first.pt", tmp_path / "last.pt"]
    for step, path in enumerate(paths, 1):
        torch.save({"step": step, "mean": {"weight": torch.full((1, 1), float(step)), "bias": torch.zeros(1)}}, path)
    part = torch.nn.Linear(1, 1)
    assert checkpoint._take(paths, part, optional=False) == 2
    assert part.weight.item() == 1.5
