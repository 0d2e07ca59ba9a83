import copy
import hashlib
import json
import logging
import threading
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from serve_app.model import random_checkpoint
from serve_app.model.upstream import import_qwen_tts

SAMPLE_RATE_HZ = 24_000
FRAME_SAMPLES = 1920
FRAMES = 50
GREEDY = {"do_sample": False, "subtalker_dosample": False}
TEXTS = (
    "The harbour was quiet before the first boats came in.",
    "Nobody had asked her whether the piano could be moved.",
    "今天下午我们去河边散步。",
    "Вечером пошёл тихий снег.",
)


@dataclass(frozen=True)
class Request:
    text: str = TEXTS[0]
    language: str = "Auto"
    voice: int = 0
    icl: bool = True


@dataclass(frozen=True)
class Spoken:
    codes: torch.Tensor  # [T, 16]
    audio: np.ndarray  # [T * 1920], give or take the upstream cut of the reference


REQUESTS = {
    **{f"text {i}, {mode}": Request(text, icl=mode == "icl") for i, text in enumerate(TEXTS) for mode in ("icl", "x")},
    **{f"voice 1, {mode}": Request(voice=1, icl=mode == "icl") for mode in ("icl", "x")},
    **{f"english, {mode}": Request(language="english", icl=mode == "icl") for mode in ("icl", "x")},
    **{f"german, {mode}": Request(language="german", icl=mode == "icl") for mode in ("icl", "x")},
}


def synthetic_voice(seed: int, duration_s: float = 2.4) -> np.ndarray:
    """A gliding tone with nineteen harmonics, swelling like syllables, in a little noise."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(int(duration_s * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    pitch_hz = rng.uniform(90, 220) * (1 + 0.1 * np.sin(2 * np.pi * rng.uniform(0.5, 2) * time_s))
    phase = 2 * np.pi * np.cumsum(pitch_hz) / SAMPLE_RATE_HZ
    tone = sum(rng.uniform(0.2, 1) / k * np.sin(k * phase + rng.uniform(0, 6)) for k in range(1, 20))
    swell = 0.5 + 0.5 * np.sin(2 * np.pi * rng.uniform(2, 5) * time_s)
    audio = tone * swell + 0.1 * rng.standard_normal(len(time_s))
    return (0.08 * audio / np.sqrt(np.mean(audio**2))).astype(np.float32)


def digests(directory):
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def agreement(one: torch.Tensor, other: torch.Tensor) -> float:
    frames = min(len(one), len(other))
    assert frames >= 4
    return (one[:frames] == other[:frames]).float().mean().item()


def distinct(codes: torch.Tensor) -> list[int]:
    return [len(column.unique()) for column in codes.T]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Small tensors: a second thread waits more than it works, and badly so on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def tiny(cache):
    return random_checkpoint.ensure("tiny", cache)


@pytest.fixture(scope="module")
def upstream(tiny):
    """The model as upstream loads it, in float32, with what transformers logged while doing so."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = records.append
    logger = logging.getLogger("transformers")
    logger.addHandler(handler)
    try:
        model = import_qwen_tts().Qwen3TTSModel.from_pretrained(str(tiny))
    finally:
        logger.removeHandler(handler)
    return model, [record.getMessage() for record in records]


@pytest.fixture(scope="module")
def model(upstream):
    return upstream[0]


@pytest.fixture(scope="module")
def prompts(model):
    """The prompts of two synthetic voices, made for ICL."""
    return [
        model.create_voice_clone_prompt((synthetic_voice(seed), SAMPLE_RATE_HZ), ref_text="one two three four")[0]
        for seed in (1, 2)
    ]


