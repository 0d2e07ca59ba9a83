"""The talker's input, in upstream's layout for streaming mode.

Source: qwen-tts 0.1.1, Qwen3TTSForConditionalGeneration.generate with non_streaming_mode=False. In ICL mode, the
reference is the beginning of the same body: the new text continues its text, and its codes are the first frames.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.shapes import TALKER_WIDTH


@dataclass(frozen=True, slots=True)
class Marks:
    """Token ids around a prompt.

    Attributes:
        role: ids of ``<|im_start|>assistant`` and a line break.
        text_pad: follows the end of the text; ``text_bos`` precedes the text and ``text_eos`` follows it.
        codec_pad: the same for codebook 0, as are ``codec_bos`` and ``codec_eos``.
        language: tags for a language, or for no language.
    """

    role: list[int]
    text_pad: int
    text_bos: int
    text_eos: int
    codec_pad: int
    codec_bos: int
    codec_eos: int
    language: tuple[list[int], list[int]]

    @classmethod
    def of(cls, config: dict, role: list[int]) -> "Marks":
        """Read them from a language model's configuration."""
        talker = config["talker_config"]
        english = talker["codec_language_id"]["english"]
        ends = talker["codec_think_bos_id"], talker["codec_think_eos_id"]
        return cls(
            role=role,
            text_pad=config["tts_pad_token_id"],
            text_bos=config["tts_bos_token_id"],
            text_eos=config["tts_eos_token_id"],
            codec_pad=talker["codec_pad_id"],
            codec_bos=talker["codec_bos_id"],
            codec_eos=talker["codec_eos_token_id"],
            language=(
                [talker["codec_nothink_id"], *ends],
                [talker["codec_think_id"], ends[0], english, ends[1]],
            ),
        )


def text_vectors(talker: nn.Module, ids: Tensor) -> Tensor:
    """Embed text tokens, [..., M] -> [..., M, H]."""
    return talker.text_projection(talker.model.text_embedding(ids))


def code_vectors(talker: nn.Module, codes: Tensor) -> Tensor:
    """Sum the embeddings of each frame, [..., T, GROUPS] -> [..., T, H]."""
    total = talker.model.codec_embedding(codes[..., 0])
    for number, table in enumerate(talker.code_predictor.model.codec_embedding):
        total = total + table(codes[..., number + 1])
    return total


def head(talker: nn.Module, marks: Marks, speakers: Tensor, *, tagged: bool) -> Tensor:
    """The prompt before the body: role, tags, speaker; [B, H] -> [B, L, H]."""
    rows = len(speakers)
    device = speakers.device
    tags = marks.language[int(tagged)]
    codec = talker.model.codec_embedding(torch.tensor([*tags, marks.codec_pad], device=device))
    codec = codec[None].expand(rows, -1, -1)
    summed = torch.cat([codec[:, :-1], speakers[:, None], codec[:, -1:]], 1)
    over = torch.tensor([marks.text_pad] * len(tags) + [marks.text_pad, marks.text_bos], device=device)
    role = text_vectors(talker, torch.tensor(marks.role, device=device))
    assert speakers.shape[1] == TALKER_WIDTH
    return torch.cat([role[None].expand(rows, -1, -1), summed + text_vectors(talker, over)[None]], 1)


def body(talker: nn.Module, marks: Marks, text: Tensor, codes: Tensor) -> Tensor:
    """Text over codes, [B, T + 1] and [B, T, GROUPS] -> [B, T + 1, H]: position t predicts frame t."""
    begin = talker.model.codec_embedding(torch.tensor(marks.codec_bos, device=text.device))
    begin = begin.expand(len(text), 1, -1)
    return text_vectors(talker, text) + torch.cat([begin, code_vectors(talker, codes)], 1)
