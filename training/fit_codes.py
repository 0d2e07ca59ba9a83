"""Fits the codebooks.

python -m training.fit_codes STATE [--shards N]: reads STATE/data, writes STATE/codebooks.npz, prints their quality.
"""

import argparse
from pathlib import Path

import numpy as np

from training import codes, phones, shards

_SEED = 3


def main() -> None:
    """Fit on the first shards, and evaluate on the last of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("state", type=Path)
    parser.add_argument("--shards", type=int, default=2)
    options = parser.parse_args()
    spoken = [each for path in shards.names(options.state / "data")[: options.shards] for each in shards.read(path)]
    books = codes.fit(spoken[:-100], _SEED)
    books.save(codes.path_of(options.state))
    known = set(books.triples.listing)
    held = spoken[-100:]
    triples = [
        triple
        for each in held
        for triple in phones.triples(each.phonemes, phones.spoken_at(each.durations, each.frames))
    ]
    share = sum(triple in known for triple in triples) / len(triples)
    print(f"{len(books.triples)} triples of phonemes cover {share:.2%} of frames")
    bands = np.concatenate([each.bands for each in held]).astype(np.float32)
    found = np.concatenate([books.encode(each) for each in held])
    coordinates = books.coordinates(bands)
    lost = bands - books.mean - coordinates @ books.components
    left = coordinates - sum(book[found[:, 2 + number]] for number, book in enumerate(books.sounds))
    print(f"deviation of bands {(bands - books.mean).std():.3f}; outside the components {lost.std():.3f}")
    print(f"after all codebooks: {np.sqrt((left**2).sum() / bands.size + (lost**2).mean()):.3f}")
    for part in codes.PARTS:
        error, whole = (left[:, part] ** 2).sum(), (coordinates[:, part] ** 2).sum()
        print(f"  components {part.start} to {part.stop - 1}: {error / whole:.3f} of their variance")


if __name__ == "__main__":
    main()