@pytest.fixture(scope="module")
def speak(model, prompts):
    """Run upstream's generate_voice_clone over a batch; it hides the codes, so they are caught on their way."""

    def prompt_of(request: Request):
        prompt = copy.copy(prompts[request.voice])
        if not request.icl:
            prompt.ref_code, prompt.icl_mode, prompt.x_vector_only_mode = None, False, True
        return prompt

    def run(requests: list[Request], **options) -> list[Spoken]:
        caught = []
        generate = model.model.generate

        def catching(**arguments):
            caught.append(generate(**arguments))
            return caught[-1]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(model.model, "generate", catching)
            audio, rate_hz = model.generate_voice_clone(
                text=[request.text for request in requests],
                language=[request.language for request in requests],
                voice_clone_prompt=[prompt_of(request) for request in requests],
                max_new_tokens=FRAMES + 1,  # the last token that upstream makes is no frame
                **options,
            )
        assert rate_hz == SAMPLE_RATE_HZ
        return [Spoken(codes, samples) for codes, samples in zip(caught[0][0], audio, strict=True)]

    return run


@pytest.fixture(scope="module")
def greedy(speak):
    return dict(zip(REQUESTS, speak(list(REQUESTS.values()), **GREEDY), strict=True))


@pytest.fixture(scope="module")
def sampled(speak):
    torch.manual_seed(0)
    requests = [Request(text, voice=1, icl=icl) for text in TEXTS for icl in (True, False)]
    return speak(requests)


def test_building_twice_gives_the_same_bytes(tiny, tmp_path):
    random_checkpoint.build("tiny", tmp_path / "again")
    assert digests(tmp_path / "again") == digests(tiny)


def test_tiny_is_small_and_says_that_it_is_random(tiny, tmp_path):
    assert sum(path.stat().st_size for path in tiny.rglob("*") if path.is_file()) < 60e6
    assert random_checkpoint.is_random(tiny)
    assert not random_checkpoint.is_random(tmp_path)
    assert json.loads((tiny / "random_weights.json").read_text())["name"] == "tiny"


def test_a_checkpoint_that_is_there_is_not_built_again(tiny, cache, monkeypatch):
    monkeypatch.delattr(random_checkpoint, "write_checkpoint")
    assert random_checkpoint.ensure("tiny", cache) == tiny


def write_marker_only(name, directory):
    (directory / "random_weights.json").write_text(json.dumps(random_checkpoint._marker(name)))


def test_two_builders_at_once_both_succeed(tmp_path, monkeypatch):
    meet = threading.Barrier(2)

    def build_together(name, directory):
        meet.wait(timeout=10)
        write_marker_only(name, directory)

    monkeypatch.setattr(random_checkpoint, "write_checkpoint", build_together)
    found = []
    builders = [
        threading.Thread(target=lambda: found.append(random_checkpoint.ensure("tiny", tmp_path))) for _ in range(2)
    ]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join()
    assert found[0] == found[1]
    assert list(tmp_path.iterdir()) == [found[0]]


def test_a_directory_with_anything_else_in_it_is_left_alone(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"trained")
    with pytest.raises(FileExistsError, match="not built by tts-checkpoint"):
        random_checkpoint.build("tiny", tmp_path, force=True)
    assert (tmp_path / "model.safetensors").read_bytes() == b"trained"


def test_another_recipe_is_replaced_by_force_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(random_checkpoint, "write_checkpoint", write_marker_only)
    out = tmp_path / "out"
    random_checkpoint.build("full-random", out)
    with pytest.raises(FileExistsError, match="--force"):
        random_checkpoint.build("tiny", out)
    random_checkpoint.build("tiny", out, force=True)
    assert json.loads((out / "random_weights.json").read_text())["name"] == "tiny"
    assert list(tmp_path.iterdir()) == [out]


