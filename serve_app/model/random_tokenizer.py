"""The small text tokenizer of random checkpoints; independent of the model."""

import json
from collections.abc import Iterator
from pathlib import Path

from tokenizers.pre_tokenizers import ByteLevel

# Qwen2's own split (transformers 4.57.3, convert_slow_tokenizer.py, Qwen2Converter): a run of line breaks is a separate
# piece, so that "assistant" and the "\n" after it never share a token.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# The prompt builder cuts ids by position, and assumes that "assistant" is one token.
_ROLE = "assistant"

# Frequent English pairs, so that English has about two characters per token instead of one.
_PAIRS = (
    "th he in er an re on at en ti es or te of ed is it al ar st to nt ng se ha as ou io le ve co me de hi ri ro "
    "ic ne ea ra ce li ch ll be ma si om ur"
)

# Scripts of the ten languages: every character of these blocks is one token.
_BLOCKS = (
    (0x00A1, 0x017F),  # accented Latin
    (0x0400, 0x045F),  # Cyrillic
    (0x3001, 0x30FF),  # CJK punctuation, Hiragana, Katakana
    (0x4E00, 0x9FFF),  # Han
    (0xAC00, 0xD7A3),  # Hangul
    (0xFF01, 0xFF5E),  # full-width forms
)

_FIRST_SPECIAL_ID = 151643
_SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def _byte_symbols() -> dict[int, str]:
    """The printable symbol of each byte in GPT-2's mapping, which ByteLevel uses."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    symbols = {byte: chr(byte) for byte in printable}
    others = (byte for byte in range(256) if byte not in symbols)
    symbols.update({byte: chr(256 + position) for position, byte in enumerate(others)})
    assert set(symbols.values()) == set(ByteLevel.alphabet())
    return symbols


def _merges() -> Iterator[tuple[str, str]]:
    """Pairs to merge, highest priority first; a pair may appear more than once."""
    yield from ((_ROLE[:end], _ROLE[end]) for end in range(1, len(_ROLE)))
    for pair in _PAIRS.split():
        yield pair[0], pair[1]
        yield "Ġ", pair[0]
    symbols = _byte_symbols()
    for first, last in _BLOCKS:
        for code_point in range(first, last + 1):
            encoded = "".join(symbols[byte] for byte in chr(code_point).encode())
            yield from ((encoded[:end], encoded[end]) for end in range(1, len(encoded)))


def write_tokenizer(directory: Path) -> None:
    """Write a byte-level BPE ``Qwen2TokenizerFast``: accepts any text, has no unknown token, special ids as released.

    ``<|endoftext|>``, ``<|im_start|>`` and ``<|im_end|>`` have the ids 151643 to 151645. White space is never merged,
    so a text that begins or ends with line breaks does not share tokens with the role.
    """
    merges = list(dict.fromkeys(_merges()))
    tokens = dict.fromkeys([*_byte_symbols().values(), *("".join(pair) for pair in merges)])
    vocabulary = {token: position for position, token in enumerate(tokens)}
    # The released ids must have no gaps, which the tokenizers library would report.
    vocabulary |= {f"<|unused_{position}|>": position for position in range(len(vocabulary), _FIRST_SPECIAL_ID)}
    specials = {token: _FIRST_SPECIAL_ID + offset for offset, token in enumerate(_SPECIALS)}
    added = [
        {
            "id": token_id,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for token, token_id in specials.items()
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": _SPLIT}, "behavior": "Isolated", "invert": False}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": byte_level,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocabulary | specials,
            "merges": merges,
        },
    }
    settings = {
        "tokenizer_class": "Qwen2Tokenizer",
        "processor_class": "Qwen3TTSProcessor",
        "added_tokens_decoder": {
            str(entry["id"]): {name: value for name, value in entry.items() if name != "id"} for entry in added
        },
        "additional_special_tokens": list(_SPECIALS[1:]),
        "add_prefix_space": False,
        "bos_token": None,
        "eos_token": _SPECIALS[2],
        "pad_token": _SPECIALS[0],
        "unk_token": None,
        "errors": "replace",
        "split_special_tokens": False,
        "model_max_length": 131072,
    }
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")
