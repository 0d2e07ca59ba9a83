"""Trains the speaker encoder, which computes a voice's embedding from audio.

python -m training.speaker STATE --minutes M: reads STATE/data, saves its state in STATE/speaker.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from qwen_tts.core.models import modeling_qwen3_tts as upstream
from qwen_tts.core.models.configuration_qwen3_tts import Qwen3TTSSpeakerEncoderConfig
from torch import Tensor, nn
from torch.nn import functional

from training import rooms, shapes, shards, speaker_space
from training.loop import Plan, Run, device, read_options
from training.voice import Voice

FRAME_SAMPLES = 1920
ROWS = 12
SHORTEST_S, LONGEST_S = 1.5, 5.0
RATE = 1e-3
HELD = 40
_LOUDEST, _SOFTEST = 1.5, 0.3


class Speaker(nn.Module):
    """Upstream's speaker encoder."""

    def __init__(self) -> None:
        super().__init__()
        config = Qwen3TTSSpeakerEncoderConfig(**shapes.language_model()["speaker_encoder_config"])
        self.encoder = upstream.Qwen3TTSSpeakerEncoder(config)

    def forward(self, samples: Tensor) -> Tensor:
        """[B, N] -> [B, TALKER_WIDTH]."""
        return self.encoder(spectra(samples))


def spectra(samples: Tensor) -> Tensor:
    """Input of upstream's speaker encoder, [B, N] -> [B, F, 128]."""
    mels = upstream.mel_spectrogram(
        samples, n_fft=1024, num_mels=128, sampling_rate=24000, hop_size=256, win_size=1024, fmin=0, fmax=12000
    )
    return mels.transpose(1, 2)


class Clips:
    """Audio with its voice; the last utterances are held out."""

    def __init__(self, state: Path) -> None:
        self.voices: list[Voice] = []
        self._audio: list[np.ndarray] = []
        for path in shards.names(state / "data"):
            if not path.with_suffix(".pcm").exists():
                continue
            audio = shards.audio(path)
            for spoken in shards.read(path):
                start = spoken.first_frame * FRAME_SAMPLES
                self.voices.append(spoken.voice)
                self._audio.append(audio[start : start + spoken.frames * FRAME_SAMPLES])

    def __len__(self) -> int:
        return len(self.voices)

    def clip(self, number: int, start: int = 0, length: int | None = None) -> Tensor:
        """[length] float32; all of it if no length is given."""
        end = None if length is None else start + length
        return torch.from_numpy(self._audio[number][start:end].astype(np.float32) / 32768)

    def batch(self, rng: np.random.Generator) -> tuple[Tensor, list[Voice]]:
        """Draw clips with one random length and random loudness, each in a different room."""
        length = int(rng.uniform(SHORTEST_S, LONGEST_S) * 24000)
        clips: list[Tensor] = []
        voices: list[Voice] = []
        while len(clips) < ROWS:
            number = int(rng.integers(len(self) - HELD))
            spare = len(self._audio[number]) - length
            if spare < 0:
                continue
            clip = self.clip(number, int(rng.integers(spare + 1)), length)
            clips.append((clip * rng.uniform(_SOFTEST, _LOUDEST)).clamp(-1, 1))
            voices.append(self.voices[number])
        return rooms.recorded(torch.stack(clips), rng).clamp(-1, 1), voices


def main() -> None:
    """Train, or continue training."""
    options = read_options(__doc__, seed=8)
    clips = Clips(options.state)
    run = Run(options.state / "speaker", Speaker(), Plan(options.minutes, RATE, cooling=options.cool))

    def of(model: nn.Module, step: int) -> Mapping[str, Tensor]:
        samples, voices = clips.batch(np.random.default_rng((options.seed, step)))
        return {"loss": functional.mse_loss(model(samples.to(device())), speaker_space.embed(voices).to(device()))}

    def judge(model: nn.Module, _step: int) -> dict[str, float]:
        held = range(len(clips) - HELD, len(clips))
        found = torch.cat([model(clips.clip(number)[None].to(device())).cpu() for number in held])
        wanted = speaker_space.embed([clips.voices[number] for number in held])
        return {"loss": float(functional.mse_loss(found, wanted)), "of": float(wanted.var())}

    run.train(of, judge)


if __name__ == "__main__":
    main()
