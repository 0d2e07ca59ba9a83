"""Audio files: chooses a format by file name, and converts the received audio to it."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile as sf

from serve_app.audio.encoders import encoder_for
from serve_app.audio.mark import COMMENT
from serve_app.audio.pcm import pcm_of, wav_file
from serve_app.cli.outputs import OutputError, check_writable, write

_RAW = ("pcm", "raw")
_OGG = ("opus", "ogg", "oga")
ENDINGS: dict[str, tuple[str, ...]] = {
    "pcm16": ("wav", "mp3", "flac", *_OGG, "aac", *_RAW),
    "pcm_f32": ("wav", *_RAW),
    "mulaw": ("wav", *_RAW),
    "opus": _OGG,
}
"""File name endings allowed for each received encoding; the first one applies to a name without an ending."""


@dataclass(frozen=True, slots=True)
class AudioFile:
    """A file to write.

    Attributes:
        path: its path; ``-`` is standard output.
        ending: selects the format; one of :data:`ENDINGS`.
        encoding: encoding of the audio that the service sends.
        sample_rate_hz: sample rate of that audio.
    """

    path: Path
    ending: str
    encoding: str
    sample_rate_hz: int

    def write(self, audio: bytes) -> None:
        """Convert and write a whole utterance."""
        write(self.path, file_of(audio, self))


def audio_file(path: Path, encoding: str, sample_rate_hz: int) -> AudioFile:
    """Choose the format of a file.

    Raises:
        OutputError: audio in this encoding cannot be converted to the format of the ending, or the file is not
            writable.
    """
    endings = ENDINGS[encoding]
    ending = path.suffix[1:].lower() or endings[0]
    if ending not in endings:
        allowed = ", ".join(f".{each}" for each in endings)
        raise OutputError(f"{path}: cannot write {encoding} to a .{ending} file; allowed: {allowed}, or no ending")
    check_writable(path)
    return AudioFile(path, ending, encoding, sample_rate_hz)


def file_of(audio: bytes, file: AudioFile) -> bytes:
    """The content of the file for one utterance's audio."""
    if file.encoding == "opus" or file.ending in _RAW:
        return audio
    if file.encoding == "pcm16":
        return _of_pcm16(audio, file)
    samples = np.frombuffer(audio, dtype="<f4")
    if file.encoding == "mulaw":
        raw = io.BytesIO(audio)
        samples, _ = sf.read(raw, format="RAW", subtype="ULAW", samplerate=file.sample_rate_hz, channels=1)
    content = io.BytesIO()
    subtype = "ULAW" if file.encoding == "mulaw" else "FLOAT"
    with sf.SoundFile(content, "w", file.sample_rate_hz, 1, subtype, format="WAV") as written:
        written.comment = COMMENT
        written.write(samples)
    return content.getvalue()


def _of_pcm16(audio: bytes, file: AudioFile) -> bytes:
    if file.ending == "wav":
        return wav_file(audio, file.sample_rate_hz)
    encoder = encoder_for(
        "opus" if file.ending in _OGG else file.ending, file.sample_rate_hz, given_hz=file.sample_rate_hz
    )
    return encoder.push(pcm_of(np.frombuffer(audio, "<i2"))) + encoder.flush()
