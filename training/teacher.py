"""The teacher: hibari's text to speech, modified so that each frame's waveform depends only on the frame's content.

Source: hibari-tts 0.2.1 (Apache-2.0), dsp.synth: harmonic spectrum times the spectrum of pulses, plus shaped noise,
plus a part of free phase, then an inverse STFT. Here the pulses are locked to frames, the phases of their spectrum are
not rotated (no code says how far), the last two parts share one fixed noise, and speech is slower by a fifteenth, so
that every phoneme begins and ends at a third of a frame.

python -m training.teacher DIRECTORY: speaks training/held_out.txt, for training.listen.
"""

import argparse
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from hibari import Hibari, dsp
from numpy.typing import NDArray
from onnx import helper

from training import phase
from training.recordings import write_wave
from training.voice import Voice, envelope, stretched

_SLOWER = 16 / 15
"""Stretch of time, so that the teacher's unit of durations, 25 ms, becomes a third of a frame."""

_DURATIONS = "/Clip_output_0"
_LARGEST_LOG = 7.0
# Fixed noise is the same in overlapping windows and adds up; hibari draws new noise for each, which loses half.
_NOISE_GAIN = dsp.N_FFT / 4 * np.sqrt(2 / (dsp.N_FFT * 1.5))


@dataclass(frozen=True, slots=True)
class Utterance:
    """A sentence as the teacher speaks it.

    Attributes:
        text: the input text.
        phonemes: one character each, as spoken; silence ``_`` at both ends.
        durations: [P] int, in thirds of a frame.
        pitch_codes: [T] int64, one per frame; see :mod:`training.phase`.
        samples: [T * 1920] float32 at 24 kHz.
    """

    text: str
    phonemes: str
    durations: NDArray[np.int64]
    pitch_codes: NDArray[np.int64]
    samples: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Spectra:
    """Output of the teacher's network: log spectra [bins, F], and the pitch [F]."""

    harmonic: NDArray[np.float32]
    noise: NDArray[np.float32]
    pitch_hz: NDArray[np.float32]


class Teacher:
    """Speaks with the voice in hibari's package, on one thread."""

    def __init__(self) -> None:
        self._tts = Hibari()
        graph = onnx.load(self._tts.model_path)
        graph.graph.output.append(helper.make_empty_tensor_value_info(_DURATIONS))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(graph.SerializeToString(), options)
        self._characters = {number: character for character, number in self._tts.vocab.items()}

    @cached_property
    def alphabet(self) -> str:
        """All possible phonemes; silence is first."""
        return "_" + "".join(sorted(self._tts.vocab))

    def say(self, text: str, voice: Voice) -> Utterance | None:
        """Speak one sentence; None if the teacher would split it or leaves it silent."""
        sentences = self._tts.phonemize(text)
        if len(sentences) != 1:
            return None
        ids = self._tts.ids(sentences[0])
        feed = {"ids": np.asarray([ids], np.int64), "speed": np.ones(1, np.float32)}
        *parts, durations = self._session.run(None, feed)
        harmonic, _turn, hiss, free, _, pitch_hz = (_slower(part[0]) for part in parts)
        excitation = phase.lock(pitch_hz * voice.pitch)
        phonemes = "_" + "".join(self._characters[number] for number in ids[1:-1]) + "_"
        noise = np.logaddexp(2 * hiss, 2 * free) / 2
        samples = _synthesize(Spectra(harmonic, noise, pitch_hz), excitation, voice)
        return Utterance(text, phonemes, durations.reshape(-1).astype(np.int64), excitation.codes, samples)


def _slower(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """[..., F] -> [..., F * 16 / 15]: linear interpolation, except where pitch begins or ends."""
    hops = values.shape[-1]
    at = np.arange(int(hops * _SLOWER)) / _SLOWER
    below = np.minimum(at.astype(np.int64), hops - 1)
    above = np.minimum(below + 1, hops - 1)
    part = (at - below).astype(np.float32)
    if values.ndim == 1:
        sounding = values > phase.VOICED_HZ
        part = np.where(sounding[below] == sounding[above], part, np.rint(part))
    return values[..., below] * (1 - part) + values[..., above] * part


def _synthesize(spectra: Spectra, excitation: phase.Excitation, voice: Voice) -> NDArray[np.float32]:
    """[T * 1920]; samples after the last hop are zero."""
    hops = len(spectra.pitch_hz)
    curve = _through_silence(spectra.pitch_hz)
    harmonic = envelope(spectra.harmonic, curve, voice.stretch)
    noise = stretched(spectra.noise, voice.stretch)
    length = hops * phase.HOP_SAMPLES
    pulses = phase.pulses(excitation)[:length]
    pattern = np.resize(phase.noise_pattern(), length)
    # Keep the teacher's loudness: a lower voice has more harmonics.
    harmonic = np.minimum(harmonic, _LARGEST_LOG) + np.log(voice.pitch) / 2
    spectrum = dsp.stft(pulses, hops) * np.exp(harmonic)
    spectrum += dsp.stft(pattern, hops) * (_NOISE_GAIN * np.exp(np.minimum(noise, _LARGEST_LOG)))
    audio = dsp.ola(np.ascontiguousarray(spectrum.astype(np.complex64)))
    return np.pad(audio * 2, (0, len(excitation.phase) - length)).astype(np.float32)


def _through_silence(pitch_hz: NDArray[np.float32]) -> NDArray[np.float32]:
    sounding = np.flatnonzero(pitch_hz > phase.VOICED_HZ)
    if len(sounding) == 0:
        return np.full_like(pitch_hz, 200.0)
    return np.interp(np.arange(len(pitch_hz)), sounding, pitch_hz[sounding]).astype(np.float32)


def main() -> None:
    """Speak the texts on which checkpoints are evaluated, for comparison."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--texts", type=Path, default=Path(__file__).with_name("held_out.txt"))
    parser.add_argument("--stretch", type=float, default=1.0, help="stretch of formants")
    parser.add_argument("--pitch", type=float, default=1.0, help="factor")
    options = parser.parse_args()
    options.directory.mkdir(parents=True, exist_ok=True)
    teacher = Teacher()
    listing: dict[str, str] = {}
    for number, text in enumerate(options.texts.read_text(encoding="utf-8").splitlines()):
        said = teacher.say(text, Voice(options.stretch, options.pitch))
        if said is not None:
            write_wave(options.directory / f"{number:03}.wav", said.samples)
            listing[f"{number:03}"] = text
    (options.directory / "texts.json").write_text(json.dumps(listing), encoding="utf-8")


if __name__ == "__main__":
    main()
