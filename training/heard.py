"""Encodes all utterances with audio, so that the talker can be trained on reference clips as the codec hears them.

python -m training.heard STATE: reads STATE/data, STATE/codebooks.npz and STATE/encoder/last.pt, writes
STATE/data/NAME.heard.npy. The audio passes through random rooms and microphones first. Existing files are kept.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from training import codes, rooms, shards
from training.codes import Codebooks
from training.encoder import Labeller
from training.loop import device
from training.shards import FRAME_SAMPLES


def main() -> None:
    """Encode, and print the share of phonemes and pitches that are as the teacher's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("state", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    codebooks = Codebooks.load(codes.path_of(options.state))
    labeller = Labeller(codebooks)
    labeller.load_state_dict(torch.load(options.state / "encoder" / "last.pt", weights_only=True)["mean"])
    labeller.set_codebooks()
    labeller.to(device()).eval()
    for number, path in enumerate(shards.names(options.state / "data")):
        if not path.with_suffix(".pcm").exists() or codes.heard_path(path).exists():
            continue
        rng = np.random.default_rng(number)
        audio = shards.audio(path)
        found: list[NDArray[np.int64]] = []
        true: list[NDArray[np.int64]] = []
        for spoken, coded in codes.read_coded(codebooks, path):
            start = spoken.first_frame * FRAME_SAMPLES
            found.append(heard(labeller, audio[start : start + spoken.frames * FRAME_SAMPLES], rng))
            true.append(coded)
        made = np.concatenate(found)
        right = (made == np.concatenate(true))[:, :2].mean(0)
        np.save(codes.heard_path(path), made.astype(np.int16))
        print(f"{path.name}: phonemes right {right[0]:.3f}, pitch right {right[1]:.3f}", flush=True)


@torch.no_grad()
def heard(labeller: Labeller, samples: NDArray[np.int16], rng: np.random.Generator) -> NDArray[np.int64]:
    """[T * 1920] -> codes [T, GROUPS], as the codec's encoder finds them in a recording of it."""
    floats = torch.from_numpy(samples.astype(np.float32) / 32768)[None].to(device())
    encoded = labeller.encoder.encode(rooms.recorded(floats, rng)[:, None], return_dict=True)
    return encoded.audio_codes[0].T.cpu().numpy()


if __name__ == "__main__":
    main()
