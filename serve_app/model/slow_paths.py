"""Says why a checkpoint, a number format or a processor does not get the fastest code: a sentence for each reason.

The factory logs the sentences when it loads a model. Nothing here chooses a path; the modules that do are asked.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from serve_app.model.backends.cpu.cpu_sampling import can_sample
from serve_app.model.backends.cpu.instructions import Flavour
from serve_app.model.backends.cuda.tiling import STEP, columns_of
from serve_app.model.graphs import SMALL_KEEP
from serve_app.model.sampling import SamplingParams
from serve_app.model.upstream import Upstream


@dataclass(frozen=True, slots=True)
class Matrix:
    """A weight [outputs, inputs], and what it is called in the log."""

    name: str
    outputs: int
    inputs: int


def of_cpu(flavour: Flavour, *, wide: bool, rounded: bool) -> list[str]:
    """Return what this CPU lacks.

    Args:
        flavour: from :func:`serve_app.model.backends.cpu.instructions.this_cpus`.
        wide: whether it has AVX-512 registers.
        rounded: whether weights are int8 or int4.
    """
    if flavour == "portable":
        return [
            "compiled code uses plain instructions: this CPU has no AVX2, or numba's environment variables exclude it"
        ]
    missing = [] if wide else ["compiled code uses vectors of 8 numbers, not of 16: this CPU has no AVX-512"]
    if rounded and flavour == "avx2":
        missing.append("int8 products take several instructions each: this CPU has no VNNI")
    return missing


def of_gpu(matrices: Sequence[Matrix], head_dims: Sequence[int]) -> list[str]:
    """Return which shapes do not fit the kernels of the ``cuda`` backend, which compute them anyway.

    Args:
        matrices: the weights of talker and code predictor.
        head_dims: the widths of their heads.
    """
    masked = [each for each in matrices if each.inputs % STEP or each.outputs % columns_of(each.outputs)]
    reasons: list[str] = []
    if masked:
        names = ", ".join(f"{each.name} [{each.outputs}, {each.inputs}]" for each in masked)
        reasons.append(
            f"kernels read these weights with masks, because their inputs are not a multiple of {STEP}, or their"
            f" outputs not a multiple of a program's: {names}"
        )
    odd = sorted({dim for dim in head_dims if dim & (dim - 1)})
    if odd:
        reasons.append(f"attention pads heads of {', '.join(map(str, odd))} to the next power of two")
    return reasons


def of_sampling(
    talker: SamplingParams, predictor: SamplingParams, vocabularies: tuple[int, int], *, on_cpu: bool, graphed: bool
) -> list[str]:
    """Return which of a checkpoint's sampling defaults consider too many codes.

    Args:
        talker: defaults of codebook 0.
        predictor: defaults of codebooks 1 to 15.
        vocabularies: number of codes of the talker and of the code predictor.
        on_cpu: whether the ``cpu`` backend computes.
        graphed: whether steps are CUDA graphs.
    """
    reasons: list[str] = []
    of_talker, of_predictor = talker.kept(vocabularies[0]), predictor.kept(vocabularies[1])
    if on_cpu and not can_sample(of_talker):
        reasons.append(f"torch draws codebook 0: sampling keeps {of_talker} codes, too many for compiled code")
    if on_cpu and not can_sample(of_predictor):
        reasons.append(
            "the code predictor runs one codebook after the other, not as one compiled call: sampling keeps"
            f" {of_predictor} codes, too many for compiled code"
        )
    if graphed and max(of_talker or 1, of_predictor or 1) > SMALL_KEEP:
        reasons.append(
            "captured sampling sorts the whole vocabulary: sampling keeps"
            f" {max(of_talker or 1, of_predictor or 1)} codes, more than {SMALL_KEEP}"
        )
    return reasons


def matrices_of(talker: Upstream) -> tuple[list[Matrix], list[int]]:
    """Return the weights of talker and code predictor, and the widths of their heads.

    Args:
        talker: configuration of the talker, Qwen3TTSTalkerConfig.
    """
    predictor: Upstream = talker.code_predictor_config
    matrices, dims = list[Matrix](), list[int]()
    for name, each in (("talker", talker), ("code predictor", predictor)):
        dim: int = getattr(each, "head_dim", None) or each.hidden_size // each.num_attention_heads
        heads = dim * each.num_attention_heads
        fused = heads + 2 * dim * each.num_key_value_heads
        matrices += [
            Matrix(f"{name}'s queries, keys and values", fused, each.hidden_size),
            Matrix(f"{name}'s attention output", each.hidden_size, heads),
            Matrix(f"{name}'s gate and up", 2 * each.intermediate_size, each.hidden_size),
            Matrix(f"{name}'s down", each.hidden_size, each.intermediate_size),
            Matrix(f"{name}'s head", each.vocab_size, each.hidden_size),
        ]
        dims.append(dim)
    if talker.hidden_size != predictor.hidden_size:
        matrices.append(Matrix("code predictor's projection", predictor.hidden_size, talker.hidden_size))
    return matrices, dims
