"""Trains the codec's decoder, which computes a waveform from codes, by plain regression.

python -m training.decoder STATE --minutes M: reads STATE/data and STATE/codebooks.npz, saves its state in
STATE/decoder.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from qwen_tts.core.tokenizer_12hz import modeling_qwen3_tts_tokenizer_v2 as upstream
from qwen_tts.core.tokenizer_12hz.configuration_qwen3_tts_tokenizer_v2 import Qwen3TTSTokenizerV2Config
from torch import Tensor, nn

from training import codes, initial, losses, phase, shapes, synthesis
from training.codes import Codebooks
from training.loop import Plan, Run, device, read_options
from training.recordings import HELD, Recordings, write_wave
from training.shards import FRAME_SAMPLES

ROWS, FRAMES = 16, 24
LEFT_OUT_FRAMES = 2  # first frames of each row, which have no history
RATE = 1.5e-3
_TONES = 3.0
_LEVEL, _LEVEL_STEPS = 2.0, 2000  # final weight and step; until phases are learnt, loudness only gives noise


def build(codebooks: Codebooks, seed: int) -> nn.Module:
    """Make a decoder of upstream's class with the codebooks of the analysis."""
    torch.manual_seed(seed)
    config = Qwen3TTSTokenizerV2Config(**shapes.codec())
    decoder = upstream.Qwen3TTSTokenizerV2Decoder._from_config(config.decoder_config)
    decoder.pre_transformer.config._attn_implementation = "eager"  # torch's fused attention is slow backwards on a CPU
    initial.keep_variance(decoder)
    synthesis.set_weights(decoder)
    zeros = torch.zeros(shapes.CODES, shapes.DECODED_DIM - codes.SOUND_DIMS)
    rest = decoder.quantizer.rvq_rest.vq.layers
    initial.set_codebook(rest[0], pitch_vectors())
    for layer, book in zip(rest[1:], codebooks.sounds, strict=True):
        initial.set_codebook(layer, torch.cat([torch.from_numpy(book * codebooks.scale), zeros], 1))
    initial.set_codebook(
        decoder.quantizer.rvq_first.vq.layers[0], torch.randn(shapes.TRIPLES, shapes.DECODED_DIM) * 0.5
    )
    for name, parameter in decoder.named_parameters():
        known = name.endswith("cluster_usage") or (name.startswith("decoder.") and not name.startswith("decoder.0."))
        parameter.requires_grad_(not known)
    return decoder


def channels(decoder: nn.Module, coded: Tensor) -> Tensor:
    """Codes [B, GROUPS, T] -> [B, 4 * T, synthesis.CHANNELS]: the decoder without the layers with known weights."""
    hidden = decoder.pre_conv(decoder.quantizer.decode(coded)).transpose(1, 2)
    hidden = decoder.pre_transformer(inputs_embeds=hidden).last_hidden_state.transpose(1, 2)
    for layer in [layer for stage in decoder.upsample for layer in stage]:
        hidden = layer(hidden)
    return decoder.decoder[0](hidden).transpose(1, 2)


def pitch_vectors() -> Tensor:
    """[PITCH_CODES, DECODED_DIM]: main components of a frame's sound at each pitch, with a flat spectrum.

    With them, the decoder only has to weight its input by a spectrum; otherwise it would have to learn the sound of
    several hundred pitches. The last two numbers are the number of periods, and whether the frame is voiced.
    """
    numbers = np.arange(1, phase.PITCH_CODES)
    periods, bends = phase.periods_and_bends(numbers)
    u = (np.arange(FRAME_SAMPLES) + 1) / FRAME_SAMPLES
    inside = periods[:, None] * u + bends[:, None] * 4 * u * (1 - u)
    around = np.concatenate([(periods[:, None] * u)[:, -synthesis.HOP :], inside], 1)
    sounds = np.stack([_tones(row, count) for row, count in zip(around, periods, strict=True)])
    likely = np.sqrt(np.exp(-(((periods - 13) / 5) ** 2)) * np.exp(-np.abs(bends) / 0.3) + 1e-3)[:, None]
    kept = shapes.DECODED_DIM - codes.SOUND_DIMS - 2
    _, _, directions = np.linalg.svd(sounds * likely, full_matrices=False)
    vectors = sounds @ directions[:kept].T
    made = np.zeros((phase.PITCH_CODES, shapes.DECODED_DIM), np.float32)
    made[1:, codes.SOUND_DIMS : -2] = vectors / vectors.std()
    made[1:, -2] = periods / 16
    made[phase.UNVOICED, -1] = 1
    return torch.from_numpy(made)


