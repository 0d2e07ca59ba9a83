"""Predicts the sounds of all utterances with audio, so that the decoder can be trained on what it will hear.

python -m training.predict STATE: reads STATE/data, STATE/codebooks.npz, STATE/text and STATE/talker/last.pt, writes
STATE/data/NAME.predicted.npy. The phonemes and pitch of each frame are the teacher's.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from training import codes, phones, predictor, prompt_layout, reading, shards, talker
from training.alignment import UNKNOWN
from training.codes import Codebooks
from training.loop import device
from training.prompt_layout import Marks
from training.reading import Reading
from training.speaking import rest_of_frame

_ROUNDS = 2  # in the first, the talker has read the teacher's sounds; afterwards, its own


def main() -> None:
    """Predict, and print the mean error of the components over their deviation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("state", type=Path)
    options = parser.parse_args()
    codebooks = Codebooks.load(codes.path_of(options.state))
    tokenizer, marks = talker.prepare_text(options.state)
    model = talker.build(0)
    model.load_state_dict(torch.load(options.state / "talker" / "last.pt", weights_only=True)["mean"])
    model.to(device()).eval()
    for path in shards.names(options.state / "data"):
        if not path.with_suffix(".pcm").exists():
            continue
        readings: list[Reading] = []
        places: list[slice] = []
        whole: list[NDArray[np.int64]] = []
        start = 0
        for spoken, coded in codes.read_coded(codebooks, path):
            kept = reading.silent_ends(phones.triples(spoken.phonemes, phones.spoken_at(spoken.durations, len(coded))))
            tokens = np.array(tokenizer.encode(spoken.text, add_special_tokens=False).ids)
            unknown = np.full(len(coded[kept]), UNKNOWN)
            readings.append(Reading(tokens, coded[kept], unknown, spoken.voice, spoken.text))
            places.append(slice(start + kept.start, start + kept.start + len(readings[-1].codes)))
            whole.append(coded)
            start += len(coded)
        true = np.concatenate(whole)
        made = true.copy()
        for place, found in zip(places, predicted(model, readings, marks), strict=True):
            made[place] = found
        np.save(codes.predicted_path(path), made.astype(np.int16))
        print(f"{path.name}: error {_error(codebooks, true, made):.3f}", flush=True)


@torch.no_grad()
def predicted(model: nn.Module, readings: Sequence[Reading], marks: Marks) -> list[NDArray[np.int64]]:
    """Codes [T, GROUPS] of each reading, with its own phonemes and pitch."""
    found: dict[int, NDArray[np.int64]] = {}
    order = sorted(range(len(readings)), key=lambda each: len(readings[each].codes))
    for first in range(0, len(order), 16):
        rows = order[first : first + 16]
        batch = talker.Batch([readings[row] for row in rows], marks)
        coded = batch.codes
        head = prompt_layout.head(model, marks, batch.speakers, tagged=True)
        for _ in range(_ROUNDS):
            body = prompt_layout.body(model, marks, batch.text, coded)
            hidden = model.model(inputs_embeds=torch.cat([head, body], 1), use_cache=False).last_hidden_state
            hidden = hidden[:, head.shape[1] : -1]
            given = batch.codes[:, :, :2].flatten(0, 1)
            coded = rest_of_frame(model, hidden.flatten(0, 1), given, 0, None).unflatten(0, hidden.shape[:2])
        for place, row in enumerate(rows):
            found[row] = coded[place, : len(readings[row].codes)].cpu().numpy()
    return [found[row] for row in range(len(readings))]


def _error(codebooks: Codebooks, true: NDArray[np.int64], made: NDArray[np.int64]) -> float:
    size = predictor.deviations(torch.from_numpy(codebooks.sounds)).numpy()
    difference = codebooks.sound(true) - codebooks.sound(made)
    return float(np.sqrt((difference**2).mean(0).sum() / (size**2).sum()))


if __name__ == "__main__":
    main()
