"""The code predictor: initial weights that know the codebooks of sound, and its losses.

A classifier of 512 codes needs many examples until it notices that near codes sound alike. Here it is given: the first
numbers of the predictor's output are coordinates of a sound, and an output layer's logits are initially the squared
distances of its codebook's vectors to them. So the predictor can be trained by regression, which is far quicker, beside
the cross-entropy that teaches it how sure it is. The embeddings that it reads hold the same coordinates.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.codes import SOUND_DIMS
from training.soft_codes import soften

FRAMES = 800
"""Frames per batch; the talker's batch has more."""

_CONSTANT = SOUND_DIMS  # index of an output that serves as the bias of the logits
_CONSTANT_SIZE = 2.0
_SOFTNESS = 0.6  # initial temperature: squared distance per nat, over the distance between neighbouring vectors
_READ_SIZE = 0.3  # deviation of embeddings


@torch.no_grad()
def set_weights(talker: nn.Module, sounds: Tensor) -> None:
    """Set output layers and embeddings of the sound codes.

    Args:
        talker: of upstream's class; its code predictor is changed.
        sounds: [GROUPS - 2, CODES, SOUND_DIMS], codebooks of successive residuals.
    """
    predictor = talker.code_predictor
    tables, heads = predictor.model.codec_embedding[1:], predictor.lm_head[1:]
    directions = torch.linalg.qr(torch.randn(tables[0].weight.shape[1], SOUND_DIMS))[0].T
    read = _READ_SIZE * tables[0].weight.shape[1] ** 0.5 / sounds[0].norm(dim=1).mean()
    for book, size, table, head in zip(sounds, sizes(sounds), tables, heads, strict=True):
        table.weight[: len(book)] = read * book @ directions
        apart = torch.cdist(book, book).fill_diagonal_(torch.inf).amin(1).square().mean()
        head.weight.zero_()
        head.weight[: len(book), :SOUND_DIMS] = 2 * book * size / (_SOFTNESS * apart)
        head.weight[: len(book), _CONSTANT] = -book.square().sum(1) / (_SOFTNESS * apart) / _CONSTANT_SIZE


def sizes(sounds: Tensor) -> Tensor:
    """[GROUPS - 2]: the factor from outputs to coordinates of what is left for each codebook."""
    return sounds.square().mean((1, 2)).sqrt()


def losses(talker: nn.Module, hidden: Tensor, coded: Tensor, sounds: Tensor | None) -> dict[str, Tensor]:
    """Losses of all codebooks but the first, each given the earlier ones of its frame.

    Args:
        talker: of upstream's class.
        hidden: [N, H], the talker's output for each frame.
        coded: [N, GROUPS], its codes.
        sounds: as for :func:`set_weights`. With them the codes of sound are drawn anew, the targets are distributions,
            and at most ``FRAMES`` random frames count.

    Returns:
        ``pitch`` and ``sound``: cross-entropies. With ``sounds``, ``far`` and ``left``: mean squared error of the
        coordinates, relative to their variance, for the first codebook and for the others.
    """
    targets: list[Tensor] = []
    if sounds is not None:
        some = torch.randperm(len(coded), device=coded.device)[:FRAMES]
        hidden, coded = hidden[some], coded[some]
        with torch.autocast(coded.device.type, enabled=False):
            drawn, targets = soften(coded[:, 2:], sounds)
            rests = _rests(coded[:, 2:], drawn, sounds)
        coded = torch.cat([coded[:, :2], drawn], 1)
    predictor = talker.code_predictor
    tables = [talker.model.codec_embedding, *predictor.model.codec_embedding[:-1]]
    columns = [hidden, *(table(coded[:, number]) for number, table in enumerate(tables))]
    inputs = predictor.small_to_mtp_projection(torch.stack(columns, 1))
    made = predictor.model(inputs_embeds=inputs, use_cache=False).last_hidden_state[:, 1:]
    wanted = [coded[:, 1], *(targets or coded[:, 2:].T)]
    pitch, *rest = [
        functional.cross_entropy(head(made[:, number]).float(), wanted[number])
        for number, head in enumerate(predictor.lm_head)
    ]
    found = {"pitch": pitch, "sound": torch.stack(rest).mean()}
    if sounds is not None:
        outputs = made[:, 1:, :SOUND_DIMS].float() * sizes(sounds)[:, None]
        errors = (outputs - rests).square().sum(2).mean(0) / rests.square().sum(2).mean(0)
        found |= {"far": errors[0], "left": errors[1:].mean()}
    return found


def _rests(coded: Tensor, drawn: Tensor, sounds: Tensor) -> Tensor:
    """[N, GROUPS - 2, SOUND_DIMS]: what is left of a sound before each of the drawn codes."""
    left = sum(book[coded[:, number]] for number, book in enumerate(sounds))
    rests: list[Tensor] = []
    for number, book in enumerate(sounds):
        rests.append(left)
        left = left - book[drawn[:, number]]
    return torch.stack(rests, 1)
