"""Builds the talker's input: the prompt before the first frame, and the text that is added to the frames.

Both layouts begin with three role tokens and the codec's tags. Every position is the sum of a text embedding and a code
embedding. In the streaming layout (upstream's streaming mode), the reference's codes follow, if the voice has a
transcript. The transcript and then the new text are added to them, one token per code frame. Text that is left is added
to the new frames. In the whole layout (upstream's ``non_streaming_mode``), the text comes first, added to padding
codes, and the reference's codes follow, added to padding text.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from serve_app.config import PromptLayout
from serve_app.errors import UnsupportedLanguageError
from serve_app.model.backends.protocol import Backend
from serve_app.model.checkpoint import Checkpoint
from serve_app.model.code_embedding import CodeEmbedding
from serve_app.model.upstream import Upstream
from serve_app.voices.voice import VoicePrompt

_ROLE_TOKENS = 3
_TAIL_TOKENS = 5
_REFERENCE_TAIL_TOKENS = 2


@dataclass(frozen=True, slots=True)
class PromptTokens:
    r"""A text as token ids, without the chat template around it.

    Attributes:
        role: ids of ``<|im_start|>assistant\n``.
        text: ids of the text to speak.
        characters: for each of ``text``, the index in the given text of its first character that is not a space.
        reference: ids of the reference's transcript; empty if there is none.
    """

    role: list[int]
    text: list[int]
    characters: list[int]
    reference: list[int]


class PromptBuilder:
    """Tokenizes texts and embeds prompts with a checkpoint's tables."""

    def __init__(self, checkpoint: Checkpoint, backend: Backend) -> None:
        """Copy the text tables and the codec's tables of a checkpoint."""
        model = checkpoint.model
        self._config = model.config
        self._talker_config: Upstream = model.config.talker_config
        self._text_table = model.talker.model.text_embedding
        self._project_text = _text_projection(model.talker.text_projection, backend)
        tokenizer = checkpoint.upstream.processor.tokenizer
        self._encode = tokenizer.backend_tokenizer.encode
        special = sorted((str(token) for token in tokenizer.get_added_vocab()), key=len, reverse=True)
        self._special = re.compile("|".join(re.escape(token) for token in special)) if special else None
        self._device = checkpoint.device
        self.codes = CodeEmbedding(model.talker)
        tags = [self._config.tts_bos_token_id, self._config.tts_eos_token_id, self._config.tts_pad_token_id]
        self._text_bos, self._text_eos, self.text_pad = self._embed_text(tags)[:, None]  # each [1, H]

    def tokenize(self, text: str, transcript: str | None) -> PromptTokens:
        """Turn texts into ids. Safe on any thread.

        Names of the tokenizer's special tokens are removed from the texts: they would act as control tokens.

        Args:
            text: the text to speak.
            transcript: transcript of the voice's reference clip; None in x-vector mode.

        Source: qwen-tts 0.1.1, Qwen3TTSModel._build_assistant_text and _build_ref_text, and the slices that
            Qwen3TTSForConditionalGeneration.generate takes of their ids.
        """
        before = "<|im_start|>assistant\n"
        encoding = self._encode(f"{before}{self._plain(text)}<|im_end|>\n{before}", add_special_tokens=False)
        starts = [start - len(before) for start, _ in encoding.offsets[_ROLE_TOKENS:-_TAIL_TOKENS]]
        characters = self._characters(text, starts)
        said = "" if transcript is None else self._plain(transcript)
        reference = self._reference_ids(said)
        ids: list[int] = encoding.ids
        return PromptTokens(ids[:_ROLE_TOKENS], ids[_ROLE_TOKENS:-_TAIL_TOKENS], characters, reference)

    def text_position(self, tokens: PromptTokens, language: str) -> int:
        """Talker position of the first token of the text, in both layouts; the others follow it."""
        return self._head_positions(language) + len(tokens.reference)

    def positions(self, tokens: PromptTokens, voice: VoicePrompt, language: str, layout: PromptLayout) -> int:
        """Talker positions of a prompt; in the streaming layout the same for every text."""
        reference = 1 if voice.codes is None else 1 + len(voice.codes)
        text = 0 if layout == "streaming" else len(tokens.reference) + len(tokens.text) + 1
        return self._head_positions(language) + text + reference

    def constant_positions(self, tokens: PromptTokens, voice: VoicePrompt, language: str, layout: PromptLayout) -> int:
        """Leading positions of a prompt that are the same for every text of a voice and language.

        They never cover the entire prompt, since the logits of its last position give the first frame. In the streaming
        layout, transcript tokens beyond the clip's frames do not count. In the whole layout the text comes before the
        codes, so only the transcript counts.
        """
        if voice.codes is None:
            return self._head_positions(language)
        of_text = len(tokens.reference) if layout == "whole" else min(len(tokens.reference), len(voice.codes))
        return self._head_positions(language) + of_text

    def _head_positions(self, language: str) -> int:
        """Role tokens, tags, the speaker and the padding after it."""
        return _ROLE_TOKENS + (3 if self._language_id(language) is None else 4) + 2

    def embed_reference(self, codes: Tensor) -> Tensor:
        """The reference's part of an ICL prompt, without its text.

        Args:
            codes: [T, 16] int64.

        Returns:
            [1 + T, H]; the codec's begin token is first.
        """
        return torch.cat([self._tag(self._talker_config.codec_bos_id), self.codes.of_frames(codes)])

    def build(
        self, tokens: PromptTokens, language: str, speaker: Tensor, reference: Tensor | None, layout: PromptLayout
    ) -> tuple[Tensor, Tensor]:
        """Embed a prompt.

        Args:
            tokens: from :meth:`tokenize`.
            language: lower case, or ``auto``.
            speaker: [H], the speaker embedding.
            reference: [1 + T, H] from :meth:`embed_reference`; None in x-vector mode.
            layout: the text layout.

        Returns:
            [L, H], the prompt, and [M, H], the text that is added to frames 0 to M - 1; later frames get
            :attr:`text_pad`. M is 0 in the whole layout.

        Source: qwen-tts 0.1.1, Qwen3TTSForConditionalGeneration.generate and generate_icl_prompt with
            ``non_streaming_mode=False`` for the streaming layout and True for the other.
        """
        head = self._head(tokens, language, speaker)
        text = torch.cat([self._embed_text(tokens.reference + tokens.text), self._text_eos])
        codes = self._tag(self._talker_config.codec_bos_id) if reference is None else reference
        if layout == "whole":
            over = text + self._tag(self._talker_config.codec_pad_id)
            return torch.cat([head, over, self.text_pad + codes]), text[:0]
        missing = max(0, len(codes) - len(text))
        over = torch.cat([text[: len(codes)], self.text_pad.expand(missing, -1)])
        return torch.cat([head, over + codes]), text[len(codes) :]

    def _head(self, tokens: PromptTokens, language: str, speaker: Tensor) -> Tensor:
        """The prompt before its text, [N, H]."""
        config = self._talker_config
        language_id = self._language_id(language)
        think = (
            [config.codec_nothink_id, config.codec_think_bos_id, config.codec_think_eos_id]
            if language_id is None
            else [config.codec_think_id, config.codec_think_bos_id, language_id, config.codec_think_eos_id]
        )
        tags = torch.cat([self._tag(*think), speaker[None], self._tag(config.codec_pad_id)])
        over = torch.cat([self.text_pad.expand(len(tags) - 1, -1), self._text_bos])
        return torch.cat([self._embed_text(tokens.role), over + tags])

    def _language_id(self, language: str) -> int | None:
        if language == "auto":
            return None
        ids: dict[str, int] = self._talker_config.codec_language_id
        if language not in ids:
            spoken = ", ".join(sorted(ids))
            raise UnsupportedLanguageError(f"the loaded model does not speak {language!r}; allowed: {spoken}, auto")
        return ids[language]

    def _reference_ids(self, said: str) -> list[int]:
        return self._ids(f"<|im_start|>assistant\n{said}<|im_end|>\n")[_ROLE_TOKENS:-_REFERENCE_TAIL_TOKENS]

    def _plain(self, text: str) -> str:
        return "".join(text[index] for index in self._kept(text))

    def _kept(self, text: str) -> list[int]:
        """The indices of the characters that are not part of a special token's name.

        Removing a name can join the parts of another one around it, so names are removed until none is left.
        """
        kept = list(range(len(text)))
        while self._special is not None:
            found = list(self._special.finditer("".join(text[index] for index in kept)))
            if not found:
                break
            for name in reversed(found):
                del kept[name.start() : name.end()]
        return kept

    def _characters(self, text: str, starts: list[int]) -> list[int]:
        """For each token, the index in ``text`` of the first character from it on that is not a space.

        ``starts`` are the tokens' beginnings in the text without the names of special tokens.
        """
        kept = self._kept(text)
        following = [len(text)]
        for character in reversed(kept):
            following.append(following[-1] if text[character].isspace() else character)
        return [following[len(kept) - start] for start in starts]

    def _ids(self, text: str) -> list[int]:
        return self._encode(text, add_special_tokens=False).ids

    def _embed_text(self, ids: list[int]) -> Tensor:
        return self._project_text(self._text_table(torch.tensor(ids, device=self._device)))

    def _tag(self, *ids: int) -> Tensor:
        return self.codes.table[torch.tensor(ids, device=self._device)]


def _text_projection(module: Upstream, backend: Backend) -> Callable[[Tensor], Tensor]:
    """Make the two matmuls that project text embeddings to the talker's width, [M, 2 * H] -> [M, H].

    They use the unchanged weights, whatever the talker's weight format. Torch's own bfloat16 matmuls took 80 of the
    190 ms of a prefill on a CPU without bfloat16 instructions (measured).
    """
    layers = module.linear_fc1, module.linear_fc2
    first, second = (backend.linear(each.weight.detach(), each.bias.detach(), exact=True) for each in layers)
    return lambda x: second(module.act_fn(first(x)))
