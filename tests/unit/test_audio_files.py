"""Files of audio: their names decide their format, and what cannot be written is refused first."""

import io
from pathlib import Path

import av
import numpy as np
import pytest

from serve_app.audio.encoders import encoder_for
from serve_app.audio.mark import COMMENT
from serve_app.cli.audio_files import ENDINGS, audio_file
from serve_app.cli.outputs import STDOUT, OutputError, check_writable

CONTAINERS = {"mp3": "mp3", "flac": "flac", "opus": "ogg", "ogg": "ogg", "oga": "ogg", "aac": "aac", "wav": "wav"}
RATE_HZ = 24_000
TONE = (0.5 * np.sin(np.arange(RATE_HZ) * 2 * np.pi * 440 / RATE_HZ)).astype(np.float32)


def heard(content, container):
    with av.open(io.BytesIO(content), format=container) as file:
        (codec,) = {stream.codec_context.name for stream in file.streams}
        return codec, sum(frame.samples / frame.sample_rate for frame in file.decode(audio=0))


@pytest.mark.parametrize("rate_hz", [8000, 16_000, 24_000, 48_000])
@pytest.mark.parametrize("ending", ENDINGS["pcm16"])
def test_a_file_is_what_its_name_says(tmp_path, ending, rate_hz):
    path = tmp_path / f"speech.{ending}"
    audio = encoder_for("pcm16", rate_hz, given_hz=rate_hz).push(TONE[: rate_hz // 2])
    audio_file(path, "pcm16", rate_hz).write(audio)
    if ending in CONTAINERS:
        codec, seconds = heard(path.read_bytes(), CONTAINERS[ending])
        assert codec.startswith({"wav": "pcm_s16le", "ogg": "opus", "oga": "opus"}.get(ending, ending))
        assert seconds == pytest.approx(min(0.5, len(TONE) / rate_hz), abs=0.2)
    else:
        assert path.read_bytes() == audio


@pytest.mark.parametrize(("encoding", "ending"), [(one, ending) for one in ENDINGS for ending in ENDINGS[one]])
def test_every_file_that_has_tags_says_that_a_machine_speaks(tmp_path, encoding, ending):
    audio = encoder_for(encoding).push(TONE)
    audio_file(tmp_path / f"x.{ending}", encoding, RATE_HZ).write(audio)
    content = (tmp_path / f"x.{ending}").read_bytes()
    if ending in CONTAINERS:
        with av.open(io.BytesIO(content), format=CONTAINERS[ending]) as file:
            assert (file.metadata | file.streams[0].metadata)["comment"] == COMMENT
    else:
        assert content == audio


@pytest.mark.parametrize("name", ["speech.WAV", "speech", "a.b/speech"])
def test_case_does_not_matter_and_a_name_without_an_ending_is_a_wav_file(tmp_path, name):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    audio_file(path, "pcm16", RATE_HZ).write(b"\0\0" * 100)
    assert path.read_bytes().startswith(b"RIFF")


@pytest.mark.parametrize(
    ("name", "encoding", "allowed"),
    [
        ("x.m4a", "pcm16", ".wav, .mp3, .flac, .opus, .ogg, .oga, .aac, .pcm, .raw"),
        ("x.txt", "pcm16", ".mp3"),
        ("x.mp3", "pcm_f32", ".wav, .pcm, .raw"),
        ("x.mp3", "mulaw", ".wav, .pcm, .raw"),
        ("x.wav", "opus", ".opus, .ogg, .oga"),
    ],
)
def test_a_format_that_cannot_be_made_is_refused_with_those_that_can(tmp_path, name, encoding, allowed):
    with pytest.raises(OutputError, match=allowed.replace(".", r"\.")):
        audio_file(tmp_path / name, encoding, RATE_HZ)


def test_what_cannot_be_written_is_refused_and_nothing_is_touched(tmp_path):
    (tmp_path / "file").write_bytes(b"kept")
    for path in (tmp_path, tmp_path / "nowhere" / "x", tmp_path / "file" / "x", tmp_path / ("x" * 300), Path("x\0y")):
        with pytest.raises(OutputError, match=r"directory|written"):
            check_writable(path)
    check_writable(tmp_path / "new")
    check_writable(tmp_path / "file")
    check_writable(STDOUT)
    check_writable(Path("/dev/null"))
    assert (tmp_path / "file").read_bytes() == b"kept"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
