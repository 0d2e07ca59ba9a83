"""The code predictor: known weights of its output layers, and its losses.

A classifier of 512 codes needs many examples until it notices that near codes sound alike, and the likeliest code is
further from the truth than the mean of all that are possible. So the sound codes are trained by regression. The first
numbers of the predictor's output are the components of a sound. The weights of an output layer are set, not trained:
its logits are the squared distances of its codebook's vectors to these numbers, so the nearest code is the likeliest.
The embeddings that are read are set as well: the same components, and a mark of the codebook. The predictor begins by
seeing the mark alone, since a code that it has drawn itself tells it nothing new.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.codes import PARTS, SOUND_DIMS

FRAMES = 1600
"""Frames per batch; the talker's batch has more."""

_CONSTANT = SOUND_DIMS  # index of an output that serves as the bias of the logits
_CONSTANT_SIZE = 2.0
_SOFTNESS = 0.06  # squared distance per nat, over the variance of a component
_READ_SIZE = 0.3  # deviation of embeddings


@torch.no_grad()
def set_weights(talker: nn.Module, sounds: Tensor) -> None:
    """Set output layers and embeddings of the sound codes, which will not be trained.

    Args:
        talker: of upstream's class; its code predictor is changed.
        sounds: [GROUPS - 2, CODES, SOUND_DIMS], as in :class:`training.codes.Codebooks`.
    """
    predictor = talker.code_predictor
    tables, heads = predictor.model.codec_embedding[1:], predictor.lm_head[1:]
    width = tables[0].weight.shape[1]
    size = deviations(sounds)
    directions, marks = torch.linalg.qr(torch.randn(width, SOUND_DIMS + len(PARTS)))[0].T.split(SOUND_DIMS)
    # The root keeps loud components from covering the others.
    read = directions * (_READ_SIZE * (width / size.sum()) ** 0.5 / size.sqrt())[:, None]
    weights = predictor.small_to_mtp_projection.weight
    weights -= weights @ directions.T @ directions
    for part, book, mark, table, head in zip(PARTS, sounds, marks, tables, heads, strict=True):
        table.weight[: len(book)] = book @ read + mark * (_READ_SIZE * width**0.5)
        table.weight.requires_grad_(requires_grad=False)
        softness = _SOFTNESS * size[part].square().mean()
        head.weight.zero_()
        head.weight[: len(book), part] = 2 * book[:, part] * size[part] / softness
        head.weight[: len(book), _CONSTANT] = -book.square().sum(1) / softness / _CONSTANT_SIZE
        head.weight.requires_grad_(requires_grad=False)


def deviations(sounds: Tensor) -> Tensor:
    """[SOUND_DIMS]: the factors from outputs to components, for codebooks [GROUPS - 2, CODES, SOUND_DIMS]."""
    return sounds.square().mean(1).sum(0).sqrt()


def losses(talker: nn.Module, hidden: Tensor, coded: Tensor, sounds: Tensor) -> dict[str, Tensor]:
    """Losses of at most ``FRAMES`` random frames: all codebooks but the first.

    Args:
        talker: of upstream's class, whose weights :func:`set_weights` set.
        hidden: [N, H], the talker's output for each frame.
        coded: [N, GROUPS], its codes.
        sounds: as for :func:`set_weights`.

    Returns:
        ``pitch``: cross-entropy. ``sound``: squared error of the components, relative to that of their mean; components
        count by the inverse of their deviation. ``constant``: error of the output that serves as a bias.
    """
    if len(coded) > FRAMES:
        some = torch.randperm(len(coded), device=coded.device)[:FRAMES]
        hidden, coded = hidden[some], coded[some]
    predictor = talker.code_predictor
    tables = [talker.model.codec_embedding, *predictor.model.codec_embedding[:-1]]
    # Unlike the predictor's own codes, the teacher's would tell it more than it knows.
    read = torch.cat([coded[:, :2], coded[torch.randperm(len(coded), device=coded.device), 2:]], 1)
    columns = [hidden, *(table(read[:, number]) for number, table in enumerate(tables))]
    inputs = predictor.small_to_mtp_projection(torch.stack(columns, 1))
    made = predictor.model(inputs_embeds=inputs, use_cache=False).last_hidden_state[:, 1:].float()
    pitch = functional.cross_entropy(predictor.lm_head[0](made[:, 0]).float(), coded[:, 1])

    size = deviations(sounds)
    wanted = sum(book[coded[:, 2 + number]] for number, book in enumerate(sounds)) / size
    found = torch.cat([made[:, 1 + number, part] for number, part in enumerate(PARTS)], 1)
    sound = ((found - wanted).square() @ size).mean() / size.sum()
    constant = (made[:, 1:, _CONSTANT] - _CONSTANT_SIZE).square().mean()
    return {"pitch": pitch, "sound": sound, "constant": constant}