def test_command_prints_where_the_checkpoint_lies(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(random_checkpoint, "write_checkpoint", write_marker_only)
    random_checkpoint.main(["tiny", "--out", str(tmp_path / "here")])
    assert capsys.readouterr().out == f"{tmp_path / 'here'}\n"
    monkeypatch.setenv("TTS_CACHE", str(tmp_path / "cache"))
    random_checkpoint.main(["tiny"])
    assert capsys.readouterr().out.startswith(str(tmp_path / "cache" / "tiny-"))


def test_command_says_what_is_in_the_way(tmp_path, capsys):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(SystemExit):
        random_checkpoint.main(["tiny", "--out", str(tmp_path)])
    assert str(tmp_path) in capsys.readouterr().err


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"TTS_CACHE": "/a", "XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/a"),
        ({"XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/b/qwen3-tts-serve"),
        ({"HOME": "/c"}, "/c/.cache/qwen3-tts-serve"),
    ],
)
def test_cache_follows_the_environment(environment, expected, monkeypatch):
    for name in ("TTS_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert str(random_checkpoint.user_cache()) == expected


def test_upstream_loads_it_without_a_warning(upstream):
    model, messages = upstream
    assert messages == []
    assert model.model.dtype == torch.float32
    assert model.model.speech_tokenizer.get_model_type() == "qwen3_tts_tokenizer_12hz"


def test_every_tensor_is_finite_and_none_is_constant(model):
    for part in (model.model, model.model.speech_tokenizer.model):
        for name, tensor in part.state_dict().items():
            assert tensor.isfinite().all(), name
            assert tensor.numel() == 1 or tensor.std() > 0, name


@pytest.mark.parametrize(
    "text",
    [
        "Hello.",
        "\nA line break first",
        "and last\n\n",
        "  spaces  ",
        "assistant\n",
        "",
        "你好，世界。",
        "こんにちは、カタカナ",
        "안녕하세요",
        "Straße, garçon, ¿qué? Coração",
        "Ёлка и ещё",
        "🎉 ﷺ \U00020000",
    ],
)
def test_upstreams_cuts_of_the_prompt_leave_the_text(model, text):
    tokenizer = model.processor.tokenizer
    text_ids = tokenizer(text)["input_ids"]
    assert tokenizer(model._build_assistant_text(text))["input_ids"][3:-5] == text_ids
    assert tokenizer(model._build_ref_text(text))["input_ids"][3:-2] == text_ids
    assert tokenizer.decode(text_ids) == text


def test_special_tokens_have_the_released_ids(model):
    ids = model.processor.tokenizer("<|endoftext|><|im_start|>assistant\n<|im_end|>")["input_ids"]
    assert (ids[0], ids[1], ids[-1]) == (151643, 151644, 151645)
    assert len(ids) == 5


def test_different_clips_have_different_codes_and_speakers(prompts):
    one, other = prompts
    assert one.ref_code.shape == (30, 16)
    assert agreement(one.ref_code, other.ref_code) < 0.1
    assert min(distinct(one.ref_code)) >= 24
    similarity = torch.nn.functional.cosine_similarity(one.ref_spk_embedding, other.ref_spk_embedding, dim=0)
    assert similarity < 0.9


@pytest.mark.slow
def test_audio_is_as_loud_as_speech_and_never_clipped(greedy, sampled):
    for spoken in [*greedy.values(), *sampled]:
        assert abs(len(spoken.audio) - len(spoken.codes) * FRAME_SAMPLES) <= 1
        assert 0.05 < np.sqrt(np.mean(spoken.audio**2)) < 0.3
        assert np.abs(spoken.audio).max() < 1


@pytest.mark.slow
def test_long_runs_use_dozens_of_codes_of_every_codebook(greedy, sampled):
    for spoken in [*greedy.values(), *sampled]:
        if len(spoken.codes) == FRAMES:
            assert min(distinct(spoken.codes)) >= 24


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["icl", "x"])
def test_greedy_codes_follow_text_voice_and_language(greedy, mode):
    reference = greedy[f"text 0, {mode}"].codes
    for other in ("text 1", "text 2", "text 3", "voice 1", "english", "german"):
        assert agreement(reference, greedy[f"{other}, {mode}"].codes) < 0.5, other
    assert agreement(greedy[f"english, {mode}"].codes, greedy[f"german, {mode}"].codes) < 0.5


@pytest.mark.slow
def test_greedy_codes_follow_the_mode(greedy):
    assert agreement(greedy["text 0, icl"].codes, greedy["text 0, x"].codes) < 0.5


@pytest.mark.slow
def test_some_texts_end_by_themselves_and_others_do_not(greedy, sampled):
    for lengths in ([len(spoken.codes) for spoken in greedy.values()], [len(spoken.codes) for spoken in sampled]):
        assert min(lengths) < FRAMES - 5
        assert max(lengths) == FRAMES
        assert sum(lengths) / len(lengths) > 15
