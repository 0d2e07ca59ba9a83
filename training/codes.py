"""Codes of a frame: one for phonemes, one for pitch, the others for its sound. This module is pure.

A sound is 256 logarithms, of which the codes hold the first principal components. Every codebook is a set of vectors of
``CODE_DIM`` numbers and uses a part of them, zero elsewhere: each codebook of sound some of the components, and the
codebook of pitch the last numbers. So a residual quantizer, as in the codec's encoder, finds all codes, and the code
predictor can predict each code without knowing exactly what the others left.
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
PARTS = (slice(0, 2), slice(2, 5), slice(5, 10), slice(10, 18), slice(18, SOUND_DIMS))
"""Components of each codebook of sound."""

UNIT_SAMPLES = FRAME_SAMPLES // phones.UNITS

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Codebooks:
    """How frames become codes.

    Attributes:
        triples: phonemes of codebook 0.
        mean: [256], mean of bands.
        components: [SOUND_DIMS, 256], orthonormal rows.
        sounds: [GROUPS - 2, CODES, SOUND_DIMS], codebooks of parts of the components, zero elsewhere.
    """

    triples: TripleTable
    mean: Floats
    components: Floats
    sounds: Floats

    def coordinates(self, bands: NDArray[np.floating]) -> Floats:
        """Project bands to the components, [T, 256] -> [T, SOUND_DIMS]."""
        return (bands.astype(np.float32) - self.mean) @ self.components.T

    @property
    def scale(self) -> float:
        """Factor that gives components a deviation of about 1; the codec's codebooks contain it."""
        return float(1 / np.sqrt((self.sounds**2).mean(1).sum(0).mean()))

    def encode(self, spoken: Spoken) -> NDArray[np.int64]:
        """Encode every frame of an utterance, [T, GROUPS]."""
        at = phones.spoken_at(spoken.durations, spoken.frames)
        first = [self.triples.code(triple) for triple in phones.triples(spoken.phonemes, at)]
        coordinates = self.coordinates(spoken.bands)
        sound = [nearest(coordinates[:, part], book[:, part]) for part, book in zip(PARTS, self.sounds, strict=True)]
        return np.stack([np.array(first), spoken.pitch_codes, *sound], 1)

    def sound(self, coded: NDArray[np.int64]) -> Floats:
        """Components of coded frames, [T, GROUPS] -> [T, SOUND_DIMS]."""
        return np.sum([book[coded[:, 2 + number]] for number, book in enumerate(self.sounds)], axis=0)

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
    coordinates = (bands - mean) @ components.T
    books = np.zeros((GROUPS - 2, CODES, SOUND_DIMS), np.float32)
    for book, part in zip(books, PARTS, strict=True):
        book[:, part] = k_means(np.ascontiguousarray(coordinates[:, part]), CODES, rng)
    return Codebooks(triples, mean, components, books)


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


def predicted_path(path: Path) -> Path:
    """Path of the codes that training.predict makes for the shard ``path``."""
    return path.with_suffix(".predicted.npy")


def heard_path(path: Path) -> Path:
    """Path of the codes that training.heard finds in the audio of the shard ``path``."""
    return path.with_suffix(".heard.npy")
