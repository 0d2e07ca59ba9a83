"""The text tokenizer: a small byte-level BPE in the files of the release.

It has few merges on purpose. The model reads one text token per frame; with about 0.7 tokens per frame of speech, the
text stays ahead of its speech, but not by much.
"""

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import Qwen2TokenizerFast

from training.shapes import TEXT_TOKENS

MERGED = 340
"""Entries of the vocabulary before the special ones; 256 of them are bytes."""

START, END = "<|im_start|>", "<|im_end|>"
ROLE = "assistant"
_SPECIALS = ("<|endoftext|>", START, END)
_FIRST_SPECIAL = TEXT_TOKENS - 7

# Qwen2's own split (transformers 4.57.3, convert_slow_tokenizer.py, Qwen2Converter): a run of line breaks is a separate
# piece, so that "assistant" and the "\n" after it never share a token.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train(texts: Iterable[str], directory: Path) -> None:
    """Compute merges from ``texts``, and write tokenizer.json and tokenizer_config.json."""
    directory.mkdir(parents=True, exist_ok=True)
    from_texts = Tokenizer(models.BPE())
    from_texts.normalizer = normalizers.Lowercase()
    from_texts.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=MERGED - len(ROLE) + 1, initial_alphabet=alphabet, show_progress=False)
    from_texts.train_from_iterator(texts, trainer)
    merges = [tuple(pair) for pair in json.loads(from_texts.to_str())["model"]["merges"]]
    # The prompt is cut by position, which assumes that "assistant" is one token.
    merges = list(dict.fromkeys([(ROLE[:end], ROLE[end]) for end in range(1, len(ROLE))] + merges))
    entries = dict.fromkeys([*sorted(alphabet), *("".join(pair) for pair in merges)])
    vocabulary = {entry: number for number, entry in enumerate(entries)}
    # The tokenizers library would report gaps.
    vocabulary |= {f"<|unused_{number}|>": number for number in range(len(vocabulary), _FIRST_SPECIAL)}
    vocabulary |= {special: _FIRST_SPECIAL + number for number, special in enumerate(_SPECIALS)}

    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(_SPECIALS))
    wrapped = Qwen2TokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=_SPECIALS[0],
        unk_token=None,
        additional_special_tokens=list(_SPECIALS[1:]),
        model_max_length=131072,
    )
    wrapped.save_pretrained(directory)
    for other in ("vocab.json", "merges.txt", "added_tokens.json", "special_tokens_map.json"):
        (directory / other).unlink(missing_ok=True)
    config = json.loads((directory / "tokenizer_config.json").read_text(encoding="utf-8"))
    config |= {"tokenizer_class": "Qwen2Tokenizer", "processor_class": "Qwen3TTSProcessor"}
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")


def load(directory: Path) -> Tokenizer:
    """Load files that :func:`train` wrote."""
    return Tokenizer.from_file(str(directory / "tokenizer.json"))
