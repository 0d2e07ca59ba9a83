"""Initial values of the codec's weights, with which each layer keeps the variance of its input.

With the libraries' own initial values, deep stacks of convolutions are nearly constant functions, and a codec never
starts to use its codes.
"""

import torch
from torch import Tensor, nn

_RESIDUAL = 0.3  # residual branches start small
_SPEECH_GAIN = 5.0  # speech has an RMS of about 0.1 to 0.2


def keep_variance(module: nn.Module, gain: float = 1.0) -> None:
    """Draw new weights for convolutions and linear layers; mutates ``module``."""
    for layer in module.modules():
        if isinstance(layer, nn.ConvTranspose1d):
            _draw(layer, layer.in_channels * layer.kernel_size[0] / layer.stride[0], gain)
        elif isinstance(layer, nn.Conv1d | nn.Linear):
            _draw(layer, layer.weight[0].numel(), gain)
        if isinstance(getattr(layer, "gamma", None), nn.Parameter):
            nn.init.constant_(layer.gamma, 0.1)


@torch.no_grad()
def encoder(module: nn.Module) -> None:
    """Initialise a Qwen3TTSTokenizerV2Encoder except its codebooks; mutates it."""
    keep_variance(module, 1.3)
    keep_variance(module.encoder_transformer)
    for name, layer in module.named_modules():
        if name.startswith("encoder.layers") and name.endswith("block.3.conv"):
            layer.weight.mul_(_RESIDUAL)
    module.encoder.layers[0].conv.weight.mul_(_SPEECH_GAIN)
    # At first, every code is about equally near.
    module.quantizer.semantic_residual_vector_quantizer.input_proj.weight.mul_(_RESIDUAL)
    module.quantizer.acoustic_residual_vector_quantizer.input_proj.weight.mul_(_RESIDUAL)


@torch.no_grad()
def set_codebook(layer: nn.Module, vectors: Tensor) -> None:
    """Set the vectors of a quantizer's layer, in the decoder or the encoder; missing rows are far from everything."""
    if hasattr(layer, "_codebook"):
        sums, usage = layer._codebook.embedding_sum, layer._codebook.cluster_usage
    else:
        sums, usage = layer.codebook.embed_sum, layer.codebook.cluster_usage
        layer.codebook._embed = None
    usage.fill_(1.0)
    sums.fill_(0.0 if hasattr(layer, "_codebook") else 1e3)
    sums[: len(vectors)] = vectors.to(sums.dtype)


def _draw(layer: nn.Module, inputs: float, gain: float) -> None:
    nn.init.normal_(layer.weight, 0, gain / inputs**0.5)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
