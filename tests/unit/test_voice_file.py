"""Exported voices: written, read back, and refused if anything about them is wrong."""

import io
import itertools
import json
import pickle
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.numpy import save

from serve_app.audio.loudness import Loudness
from serve_app.errors import VoiceInvalidError
from serve_app.voices.voice import VoiceManifest, VoicePrompt, VoiceUpload, read_voice, voice_file
from serve_app.voices.voice_file import FORMAT, MAX_FRAMES, MAX_VOICE_FILE_BYTES, VoiceFile, read_voice_file

ENCODERS = "0123456789abcdef0123"
FIELDS = {"id": "woolf", "name": "Woolf", "transcript": "Words.", "language": "english", "consent": "yes"}
FILE = VoiceFile(
    FIELDS, ENCODERS, np.linspace(-1, 1, 8, dtype=np.float32), np.ones((5, 16), np.int16), Loudness(-21.5, 0.5)
)
CONTENT = FILE.to_bytes()


def same(one: VoiceFile, other: VoiceFile) -> bool:
    return one.digest == other.digest and (one.fields, one.encoders) == (other.fields, other.encoders)


words = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@given(
    st.dictionaries(st.sampled_from(sorted(VoiceUpload.model_fields)), words),
    st.one_of(st.none(), arrays(np.int16, st.tuples(st.integers(1, 20), st.just(16)), elements=st.integers(0, 2047))),
    arrays(np.float32, st.integers(1, 64), elements=st.floats(-1e3, 1e3, width=32)),
    st.floats(-70, 0),
)
def test_a_file_is_read_as_it_was_written(fields, codes, embedding, lufs):
    fields.pop("transcript", None)
    if codes is not None:
        fields["transcript"] = "Words."
    file = VoiceFile(fields, ENCODERS, embedding, codes, Loudness(lufs, 0.5))
    again = read_voice_file(file.to_bytes())
    assert same(again, file)
    np.testing.assert_array_equal(again.speaker_embedding, embedding)
    assert again.loudness == file.loudness
    assert again.speaker_embedding.flags.writeable
    assert (again.codes is None) == (codes is None)
    if codes is not None:
        np.testing.assert_array_equal(again.codes, codes)


def test_codes_that_lie_transposed_in_memory_are_written_in_order():
    codes = np.arange(48, dtype=np.int16).reshape(16, 3).T
    assert not codes.flags.c_contiguous
    file = replace(FILE, codes=codes)
    np.testing.assert_array_equal(read_voice_file(file.to_bytes()).codes, codes)
    assert read_voice_file(file.to_bytes()).digest == file.digest == replace(FILE, codes=codes.copy()).digest


def test_the_largest_voice_fits():
    longest = {
        "name": 100,
        "id": 63,
        "transcript": 2000,
        "consent": 2000,
        "speaker": 200,
        "licence": 500,
        "source": 1000,
    }
    fields = {name: "\U00020000" * size for name, size in longest.items()}
    file = replace(
        FILE,
        fields=fields,
        speaker_embedding=np.ones(2048, np.float32),
        codes=np.ones((MAX_FRAMES, 16), np.int16),
    )
    assert len(file.to_bytes()) < MAX_VOICE_FILE_BYTES * 0.75
    assert same(read_voice_file(file.to_bytes()), file)


def test_a_manifest_travels_with_its_voice():
    manifest = VoiceManifest(
        name="Woolf", audio="clip.wav", transcript=" Words. ", language="english", speaker="V. W.", licence="CC0",
        prompt="whole", loudness_lufs=-20, source="a letter", consent="yes",
    )  # fmt: skip
    prompt = VoicePrompt("woolf", "d", FILE.speaker_embedding, FILE.codes, "Words.", FILE.loudness)
    file = read_voice_file(voice_file("woolf", manifest, prompt, ENCODERS).to_bytes())
    upload = VoiceUpload.model_validate(file.fields)
    record = {"digest": file.digest, "at": "now"}
    assert upload.voice == "woolf"
    expected = manifest.model_dump() | {"transcript": "Words.", "upload": {**record, "report": None}}
    assert upload.manifest(record, "clip.wav").model_dump() == expected


@pytest.mark.parametrize(
    "other",
    [
        {"encoders": "f" * 20},
        {"speaker_embedding": FILE.speaker_embedding * np.float32(1.01)},
        {"codes": np.ones((6, 16), np.int16)},
        {"fields": {**FIELDS, "transcript": "Other words."}},
        {"loudness": Loudness(-21.5, 0.6)},
    ],
)
def test_whatever_is_heard_is_in_the_digest_and_no_file_names_its_own(other):
    assert replace(FILE, **other).digest != FILE.digest
    assert replace(FILE, fields={**FIELDS, "digest": "0" * 32, "licence": "CC0"}).digest == FILE.digest


@given(st.integers(0, len(CONTENT) - 1), st.integers(1, 255))
def test_a_changed_byte_is_refused_or_makes_another_voice(position, change):
    content = bytearray(CONTENT)
    content[position] ^= change
    try:
        read = read_voice_file(bytes(content))
    except VoiceInvalidError:
        return
    assert not same(read, FILE)


@given(st.integers(0, len(CONTENT) - 1))
def test_a_part_of_a_file_is_refused(size):
    with pytest.raises(VoiceInvalidError):
        read_voice_file(CONTENT[:size])


