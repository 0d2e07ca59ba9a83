"""Recordings: utterances with codes and audio, in memory for training, and as files for training.listen."""

import random
import wave
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training import codes, shards
from training.codes import Codebooks
from training.shards import FRAME_SAMPLES

HELD = 40
"""The last utterances, which are never trained on."""


class Recordings:
    """Utterances of all shards with audio."""

    def __init__(
        self,
        state: Path,
        codebooks: Codebooks,
        moved: random.Random | None = None,
        delay_samples: int = 0,
        *,
        predicted: bool = False,
    ) -> None:
        """Load them.

        Args:
            state: the training state's directory.
            codebooks: codebooks of their codes.
            moved: if given, frames start at random offsets; loads all audio into memory.
            delay_samples: delay of the audio after the codes.
            predicted: whether to load utterances with predicted codes too, where training.predict has made them.
        """
        self.texts: list[str] = []
        self.codes: list[NDArray[np.int64]] = []
        self._audio: list[NDArray[np.int16]] = []
        for path in shards.names(state / "data"):
            if not path.with_suffix(".pcm").exists():
                continue
            audio = shards.audio(path)
            for spoken, coded in codes.read_coded(codebooks, path):
                start = spoken.first_frame * FRAME_SAMPLES
                samples = audio[start : start + spoken.frames * FRAME_SAMPLES]
                if delay_samples:
                    samples = np.concatenate([np.zeros(delay_samples, np.int16), samples[:-delay_samples]])
                if moved is None:
                    self._add(spoken.text, coded, samples)
                else:
                    units = moved.randrange(int(spoken.durations[0]))
                    cut, heard = codes.later(spoken, samples.astype(np.float32) / 32768, units)
                    self._add(spoken.text, codebooks.encode(cut), (heard * 32768).astype(np.int16))
        if predicted:
            self._add_predicted(state)

    def _add_predicted(self, state: Path) -> None:
        """Put them before the others, so that the held-out utterances stay the last."""
        made: list[NDArray[np.int64]] = []
        for path in shards.names(state / "data"):
            if codes.predicted_path(path).exists():
                ends = np.cumsum([each.frames for each in shards.read(path)])[:-1]
                made += np.split(np.load(codes.predicted_path(path)).astype(np.int64), ends)
        if made:
            assert len(made) == len(self.codes), "training.predict must have made all shards with audio"
            trained = len(made) - HELD
            self.codes = made[:trained] + self.codes
            self.texts = self.texts[:trained] + self.texts
            self._audio = self._audio[:trained] + self._audio

    def _add(self, text: str, coded: NDArray[np.int64], samples: NDArray[np.int16]) -> None:
        self.texts.append(text)
        self.codes.append(coded)
        self._audio.append(samples)

    def __len__(self) -> int:
        return len(self.codes)

    def samples(self, number: int, first: int = 0, frames: int | None = None) -> Tensor:
        """[frames * 1920] float32; all of it if the number of frames is not given."""
        start = first * FRAME_SAMPLES
        end = None if frames is None else start + frames * FRAME_SAMPLES
        return torch.from_numpy(self._audio[number][start:end].astype(np.float32) / 32768)

    def batch(self, rng: np.random.Generator, rows: int, frames: int) -> tuple[Tensor, Tensor]:
        """Cut random pieces: codes [rows, GROUPS, frames], samples [rows, frames * 1920]."""
        coded: list[Tensor] = []
        sounding: list[Tensor] = []
        while len(coded) < rows:
            number = int(rng.integers(len(self) - HELD))
            spare = len(self.codes[number]) - frames
            if spare < 0:
                continue
            first = int(rng.integers(spare + 1))
            coded.append(torch.from_numpy(self.codes[number][first : first + frames].T))
            sounding.append(self.samples(number, first, frames))
        return torch.stack(coded), torch.stack(sounding)


def write_wave(path: Path, samples: NDArray[np.floating]) -> None:
    """Write [N] in [-1, 1] as 16-bit mono at 24 kHz."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(24_000)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
