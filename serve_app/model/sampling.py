"""Samples codes from logits: upstream's order of filters, with counter-based random numbers.

The uniform number of a sample is a hash of only (seed, frame, codebook). Codes therefore do not depend on the other
streams in the batch or on the replica.
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

_GOLDEN = -0x61C8864680B583EB  # 2^64 / golden ratio, as signed 64 bits
_MIX_1 = -0x40A7B892E31B1A47  # splitmix64's two multipliers, likewise
_MIX_2 = -0x6B2FB644ECCEEE15


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Sampling parameters of one codebook.

    Attributes:
        temperature: divides the logits; 0 takes the largest (greedy).
        top_k: number of most probable codes to keep; 0 keeps all.
        top_p: probability mass to keep, in (0, 1].
        repetition_penalty: penalty on codes already used; 1 for none.
    """

    temperature: float
    top_k: int
    top_p: float
    repetition_penalty: float = 1.0

    def kept(self, vocabulary: int) -> int | None:
        """Codes that it may choose from; None if it is greedy."""
        if self.temperature == 0:
            return None
        return min(self.top_k, vocabulary) if self.top_k else vocabulary


class SamplingTensors:
    """The :class:`SamplingParams` of every slot, as tensors, so that each row of a batch has its own parameters."""

    def __init__(self, slots: int, device: torch.device) -> None:
        """All slots are greedy at first."""
        self.temperature = torch.zeros(slots, device=device)
        self.top_k = torch.zeros(slots, dtype=torch.int64, device=device)
        self.top_p = torch.ones(slots, device=device)
        self.repetition_penalty = torch.ones(slots, device=device)
        self._host = [SamplingParams(0.0, 0, 1.0)] * slots

    def set(self, slot: int, parameters: SamplingParams) -> None:
        """Set a slot's parameters."""
        self._host[slot] = parameters
        for each in fields(SamplingParams):
            getattr(self, each.name)[slot] = getattr(parameters, each.name)

    def most_kept(self, slots: list[int], vocabulary: int) -> int | None:
        """Most codes that any of these slots may choose from; None if all of them are greedy."""
        kept = (self._host[slot].kept(vocabulary) for slot in slots)
        return max((each for each in kept if each is not None), default=None)


def uniforms(seeds: Tensor, frames: Tensor, codebooks: int) -> Tensor:
    """Uniform numbers of whole frames.

    Args:
        seeds: [B] int64.
        frames: [B] int64, index of the frame within its stream.
        codebooks: Q, samples per frame.

    Returns:
        [B, Q] float32 in [0, 1).

    Source: the finaliser is splitmix64's (Steele, Lea, Flood 2014), here keyed by seed and counter.
    """
    counter = frames[:, None] * codebooks + torch.arange(codebooks, device=seeds.device)
    mixed = _splitmix(_splitmix(seeds)[:, None] + counter * _GOLDEN)
    return _shift(mixed, 40).to(torch.float32) * 2.0**-24


def _splitmix(x: Tensor) -> Tensor:
    x = x + _GOLDEN
    x = (x ^ _shift(x, 30)) * _MIX_1
    x = (x ^ _shift(x, 27)) * _MIX_2
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of signed 64 bits."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def penalise(logits: Tensor, seen: Tensor, penalty: Tensor) -> Tensor:
    """Apply the repetition penalty.

    Args:
        logits: [B, V] float32.
        seen: [B, V] bool, codes used before.
        penalty: [B] float32; 1 for none.

    Returns:
        [B, V] float32: logits of seen codes divided by the penalty if positive, multiplied by it if negative.
    """
    rows = penalty[:, None]
    return torch.where(seen, torch.where(logits < 0, logits * rows, logits / rows), logits)


def sample(logits: Tensor, uniform: Tensor, rows: SamplingTensors, indices: slice | Tensor, keep: int | None) -> Tensor:
    """Sample one code per row: temperature, then top-k, then top-p, in upstream's order.

    Args:
        logits: [B, V] float32, with penalties and suppressions already applied.
        uniform: [B] float32 in [0, 1).
        rows: parameters of every slot.
        indices: the B slots.
        keep: from :meth:`SamplingTensors.most_kept`; None if every row is greedy.

    Returns:
        [B] int64.

    Torch's matmul kernels round differently for different batch sizes, by about 1e-6 of a float32 logit. To change as
    few codes as possible (one of 13,664 in a single count), probabilities are summed in float64 and in the order of the
    codes. In descending order, two nearly equal probabilities can swap (one changed code among about 4,000).

    Source: transformers 4.57.3, generation/logits_process.py, TemperatureLogitsWarper, TopKLogitsWarper,
        TopPLogitsWarper.
    """
    if keep is None:
        return logits.argmax(dim=-1)
    temperature = rows.temperature[indices][:, None]
    greedy = temperature == 0
    scaled = logits / torch.where(greedy, torch.ones_like(temperature), temperature)
    values, codes = scaled.topk(keep, dim=-1)  # [B, keep], largest first
    top_k = rows.top_k[indices][:, None]
    rank = torch.arange(keep, device=logits.device)
    values = values.masked_fill((top_k > 0) & (rank >= top_k), float("-inf"))
    mass = values.double().softmax(dim=-1)
    before = mass.cumsum(dim=-1) - mass
    mass = mass.masked_fill((before >= rows.top_p[indices][:, None]) & (rank > 0), 0.0)
    greedy_codes = codes[:, :1]
    codes, order = codes.sort(dim=-1)
    cumulative = mass.gather(1, order).cumsum(dim=-1)
    place = (cumulative <= uniform[:, None] * cumulative[:, -1:]).sum(dim=-1, keepdim=True)
    sampled = codes.gather(1, place.clamp(max=keep - 1))
    return torch.where(greedy, greedy_codes, sampled)[:, 0]
