"""The values of random weights: a function of seed, tensor name and shape."""

import hashlib
import math
import re
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Rule:
    """How tensors whose name matches ``pattern`` are drawn: ``mean + std * N(0, 1)``.

    Args:
        pattern: searched in the name; its group, if it has one, is the tensor's level.
        std: of each value; or, if ``inputs`` is set, of each output for inputs of unit variance.
        mean: of each value.
        inputs: dimensions that an output sums over. ``row``: all but the first (linear layers, convolutions);
            ``column``: the first (a transposed convolution, with one tap of each kernel).
        decay: factor of ``std`` from one level to the next.
        centred_from: subtract the values' mean over this dimension and the later ones.
    """

    pattern: str
    std: float
    mean: float = 0.0
    inputs: Literal["none", "row", "column"] = "none"
    decay: float = 1.0
    centred_from: int | None = None


# In a trained model, norms, biases and scales are not identities: with this spread, a missing one is noticed.
_SPREAD = 0.1

# These gains keep the variance from layer to layer. With the libraries' default of 0.02, a small model gives the same
# greedy codes for any text, and a codec gives no sound, so any comparison of two of them would pass.
LANGUAGE_MODEL_RULES = (
    Rule(r"text_embedding\.weight$", 1.0),
    # A frame is a sum of sixteen of these: 4 * 0.5 = 2, the size of the text embedding added to it.
    Rule(r"codec_embedding(?:\.\d+)?\.weight$", 0.5),
    Rule(r"text_projection\.linear_fc[12]\.weight$", 2.0, inputs="row"),
    Rule(r"self_attn\.[qk]_norm\.weight$", _SPREAD, mean=1.5),
    Rule(r"norm\.weight$", _SPREAD, mean=1.0),
    Rule(r"(?:codec_head|lm_head\.\d+)\.weight$", 3.0, inputs="row"),
    # The layers then add an RMS of 2.3 (tiny; 7.1 full-random) to the 3.3 of the embeddings in the residual stream.
    Rule(r"(?:o_proj|down_proj)\.weight$", 1.5, inputs="row"),
    # Centred rows ignore the common level of all mel bands and of all rectified channels.
    Rule(r"^speaker_encoder\.blocks\.0\.conv\.weight$", 0.5, inputs="row", centred_from=1),
    Rule(r"^speaker_encoder\.fc\.weight$", 4.0, inputs="row", centred_from=1),
    Rule(r"^speaker_encoder\..*\.weight$", 1.4, inputs="row", centred_from=1),
    Rule(r"\.bias$", _SPREAD),
    Rule(r"\.weight$", 1.0, inputs="row"),
)

CODEC_RULES = (
    Rule(r"\.initialized$", 0.0, mean=1.0),
    Rule(r"\.cluster_usage$", _SPREAD, mean=1.0),
    Rule(r"\.embedding_sum$", 1.0),
    # A residual shrinks by about this factor from one codebook of 2048 vectors to the next.
    Rule(r"\.layers\.(\d+)\.codebook\.embed_sum$", 1.0, decay=0.7),
    Rule(r"layer_scale\.scale$", _SPREAD, mean=0.5),
    Rule(r"\.gamma$", _SPREAD, mean=0.5),
    Rule(r"\.(?:alpha|beta)$", _SPREAD),
    Rule(r"norm\.weight$", _SPREAD, mean=1.0),
    # Sharp attention: otherwise only the mean over the window would have an effect.
    Rule(r"self_attn\.[qk]_proj\.weight$", 1.5, inputs="row"),
    Rule(r"^encoder\.encoder\.layers\.0\.conv\.weight$", 10.0, inputs="row"),
    Rule(r"^encoder\.downsample\.conv\.weight$", 2.0, inputs="row", centred_from=2),
    Rule(r"^decoder\.quantizer\.rvq_\w+\.output_proj\.weight$", 0.25, inputs="row"),
    Rule(r"^decoder\.upsample\.\d+\.0\.conv\.weight$", 1.0, inputs="column"),
    Rule(r"^decoder\.decoder\.\d+\.block\.1\.conv\.weight$", 0.7, inputs="column"),
    Rule(r"^decoder\.decoder\.\d+\.block\.\d+\.conv2\.conv\.weight$", 0.4, inputs="row"),
    # The last convolution: centred taps block constants, and its gain sets the loudness.
    Rule(r"^decoder\.decoder\.6\.conv\.weight$", 0.03, inputs="row", centred_from=2),
    Rule(r"^decoder\.decoder\.6\.conv\.bias$", 0.01),
    Rule(r"\.bias$", _SPREAD),
    Rule(r"\.weight$", 1.0, inputs="row"),
)


def random_tensor(rules: tuple[Rule, ...], name: str, shape: torch.Size, seed: int) -> Tensor:
    """Draw one tensor by the first rule that matches its name.

    Returns:
        float32 of ``shape``; the same bytes for the same arguments, in whatever order tensors are drawn.
    """
    rule, match = next((rule, match) for rule in rules if (match := re.search(rule.pattern, name)))
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    # Unlike torch's, numpy's generators give the same bytes with and without vector instructions.
    values = np.random.default_rng(int.from_bytes(digest[:16])).standard_normal(tuple(shape), dtype=np.float32)
    std = rule.std
    if match.groups():
        std *= rule.decay ** int(match.group(1))
    if rule.inputs == "row":
        std /= math.sqrt(math.prod(shape[1:]))
    elif rule.inputs == "column":
        std /= math.sqrt(shape[0])
    if rule.centred_from is not None:
        values -= values.mean(axis=tuple(range(rule.centred_from, values.ndim)), keepdims=True)
    values *= np.float32(std)
    values += np.float32(rule.mean)
    return torch.from_numpy(values)
