"""The code predictor: initial weights that know the codebooks of sound, and its losses.

A classifier of 512 codes needs many examples until it notices that near codes sound alike. Here it is given: the first
numbers of the predictor's output are the components of a sound, and an output layer's logits are initially the squared
distances of its codebook's vectors to them. So the predictor can be trained by regression, which is far quicker, beside
the cross-entropy that teaches it how sure it is. The embeddings that it reads hold the same components.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.codes import PARTS, SOUND_DIMS
from training.soft_codes import draw, near_codes

FRAMES = 800
"""Frames per batch; the talker's batch has more."""

_CONSTANT = SOUND_DIMS  # index of an output that serves as the bias of the logits
_CONSTANT_SIZE = 2.0
_UNSURE = 0.15  # expected variance of errors, over the variance of a component
_READ_SIZE = 0.3  # deviation of embeddings


@torch.no_grad()
def set_weights(talker: nn.Module, sounds: Tensor) -> None:
    """Set output layers and embeddings of the sound codes.

    Args:
        talker: of upstream's class; its code predictor is changed.
        sounds: [GROUPS - 2, CODES, SOUND_DIMS], as in :class:`training.codes.Codebooks`.
    """
    predictor = talker.code_predictor
    tables, heads = predictor.model.codec_embedding[1:], predictor.lm_head[1:]
    width = tables[0].weight.shape[1]
    size = deviations(sounds)
    directions = torch.linalg.qr(torch.randn(width, SOUND_DIMS))[0].T
    # The root keeps loud components from covering the others.
    read = directions * (_READ_SIZE * (width / size.sum()) ** 0.5 / size.sqrt())[:, None]
    for part, book, table, head in zip(PARTS, sounds, tables, heads, strict=True):
        table.weight[: len(book)] = book @ read
        softness = 2 * _UNSURE * size[part].square().mean()
        head.weight.zero_()
        head.weight[: len(book), part] = 2 * book[:, part] * size[part] / softness
        head.weight[: len(book), _CONSTANT] = -book.square().sum(1) / softness / _CONSTANT_SIZE


def deviations(sounds: Tensor) -> Tensor:
    """[SOUND_DIMS]: the factors from outputs to components, for codebooks [GROUPS - 2, CODES, SOUND_DIMS]."""
    return sounds.square().mean(1).sum(0).sqrt()


class Targets:
    """What the sound codes of the given codebooks [GROUPS - 2, CODES, SOUND_DIMS] stand for."""

    def __init__(self, sounds: Tensor) -> None:
        self.sounds = sounds
        self.size = deviations(sounds)
        self.near = near_codes(sounds)


def losses(talker: nn.Module, hidden: Tensor, coded: Tensor, targets: Targets | None) -> dict[str, Tensor]:
    """Losses of all codebooks but the first, each given the earlier ones of its frame.

    Args:
        talker: of upstream's class.
        hidden: [N, H], the talker's output for each frame.
        coded: [N, GROUPS], its codes.
        targets: without them, the targets are the codes themselves. With them, the targets of sound codes are
            distributions, the codes that are read are drawn from them, and at most ``FRAMES`` random frames count.

    Returns:
        ``pitch`` and ``sound``: cross-entropies. With ``targets``, ``far``: mean squared error of the components, over
        their variance, the mean of all codebooks.
    """
    wanted = list(coded[:, 1:].T)
    if targets is not None:
        some = torch.randperm(len(coded), device=coded.device)[:FRAMES]
        hidden, coded = hidden[some], coded[some]
        near = [table[coded[:, 2 + number]] for number, table in enumerate(targets.near)]
        wanted = [coded[:, 1], *near]
        components = sum(book[coded[:, 2 + number]] for number, book in enumerate(targets.sounds)) / targets.size
        coded = torch.stack([coded[:, 0], coded[:, 1], *(draw(each) for each in near)], 1)
    predictor = talker.code_predictor
    tables = [talker.model.codec_embedding, *predictor.model.codec_embedding[:-1]]
    columns = [hidden, *(table(coded[:, number]) for number, table in enumerate(tables))]
    inputs = predictor.small_to_mtp_projection(torch.stack(columns, 1))
    made = predictor.model(inputs_embeds=inputs, use_cache=False).last_hidden_state[:, 1:]
    pitch, *rest = [
        functional.cross_entropy(head(made[:, number]).float(), wanted[number])
        for number, head in enumerate(predictor.lm_head)
    ]
    found = {"pitch": pitch, "sound": torch.stack(rest).mean()}
    if targets is not None:
        weights = targets.size.square()
        squares = [
            ((made[:, 1 + number, part].float() - components[:, part]).square() @ weights[part]) / weights[part].sum()
            for number, part in enumerate(PARTS)
        ]
        found["far"] = torch.stack(squares).mean()
    return found
