"""Trains the codec's encoder, which finds in audio the codes that the analysis assigned.

python -m training.encoder STATE --minutes M: reads STATE/data and STATE/codebooks.npz, saves its state in
STATE/encoder.
"""

import random
from collections.abc import Mapping

import numpy as np
import torch
from qwen_tts.core.tokenizer_12hz import modeling_qwen3_tts_tokenizer_v2 as upstream
from qwen_tts.core.tokenizer_12hz.configuration_qwen3_tts_tokenizer_v2 import Qwen3TTSTokenizerV2Config
from torch import Tensor, nn
from torch.nn import functional

from training import codes, initial, phase, rooms, shapes
from training.codes import Codebooks
from training.loop import Plan, Run, device, read_options
from training.recordings import HELD, Recordings

ROWS, FRAMES = 6, 24
LEFT_OUT_FRAMES = 2
RATE = 1e-3
_LOUDEST, _SOFTEST = 1.5, 0.5


class Labeller(nn.Module):
    """Upstream's encoder, with the codebooks of phonemes and of pitch as trainable weights.

    The codebooks of sound are those of the analysis, scaled.
    """

    def __init__(self, codebooks: Codebooks) -> None:
        super().__init__()
        config = Qwen3TTSTokenizerV2Config(**shapes.codec())
        self.encoder = upstream.Qwen3TTSTokenizerV2Encoder._from_config(config.encoder_config)
        initial.encoder(self.encoder)
        self.triples = nn.Parameter(torch.randn(shapes.TRIPLES, shapes.CODE_DIM) * 0.25)
        self.pitch = nn.Parameter(torch.randn(phase.PITCH_CODES, codes.PITCH_DIMS) * 0.5)
        self.register_buffer(
            "sounds", torch.from_numpy(codebooks.sounds) * codebooks.scale
        )  # [GROUPS - 2, CODES, SOUND_DIMS]

    def forward(self, samples: Tensor) -> tuple[Tensor, Tensor]:
        """[B, T * 1920] -> semantic and acoustic vectors [B, T, CODE_DIM], which upstream looks up in its codebooks."""
        upstream_encoder = self.encoder
        # torch 2.14.1 on a CPU with AMX computes the second of these convolutions (16 channels, stride 4) wrongly in
        # bfloat16: its result differs by 111 % from the one in float32.
        with torch.autocast(samples.device.type, enabled=False):
            hidden = upstream_encoder.encoder(samples[:, None])
        hidden = upstream_encoder.encoder_transformer(hidden.transpose(1, 2), use_cache=False)[0].transpose(1, 2)
        hidden = upstream_encoder.downsample(hidden)
        quantizer = upstream_encoder.quantizer
        semantic = quantizer.semantic_residual_vector_quantizer.input_proj(hidden)
        acoustic = quantizer.acoustic_residual_vector_quantizer.input_proj(hidden)
        return semantic.transpose(1, 2), acoustic.transpose(1, 2)

    @torch.no_grad()
    def set_codebooks(self) -> None:
        """Copy the codebooks into upstream's quantizers, which are unusable before."""
        quantizer = self.encoder.quantizer
        initial.set_codebook(quantizer.semantic_residual_vector_quantizer.layers[0], self.triples)
        layers = quantizer.acoustic_residual_vector_quantizer.layers
        initial.set_codebook(layers[0], functional.pad(self.pitch, (codes.SOUND_DIMS, 0)))
        for layer, book in zip(layers[1:], self.sounds, strict=True):
            initial.set_codebook(layer, functional.pad(book, (0, codes.PITCH_DIMS)))


def nearness(vectors: Tensor, book: Tensor) -> Tensor:
    """[N, D] and [K, D] -> [N, K]: larger is nearer; a quantizer takes the largest."""
    return 2 * vectors @ book.T - (book * book).sum(1)


def losses(labeller: Labeller, samples: Tensor, coded: Tensor, left_out: int) -> dict[str, Tensor]:
    """Compare the codes found in [B, T * 1920] with the codes [B, GROUPS, T]."""
    semantic, acoustic = (each[:, left_out:].flatten(0, 1).float() for each in labeller(samples))
    wanted = coded[:, :, left_out:].transpose(1, 2).flatten(0, 1)  # [N, GROUPS]
    with torch.autocast(samples.device.type, enabled=False):  # adjacent codes differ only in the last bits
        of_phonemes = nearness(semantic, labeller.triples)
        of_pitch = nearness(acoustic[:, codes.SOUND_DIMS :], labeller.pitch)
    sound = torch.stack([book[wanted[:, 2 + number]] for number, book in enumerate(labeller.sounds)]).sum(0)
    phonemes = functional.cross_entropy(of_phonemes, wanted[:, 0])
    pitch = functional.cross_entropy(of_pitch, wanted[:, 1])
    heard = functional.mse_loss(acoustic[:, : codes.SOUND_DIMS], sound) / sound.var()
    return {
        "loss": phonemes + pitch + 4 * heard,
        "phonemes": phonemes,
        "pitch": pitch,
        "sound": heard,
        "phonemes right": (of_phonemes.argmax(1) == wanted[:, 0]).float().mean(),
        "pitch right": (of_pitch.argmax(1) == wanted[:, 1]).float().mean(),
    }


def main() -> None:
    """Train, or continue training."""
    options = read_options(__doc__, seed=6)
    codebooks = Codebooks.load(codes.path_of(options.state))
    recordings = Recordings(options.state, codebooks, random.Random(options.seed))
    plan = Plan(options.minutes, RATE, mixed=True, cooling=options.cool)
    run = Run(options.state / "encoder", Labeller(codebooks), plan)

    def of(model: nn.Module, step: int) -> Mapping[str, Tensor]:
        rng = np.random.default_rng((options.seed, step))
        coded, samples = (each.to(device()) for each in recordings.batch(rng, ROWS, FRAMES))
        gains = torch.from_numpy(rng.uniform(_SOFTEST, _LOUDEST, (ROWS, 1)).astype(np.float32)).to(device())
        return losses(model, rooms.recorded(samples * gains, rng), coded, LEFT_OUT_FRAMES)

    def judge(model: nn.Module, _step: int) -> dict[str, float]:
        found = [
            losses(
                model,
                recordings.samples(number)[None].to(device()),
                torch.from_numpy(recordings.codes[number].T)[None].to(device()),
                0,
            )
            for number in range(len(recordings) - HELD, len(recordings))
        ]
        return {name: float(torch.stack([each[name] for each in found]).mean()) for name in found[0]}

    run.train(of, judge)


if __name__ == "__main__":
    main()
