"""Scores a talker's attention heads by how well they follow the text of a voice's reference clip.

The talker reads the clip's codes and transcript as if it had spoken them. A head that word times can use then looks, in
each frame, at the token that the clip speaks. This runs on upstream's modules, before their layers are dropped, and
never in a service.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from serve_app.config import MAX_FRAMES_AHEAD, SAMPLE_RATE_HZ
from serve_app.errors import VoiceInvalidError
from serve_app.model.backends.torch.torch_backend import TorchBackend
from serve_app.model.checkpoint import AlignmentHead, Checkpoint
from serve_app.model.prompt import PromptBuilder
from serve_app.session.word_times import monotone
from serve_app.speech import SAMPLES_PER_FRAME
from serve_app.voices.voice import Reference

GOOD = 0.75
"""Least score of a head for word times.

Heads with random weights score less than half of it. The trained head of the demonstration voice scores 0.84.
"""

MIN_FRAMES = 38
"""Frames of the shortest clip that is scored: about 3 s. In a shorter clip a head can be in step by chance."""

_NEAR_CHARACTERS = 5
"""A frame that looks this near to the monotone path is on it: about one token of the released tokenizer."""

_IN_STEP = 0.1
"""Largest distance between the path and the expected character, as a share of the text."""

_AUDIBLE = 0.03
"""A frame is audible if its RMS is at least this share of the loudest frame's: 30 dB below it."""


@dataclass(frozen=True, slots=True)
class HeadScore:
    """How well a head follows a clip's text.

    Attributes:
        head: the head, with an estimate of ``frames_ahead``.
        score: from 0 to 1; see :func:`score_of`.
    """

    head: AlignmentHead
    score: float


def head_scores(checkpoint: Checkpoint, reference: Reference, language: str) -> list[HeadScore]:
    """Score every head of the talker on a clip, in the checkpoint's preferred layout; the best comes first.

    Args:
        checkpoint: as loaded, with upstream's layers.
        reference: a clip with a transcript.
        language: language of the clip.

    Raises:
        VoiceInvalidError: the clip has no transcript, is silent, or is shorter than 3 s.
        UnsupportedLanguageError: the checkpoint was not trained on the language.
    """
    prompt = checkpoint.encode(reference)
    if not prompt.transcript or prompt.codes is None:
        raise VoiceInvalidError(f"voice {reference.voice!r} has no transcript; heads are scored on a clip with one")
    if len(prompt.codes) < MIN_FRAMES or not reference.pcm.any():
        raise VoiceInvalidError(
            f"the clip of voice {reference.voice!r} has {len(prompt.codes)} frames;"
            f" heads are scored on speech of at least {MIN_FRAMES} frames (3 s)"
        )
    builder, layout = PromptBuilder(checkpoint, TorchBackend()), checkpoint.layouts[0]
    tokens = builder.tokenize(prompt.transcript, None)
    device = checkpoint.device
    codes = builder.embed_reference(torch.from_numpy(prompt.codes.astype(np.int64)).to(device))
    speaker = torch.from_numpy(prompt.speaker_embedding).to(device, codes.dtype)
    with torch.inference_mode():
        x, _ = builder.build(tokens, language, speaker, codes, layout)
    frames, most = len(prompt.codes), len(prompt.transcript)
    # The position before a frame's codes is the one that predicts them.
    looking = slice(len(x) - frames - 1, len(x) - 1)
    begin = builder.text_position(tokens, language) - 1
    attended = _attended(checkpoint.model.talker.model, x, looking, slice(begin, begin + 1 + len(tokens.text)))
    expected = expected_characters(reference.pcm, reference.sample_rate_hz, frames, most)
    characters = np.array([-1, *tokens.characters], np.int32)
    scores: list[HeadScore] = []
    for layer, head in np.ndindex(*attended.shape[:2]):
        score, ahead = score_of(attended[layer, head], characters, most, expected)
        scores.append(HeadScore(AlignmentHead(layer, head, ahead), score))
    return sorted(scores, key=lambda each: -each.score)