@given(st.binary(max_size=400))
def test_bytes_are_refused(content):
    for given_ in (content, len(content).to_bytes(8, "little") + content):
        with pytest.raises(VoiceInvalidError):
            read_voice_file(given_)


class Trap:
    """Says so if it is unpickled."""

    def __reduce__(self):
        return (pytest.fail, ("it was unpickled",))


def archive(pickled: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        made.writestr("archive/data.pkl", pickled)
    return file.getvalue()


def saved(metadata=None, **arrays):
    return save(arrays, {"format": FORMAT, "encoders": ENCODERS, **FIELDS} if metadata is None else metadata)


GOOD = {
    "speaker_embedding": FILE.speaker_embedding,
    "codes": FILE.codes,
    "loudness": np.array([-21.5, 0.5]),
}


def with_header(**entries):
    header = json.dumps(entries).encode()
    return len(header).to_bytes(8, "little") + header


@pytest.mark.parametrize(
    "content",
    [
        with_header(codes={"dtype": "x" * 50_000, "shape": [1], "data_offsets": [0, 2]}),
        with_header(__metadata__={"format": "x" * 50_000}),
        saved(**GOOD, **{"x" * 50_000: np.zeros(1, np.float32)}),
        saved(**GOOD | {"codes": np.zeros((1,) * 32, np.int16)}),
        saved({"format": FORMAT, "encoders": "f" * 50_000, **FIELDS}, **GOOD),
        b"\xff" * 50_000,
    ],
    ids=itertools.count(),
)
def test_an_error_quotes_little_of_a_file(content):
    with pytest.raises(VoiceInvalidError) as refused:
        read_voice_file(content)
    assert len(refused.value.message) < 300


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (pickle.dumps(Trap()), "damaged, or not a safetensors file"),
        (archive(pickle.dumps(Trap())), "damaged, or not a safetensors file"),
        (bytes(MAX_VOICE_FILE_BYTES + 1), f"{MAX_VOICE_FILE_BYTES + 1} bytes; the limit is {MAX_VOICE_FILE_BYTES}"),
        (saved({}, **GOOD), "its format is none"),
        (saved({"format": "pt"}, weight=np.zeros(4, np.float32)), "its format is 'pt'"),
        (saved({"format": FORMAT[:-1] + "2"}, **GOOD), "its format is"),
        (saved({"format": FORMAT, **FIELDS}, **GOOD), "has no encoders"),
        (saved({"format": FORMAT, "encoders": ENCODERS + "\n", **FIELDS}, **GOOD), "has no encoders"),
        (saved(codes=FILE.codes), "has no speaker_embedding, loudness"),
        (saved(**GOOD, weight=np.zeros(4, np.float32)), "has an array 'weight'; allowed: speaker_embedding"),
        (saved(**GOOD | {"codes": np.ones((5, 17), np.int16)}), r"is I16 \[5, 17\]; allowed: I16 .* to \[400, 16\]"),
        (saved(**GOOD | {"codes": np.ones((MAX_FRAMES + 1, 16), np.int16)}), "codes of the voice file is I16"),
        (saved(**GOOD | {"codes": np.ones((0, 16), np.int16)}), "codes of the voice file is I16"),
        (saved(**GOOD | {"codes": np.ones((5, 16), np.int64)}), "codes of the voice file is I64"),
        (saved(**GOOD | {"codes": np.full((5, 16), -1, np.int16)}), "values that no model makes"),
        (saved(**GOOD | {"speaker_embedding": np.zeros((2, 4), np.float32)}), r"is F32 \[2, 4\]"),
        (saved(**GOOD | {"speaker_embedding": np.zeros(4, np.float16)}), "is F16"),
        (saved(**GOOD | {"speaker_embedding": np.full(4, np.nan, np.float32)}), "values that no model makes"),
        (saved(**GOOD | {"loudness": np.array([np.inf, 0.5])}), "values that no model makes"),
        (saved(**GOOD | {"loudness": np.array(-21.5)}), "loudness of the voice file"),
        (saved(speaker_embedding=GOOD["speaker_embedding"], loudness=GOOD["loudness"]), "transcript without codes"),
        (saved({"format": FORMAT, "encoders": ENCODERS}, **GOOD), "codes without a transcript"),
    ],
    ids=itertools.count(),
)  # fmt: skip
def test_a_foreign_or_impossible_file_is_refused_with_its_reason(content, reason):
    with pytest.raises(VoiceInvalidError, match=reason) as refused:
        read_voice_file(content)
    assert "object at" not in refused.value.message


def test_a_voice_of_the_service_may_be_an_exported_one(tmp_path):
    folder = tmp_path / "woolf"
    folder.mkdir()
    manifest = {"audio": "woolf.safetensors", "speaker": "V. W.", "licence": "CC0", **FIELDS}
    del manifest["id"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "woolf.safetensors").write_bytes(CONTENT)
    found = read_voice(folder).reference
    assert (found.voice, found.digest, found.encoders) == ("woolf", FILE.digest, ENCODERS)
    (folder / "manifest.json").write_text(json.dumps(manifest | {"transcript": "Other words."}))
    assert "transcript in manifest.json" in read_voice(folder).reason
    (folder / "woolf.safetensors").write_bytes(bytes(MAX_VOICE_FILE_BYTES + 1))
    assert "the limit is" in read_voice(folder).reason
