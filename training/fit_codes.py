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
    residual = books.coordinates(bands)
    lost = bands - books.mean - residual @ books.components
    print(f"deviation of bands {(bands - books.mean).std():.3f}; outside the components {lost.std():.3f}")
    for number, book in enumerate(books.sounds):
        residual = residual - book[found[:, 2 + number]]
        left = np.sqrt((residual**2).sum() / bands.size)
        print(f"  after codebook {2 + number}: {left:.3f} of the components, {np.hypot(left, lost.std()):.3f} in all")


if __name__ == "__main__":
    main()
