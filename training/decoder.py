"""Trains the codec's decoder: from codes to the waveform that they stand for, by plain regression.

python -m training.decoder STATE --minutes M: reads STATE/data and STATE/codebooks.npz, keeps itself in STATE/decoder.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from qwen_tts.core.tokenizer_12hz import modeling_qwen3_tts_tokenizer_v2 as upstream
from qwen_tts.core.tokenizer_12hz.configuration_qwen3_tts_tokenizer_v2 import Qwen3TTSTokenizerV2Config
from torch import Tensor, nn

from training import codes, initial, losses, phase, shapes
from training.codes import Codebooks
from training.loop import Plan, Run, device
from training.recordings import HELD, Recordings, write_wave
from training.shards import FRAME_SAMPLES
from training.snake import snake

ROWS, FRAMES = 4, 20
LEFT_OUT_FRAMES = 1  # of each row: they have no past
RATE = 1e-3


def build(codebooks: Codebooks, seed: int) -> nn.Module:
    """Make a decoder of upstream's class, its codebooks those of the analysis."""
    torch.manual_seed(seed)
    upstream.SnakeBeta.forward = snake
    config = Qwen3TTSTokenizerV2Config(**shapes.codec())
    decoder = upstream.Qwen3TTSTokenizerV2Decoder._from_config(config.decoder_config)
    initial.decoder(decoder)
    scale = 1 / codebooks.sounds[0].std()
    zeros = torch.zeros(shapes.CODES, codes.PITCH_DIMS)
    rest = decoder.quantizer.rvq_rest.vq.layers
    initial.set_codebook(rest[0], pitch_vectors())
    for layer, book in zip(rest[1:], codebooks.sounds, strict=True):
        initial.set_codebook(layer, torch.cat([torch.from_numpy(book * scale), zeros], 1))
    initial.set_codebook(decoder.quantizer.rvq_first.vq.layers[0], torch.randn(shapes.PAIRS, shapes.CODE_DIM) * 0.5)
    for name, parameter in decoder.named_parameters():
        parameter.requires_grad_(not name.endswith("cluster_usage"))
    return decoder


def pitch_vectors() -> Tensor:
    """[PITCH_CODES, CODE_DIM]: waves over the number of periods, the bend, and whether there is a voice at all."""
    numbers = np.arange(phase.PITCH_CODES)
    periods, bends = phase.periods_and_bends(numbers)
    angles = periods[:, None] * (2 * np.pi / 64 * 2.0 ** np.arange(6))  # the last tells odd from even
    columns = [np.sin(angles), np.cos(angles), 2 * bends[:, None], 4 * bends[:, None] ** 2, (periods / 16)[:, None]]
    vectors = np.concatenate(columns, 1)
    vectors[numbers == phase.UNVOICED] = 0
    padded = np.zeros((len(numbers), shapes.CODE_DIM))
    padded[:, codes.SOUND_DIMS : codes.SOUND_DIMS + vectors.shape[1]] = vectors
    padded[:, -1] = numbers == phase.UNVOICED
    return torch.from_numpy(padded.astype(np.float32))


def main() -> None:
    """Train, or go on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("state", type=Path)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    codebooks = Codebooks.load(codes.path_of(options.state))
    recordings = Recordings(options.state, codebooks)
    print(f"{len(recordings)} utterances, {sum(map(len, recordings.codes)) * 0.08 / 3600:.2f} h", flush=True)
    run = Run(options.state / "decoder", build(codebooks, options.seed), Plan(options.minutes, RATE, clip=3.0))

    def of(model: nn.Module, step: int) -> Mapping[str, Tensor]:
        rng = np.random.default_rng((options.seed, step))
        coded, wanted = (each.to(device()) for each in recordings.batch(rng, ROWS, FRAMES))
        made = model(coded)[:, 0, LEFT_OUT_FRAMES * FRAME_SAMPLES :].float()
        window = losses.RESOLUTIONS[step % len(losses.RESOLUTIONS)]
        loss = losses.wave_loss(made, wanted[:, LEFT_OUT_FRAMES * FRAME_SAMPLES :], window)
        return {"loss": loss.total(), "wave": loss.wave, "edge": loss.edge, "spectrum": loss.spectrum}

    run.train(of, lambda model, step: judge(model, recordings, run.directory / f"heard-{step:06}"))


def judge(model: nn.Module, recordings: Recordings, directory: Path) -> dict[str, float]:
    """Decode what is held out, and write the first half of it to be listened to."""
    directory.mkdir(exist_ok=True)
    held = range(len(recordings) - HELD, len(recordings))
    found: list[losses.WaveLoss] = []
    for number in held:
        made = model(torch.from_numpy(recordings.codes[number].T)[None].to(device()))[:, 0]
        found.append(losses.wave_loss(made, recordings.samples(number)[None].to(device()), 1024))
        if number < held[HELD // 2]:
            write_wave(directory / f"{number:05}.wav", made[0].cpu().numpy())
    texts = {f"{number:05}": recordings.texts[number] for number in held[: HELD // 2]}
    (directory / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
    names = ("wave", "edge", "spectrum")
    return {name: float(torch.stack([getattr(each, name) for each in found]).mean()) for name in names}


if __name__ == "__main__":
    main()
