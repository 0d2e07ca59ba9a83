"""A voice that another service encoded, on the tiny checkpoint: spoken with as if its clip had been encoded here."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from test_runner import GREEDY, prepare, speak

from serve_app.errors import VoiceInvalidError
from serve_app.model import checkpoint as module
from serve_app.speech import Sampling
from serve_app.voices.voice import ImportedVoice, VoiceManifest, VoicePrompt, voice_file
from serve_app.voices.voice_file import read_voice_file

MANIFEST = VoiceManifest(name="Austen", audio="reference.wav", language="english", speaker="s", licence="CC0")


@pytest.fixture(scope="module", params=["austen", "xvector"])
def travelled(request, voices, checkpoint):
    """A voice and what another service with this checkpoint accepts of its file."""
    before = voices[request.param]
    file = read_voice_file(voice_file("austen", MANIFEST, before, checkpoint.encoders).to_bytes())
    prompt = VoicePrompt("guest", file.digest, file.speaker_embedding, file.codes, file.transcript, file.loudness)
    return before, checkpoint.accept(ImportedVoice(prompt, file.encoders))


@pytest.mark.parametrize("sampling", [GREEDY, Sampling()], ids=["greedy", "seeded"])
def test_an_imported_voice_says_the_same_as_its_clip_also_resumed(runner, travelled, sampling):
    before, imported = travelled
    assert imported.digest != before.digest
    both = {before.voice: before, "guest": imported}
    fields = {"seed": 5, "sampling": sampling}
    ((codes, pcm),) = speak(
        runner, [prepare(runner, both, "It is alive.", "english", before.voice, **fields)], frames=12
    )
    ((again, again_pcm),) = speak(
        runner, [prepare(runner, both, "It is alive.", "english", "guest", **fields)], frames=12
    )
    np.testing.assert_array_equal(again, codes)
    np.testing.assert_array_equal(again_pcm, pcm)
    assert len(codes) == 12
    for cut in (1, 5, 11):
        resumed = prepare(runner, both, "It is alive.", "english", "guest", delivered_codes=codes[:cut], **fields)
        ((rest, rest_pcm),) = speak(runner, [resumed], frames=12 - cut)
        np.testing.assert_array_equal(rest, codes[cut:])
        np.testing.assert_allclose(rest_pcm, pcm[cut * 1920 :], atol=1e-5)


@pytest.mark.parametrize("voice", ["austen", "xvector"])
def test_a_voice_of_the_demonstration_checkpoint_travels(demo, demo_voices, voice):
    before = demo_voices[voice]
    file = read_voice_file(voice_file("austen", MANIFEST, before, demo.encoders).to_bytes())
    prompt = VoicePrompt("guest", file.digest, file.speaker_embedding, file.codes, file.transcript, file.loudness)
    accepted = demo.accept(ImportedVoice(prompt, file.encoders))
    np.testing.assert_array_equal(accepted.speaker_embedding, before.speaker_embedding)
    if voice == "austen":
        assert accepted.codes.shape[1] == 7
        np.testing.assert_array_equal(accepted.codes, before.codes)


@pytest.mark.parametrize(
    ("change", "encoders", "reason"),
    [
        ({}, "f" * 20, "other encoders"),
        ({"speaker_embedding": np.zeros(127, np.float32)}, None, "has 127 values; allowed: 128"),
        ({"codes": np.zeros((3, 7), np.int16)}, None, "has 7 codes per frame; allowed: 16"),
        ({"codes": np.full((3, 16), 2048, np.int16)}, None, "has the code 2048; allowed: 0 to 2047"),
    ],
)
def test_a_voice_that_does_not_fit_the_checkpoint_is_refused(checkpoint, voices, change, encoders, reason):
    imported = ImportedVoice(replace(voices["austen"], **change), encoders or checkpoint.encoders)
    with pytest.raises(VoiceInvalidError, match=reason):
        checkpoint.accept(imported)


def test_an_absurd_embedding_harms_no_other_stream(runner, voices, checkpoint):
    absurd = replace(voices["austen"], digest="absurd", speaker_embedding=np.full(128, 3e38, np.float32))
    both = voices | {"absurd": checkpoint.accept(ImportedVoice(absurd, checkpoint.encoders))}
    jobs = [prepare(runner, both, "It is alive.", "english", voice) for voice in ("austen", "absurd", "xvector")]
    alone = [speak(runner, [job], frames=8)[0] for job in (jobs[0], jobs[2])]
    first, _, last = speak(runner, jobs, frames=8)
    for (codes, pcm), (known, known_pcm) in zip((first, last), alone, strict=True):
        np.testing.assert_array_equal(codes, known)
        np.testing.assert_allclose(pcm, known_pcm, atol=1e-5)


def test_checkpoints_differ_in_their_encoders_and_number_formats_do_not(
    checkpoint, bfloat16_checkpoint, wide_checkpoint
):
    assert checkpoint.encoders == bfloat16_checkpoint.encoders != wide_checkpoint.encoders


def test_only_the_weights_that_encode_clips_are_in_the_digest(tmp_path):
    (tmp_path / "speech_tokenizer").mkdir()

    def digest(**weights):
        values = {"speaker_encoder.a": 0.0, "talker.a": 0.0, "encoder.a": 0.0, "decoder.a": 0.0} | weights
        tensors = {name: torch.full((4,), value, dtype=torch.bfloat16) for name, value in values.items()}
        save_file({name: tensors[name] for name in ("speaker_encoder.a", "talker.a")}, tmp_path / "model.safetensors")
        codec = {name: tensors[name] for name in ("encoder.a", "decoder.a")}
        save_file(codec, tmp_path / "speech_tokenizer" / "model.safetensors")
        return module._encoders(tmp_path)

    before = digest()
    assert digest(**{"talker.a": 1.0, "decoder.a": 1.0}) == before
    assert len({before, digest(**{"speaker_encoder.a": 1.0}), digest(**{"encoder.a": 1.0})}) == 3