def expected_characters(
    pcm: NDArray[np.float32], sample_rate_hz: int, frames: int, characters: int
) -> NDArray[np.float64]:
    """[frames], the character that each frame would speak if all characters took the same part of the audible time.

    Args:
        pcm: [N], not silent; what it has beyond ``frames`` is left out.
        sample_rate_hz: its sample rate.
        frames: number of frames.
        characters: length of the text.
    """
    size = sample_rate_hz * SAMPLES_PER_FRAME // SAMPLE_RATE_HZ
    cut = pcm[: frames * size]
    levels = np.sqrt((np.pad(cut, (0, frames * size - len(cut))).reshape(frames, size) ** 2).mean(1))
    audible = levels >= levels.max() * _AUDIBLE
    return (np.cumsum(audible) - audible / 2) / audible.sum() * characters


def score_of(
    attended: NDArray[np.float32], characters: NDArray[np.int32], most: int, expected: NDArray[np.float64]
) -> tuple[float, int]:
    """Score one head.

    The score is the share of frames that look at the text in order, in step with the audible time, and not at the
    distance at which the head attends most often. Each counts as much as its weight near the path, of all its weight on
    the text: of heads that go through the text alike, the sharper one has the better times.

    In the streaming layout text and codes begin at the same position, so a head that always looks at the same distance
    goes through the text in order too.

    Args:
        attended: [T, tokens + 1], attention weights of each frame on the position before the text and on its tokens.
        characters: [tokens + 1], the character at which each token begins; -1 before the text.
        most: length of the text.
        expected: [T], from :func:`expected_characters`.

    Returns:
        The score, and ``frames_ahead``: the shift at which its path is nearest to ``expected``.
    """
    looked = attended.argmax(1)
    seen = characters[looked]
    path = monotone(seen)
    # The characters that are expected in the middle of the frames are compared with the middles of the tokens.
    middles = (characters + np.r_[characters[1:], most]) / 2
    middle = middles[np.searchsorted(characters, path)]
    distances = looked - np.arange(len(looked))
    values, counts = np.unique(distances, return_counts=True)
    counted = (np.abs(seen - path) <= _NEAR_CHARACTERS) & (np.abs(middle - expected) <= _IN_STEP * most)
    counted &= distances != values[counts.argmax()]
    near = np.abs(characters - path[:, None]) <= _NEAR_CHARACTERS
    sharpness = (attended * near).sum(1) / np.maximum(attended.sum(1), 1e-9)
    shifted = [np.r_[np.full(shift, middle[0]), middle][: len(middle)] for shift in range(MAX_FRAMES_AHEAD + 1)]
    ahead = int(np.argmin([np.abs(each - expected).mean() for each in shifted]))
    return float((counted * sharpness).mean()), ahead


def _attended(model: Any, x: Tensor, looking: slice, text: slice) -> NDArray[np.float32]:  # noqa: ANN401 - upstream
    """[layers, heads, T, text], the weights with which the positions ``looking`` attend to the positions ``text``.

    Only one layer's weights for all positions, [heads, L, L], are in memory at a time.
    """
    found: list[Tensor] = []

    def keep(_module: object, _given: object, out: tuple[Tensor, Tensor]) -> None:
        found.append(out[1][0].tril()[:, looking, text].float().cpu().clone())

    config = model.config
    configured = config._attn_implementation  # noqa: SLF001 - it has no other name
    config._attn_implementation = "eager"  # noqa: SLF001 - the only one that returns weights
    hooks = [layer.self_attn.register_forward_hook(keep) for layer in model.layers]
    try:
        with torch.inference_mode():
            model(inputs_embeds=x[None], use_cache=False)
    finally:
        config._attn_implementation = configured  # noqa: SLF001
        for hook in hooks:
            hook.remove()
    return torch.stack(found).numpy()