_KNOWN_TONES = 140  # up to 3.5 kHz, the range that distinguishes words


def _tones(turns: np.ndarray, periods: int) -> np.ndarray:
    """Channels of tones [4 * TONES] of a frame and the 20 ms before it; phases are in turns."""
    highest = int(synthesis.TONES * 25 / 12.5 / periods)
    samples = sum(np.cos(2 * np.pi * number * turns) for number in range(1, highest + 1))
    channels = synthesis.analyse(torch.from_numpy(samples.astype(np.float32))[None])[0, :, : synthesis.TONES]
    place = np.arange(synthesis.TONES)
    loudness = np.where(place < _KNOWN_TONES, (1 + (place / 24) ** 2) ** -0.25, 0)
    return (channels.numpy() * loudness).reshape(-1)


def main() -> None:
    """Train, or continue training."""
    options = read_options(__doc__, seed=5)
    codebooks = Codebooks.load(codes.path_of(options.state))
    recordings = Recordings(options.state, codebooks, delay_samples=synthesis.DELAY_SAMPLES, predicted=True)
    print(f"{len(recordings)} utterances, {sum(map(len, recordings.codes)) * 0.08 / 3600:.2f} h", flush=True)
    plan = Plan(options.minutes, RATE, full_rate_steps=6000, clip=3.0, mixed=True, cooling=options.cool)
    run = Run(options.state / "decoder", build(codebooks, options.seed), plan)

    def of(model: nn.Module, step: int) -> Mapping[str, Tensor]:
        rng = np.random.default_rng((options.seed, step))
        coded, wanted = (each.to(device()) for each in recordings.batch(rng, ROWS, FRAMES))
        found = compare(channels(model, coded).float(), wanted)
        level = _LEVEL * min(1.0, step / _LEVEL_STEPS)
        return {"loss": _TONES * found["tones"] + found["noise"] + level * found["level"]} | found

    run.train(of, lambda model, step: judge(model, recordings, run.directory / f"heard-{step:06}"))


def compare(made: Tensor, wanted: Tensor) -> dict[str, Tensor]:
    """Compare channels [B, 4 * T, CHANNELS] with samples [B, T * 1920], without the first frames.

    Returns:
        ``tones`` and ``noise``: error of a window relative to its loudness; ``level``: error of log loudness.
    """
    start = LEFT_OUT_FRAMES * synthesis.QUARTERS
    aim = synthesis.analyse(wanted)[:, start:]
    weights = aim.abs().mean((0, 1)).clamp_min(0.02) ** -0.5
    difference, size = (made[:, start:-1] - aim) * weights, aim * weights
    tones, noise = (
        (difference[:, :, part].norm(dim=2).mean() / size[:, :, part].norm(dim=2).mean())
        for part in (slice(0, synthesis.TONES), slice(synthesis.TONES, None))
    )
    level = (_levels(made[:, start:-1]) - _levels(aim)).abs().mean()
    return {"tones": tones, "noise": noise, "level": level}


def _levels(channels: Tensor) -> Tensor:
    """[B, N, CHANNELS] -> [B, N, bands]: log loudness of the tones in each 200 Hz.

    If the decoder does not know the phase, silence is the closest answer to all phases. This loss demands sound.
    """
    bands = channels[:, :, : synthesis.TONES].unflatten(2, (-1, 8))
    return torch.log(bands.square().mean(3) + 1e-3) / 2


def judge(model: nn.Module, recordings: Recordings, directory: Path) -> dict[str, float]:
    """Decode the held-out utterances, and write the first half of them as audio files."""
    directory.mkdir(exist_ok=True)
    held = range(len(recordings) - HELD, len(recordings))
    found: list[losses.WaveLoss] = []
    for number in held:
        coded = torch.from_numpy(recordings.codes[number].T)[None].to(device())
        made = synthesis.synthesize(channels(model, coded))  # equals the decoder's last layers, and is faster
        found.append(losses.wave_loss(made, recordings.samples(number)[None].to(device()), 1024))
        if number < held[HELD // 2]:
            write_wave(directory / f"{number:05}.wav", made[0].cpu().numpy())
    texts = {f"{number:05}": recordings.texts[number] for number in held[: HELD // 2]}
    (directory / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
    names = ("wave", "edge", "spectrum")
    return {name: float(torch.stack([getattr(each, name) for each in found]).mean()) for name in names}


if __name__ == "__main__":
    main()
