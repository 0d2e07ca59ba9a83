"""Codes of a frame: one for phonemes, one for pitch, the others for its sound, by residual vector quantization.

A sound is 256 logarithms; the codebooks share their first principal components. Every codebook is a set of vectors of
``CODE_DIM`` numbers. The codebook of pitch uses the last of these numbers, the others use the rest, so that a single
residual quantizer, as in the codec's encoder, finds all codes. This module is pure.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training import phase, phones, shards
from training.features import band_features
from training.phones import TripleTable
from training.shapes import CODE_DIM, CODES, GROUPS, TRIPLES
from training.shards import FRAME_SAMPLES, Spoken

PITCH_DIMS = 16
SOUND_DIMS = CODE_DIM - PITCH_DIMS
UNIT_SAMPLES = FRAME_SAMPLES // phones.UNITS

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Codebooks:
    """How frames become codes.

    Attributes:
        triples: phonemes of codebook 0.
        mean: [256], mean of bands.
        components: [SOUND_DIMS, 256], orthonormal rows.
        sounds: [GROUPS - 2, CODES, SOUND_DIMS], codebooks of successive residuals.
    """

    triples: TripleTable
    mean: Floats
    components: Floats
    sounds: Floats

    def coordinates(self, bands: NDArray[np.floating]) -> Floats:
        """Project bands to the components, [T, 256] -> [T, SOUND_DIMS]."""
        return (bands.astype(np.float32) - self.mean) @ self.components.T

    def encode(self, spoken: Spoken) -> NDArray[np.int64]:
        """Encode every frame of an utterance, [T, GROUPS]."""
        at = phones.spoken_at(spoken.durations, spoken.frames)
        first = [self.triples.code(triple) for triple in phones.triples(spoken.phonemes, at)]
        residual = self.coordinates(spoken.bands)
        codes = [np.array(first), spoken.pitch_codes]
        for book in self.sounds:
            found = nearest(residual, book)
            residual = residual - book[found]
            codes.append(found)
        return np.stack(codes, 1)

    def save(self, path: Path) -> None:
        """Write an .npz."""
        listing = np.array(["".join(triple) for triple in self.triples.listing])
        np.savez(path, triples=listing, mean=self.mean, components=self.components, sounds=self.sounds)

    @classmethod
    def load(cls, path: Path) -> "Codebooks":
        """Read a file that :meth:`save` wrote."""
        with np.load(path) as arrays:
            triples = TripleTable([(one[0], one[1], one[2]) for one in arrays["triples"].tolist()])
            return cls(triples, arrays["mean"], arrays["components"], arrays["sounds"])


def nearest(points: Floats, book: Floats) -> NDArray[np.int64]:
    """Index of the nearest vector of ``book`` [K, D] for each of ``points`` [N, D]."""
    return np.argmin((book * book).sum(1) - 2 * (points @ book.T), axis=1)


def k_means(points: Floats, size: int, rng: np.random.Generator, rounds: int = 15) -> Floats:
    """[size, D]: cluster centres of ``points`` [N, D]; a centre that loses all its points moves to a random point."""
    centres = points[rng.choice(len(points), size, replace=False)]
    for _ in range(rounds):
        found = nearest(points, centres)
        counts = np.bincount(found, minlength=size)
        order = np.argsort(found, kind="stable")
        starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
        filled = counts > 0
        sums = np.add.reduceat(points[order], starts[filled], axis=0)
        centres = points[rng.choice(len(points), size, replace=False)]
        centres[filled] = sums / counts[filled, None]
    return centres


def later(spoken: Spoken, samples: NDArray[np.float32], units: int) -> tuple[Spoken, NDArray[np.float32]]:
    """Cut some units off the beginning of an utterance, which shifts its frames.

    The frames of a reference clip start anywhere, so an encoder must be trained on shifted frames too.

    Args:
        spoken: the utterance; its first phoneme, a silence, must be longer than ``units``.
        samples: [T * 1920], its audio.
        units: at least 0.

    Returns:
        The rest of both, in whole frames; each frame's pitch is rounded to the nearest that has a code.
    """
    samples = samples[units * UNIT_SAMPLES :]
    frames = len(samples) // FRAME_SAMPLES
    samples = samples[: frames * FRAME_SAMPLES]
    durations = spoken.durations.copy()
    durations[0] -= units
    hops = phase.pitch_curve(spoken.pitch_codes)[round(units * UNIT_SAMPLES / phase.HOP_SAMPLES) :]
    cut = replace(
        spoken,
        durations=durations,
        pitch_codes=phase.lock(hops).codes[:frames],
        bands=band_features(samples).astype(np.float16),
    )
    return cut, samples


def fit(spoken: Sequence[Spoken], seed: int) -> Codebooks:
    """Find codebooks for utterances."""
    rng = np.random.default_rng(seed)
    triples = TripleTable.of(
        (phones.triples(each.phonemes, phones.spoken_at(each.durations, each.frames)) for each in spoken), TRIPLES
    )
    bands = np.concatenate([each.bands for each in spoken]).astype(np.float32)
    mean = bands.mean(0)
    _, vectors = np.linalg.eigh(np.cov((bands - mean).T))
    components = np.ascontiguousarray(vectors[:, ::-1][:, :SOUND_DIMS].T, np.float32)
    residual = (bands - mean) @ components.T
    books: list[Floats] = []
    for _ in range(GROUPS - 2):
        book = k_means(residual, CODES, rng)
        residual = residual - book[nearest(residual, book)]
        books.append(book)
    return Codebooks(triples, mean, components, np.stack(books))


def path_of(state: Path) -> Path:
    """Path of the codebooks in a training state."""
    return state / "codebooks.npz"


def read_coded(codebooks: Codebooks, path: Path) -> list[tuple[Spoken, NDArray[np.int64]]]:
    """Utterances of a shard with their codes, which are computed on first use and stored next to the shard."""
    kept = path.with_suffix(".codes.npy")
    spoken = shards.read(path)
    if kept.exists():
        codes = np.load(kept).astype(np.int64)
    else:
        codes = np.concatenate([codebooks.encode(each) for each in spoken])
        np.save(kept, codes.astype(np.int16))
    ends = np.cumsum([each.frames for each in spoken])[:-1]
    return list(zip(spoken, np.split(codes, ends), strict=True))
