"""Trains the talker and the code predictor, which compute codes from text.

python -m training.talker STATE --minutes M: reads STATE/data, STATE/codebooks.npz and STATE/text, saves its state in
STATE/talker.
"""

import copy
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from qwen_tts.core.models import modeling_qwen3_tts as upstream
from qwen_tts.core.models.configuration_qwen3_tts import Qwen3TTSConfig
from torch import Tensor, nn
from torch.nn import functional

from training import codes, predictor, prompt_layout, reading, shapes, shards, speaker_space, text_tokens
from training.codes import Codebooks
from training.loop import Plan, Run, device, read_options
from training.prompt_layout import Marks
from training.reading import Reading
from training.scores import distance
from training.speaking import Asked, Temperatures, speak

FRAMES = 1600
"""Frames of a batch, including padding."""

RATE = 1.5e-3
HELD = 24

_RECORDED = 0.7  # share of readings whose reference is read as the codec's encoder hears it
_SILENCE = (0, 12)  # frames of silence after a reference clip; the service appends half a second to each
_CORRUPTED = 0.3  # largest share of the input frames
_WEIGHTS = {"pitch": 0.3, "sound": 14.0, "constant": 0.5}
"""Weights of the code predictor's losses."""

_BLUR = 0.05  # noise on a voice's coordinates
_IGNORED = -100


def build(seed: int) -> nn.Module:
    """Make a talker of upstream's class, initialised so that text and codes have similar influence."""
    torch.manual_seed(seed)
    config = Qwen3TTSConfig(**copy.deepcopy(shapes.language_model()))
    talker = upstream.Qwen3TTSTalkerForConditionalGeneration._from_config(config.talker_config)
    for part in (talker.model, talker.code_predictor.model):
        part.config._attn_implementation = "eager"  # torch's fused attention is slow backwards on a CPU
    for name, parameter in talker.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight", "lm_head.weight", "codec_head.weight")):
            nn.init.normal_(parameter, 0, 0.02)
        elif "text_projection" in name and parameter.dim() > 1:
            nn.init.normal_(parameter, 0, 1.5 / parameter.shape[1] ** 0.5)
        elif "text_embedding" in name or name == "model.codec_embedding.weight":
            nn.init.normal_(parameter, 0, 1.0)
        elif "codec_embedding" in name:
            nn.init.normal_(parameter, 0, 0.3)
        elif parameter.dim() > 1:
            nn.init.normal_(parameter, 0, 0.5 / parameter.shape[1] ** 0.5)
    return talker


class Attention:
    """Records the attention scores of one layer of a talker, in its first head."""

    def __init__(self, layer: nn.Module) -> None:
        self._attention = layer.self_attn
        self._seen: dict[str, object] = {}
        self._attention.register_forward_pre_hook(self._keep, with_kwargs=True)

    def _keep(self, _module: nn.Module, _args: tuple, given: dict) -> None:
        self._seen = given

    def scores(self) -> Tensor:
        """[B, L, L] of the last forward pass, before the softmax and without a mask."""
        attention, size = self._attention, self._attention.head_dim
        hidden, (cosine, sine) = self._seen["hidden_states"], self._seen["position_embeddings"]
        query = attention.q_norm(functional.linear(hidden, attention.q_proj.weight[:size]))[:, None]
        key = attention.k_norm(functional.linear(hidden, attention.k_proj.weight[:size]))[:, None]
        scaling = attention.rope_scaling
        query, key = upstream.apply_multimodal_rotary_pos_emb(
            query, key, cosine, sine, scaling["mrope_section"], scaling["interleaved"]
        )
        return (query @ key.transpose(2, 3))[:, 0] * attention.scaling


class Batch:
    """A batch of readings, padded at the end.

    Attributes:
        text: [B, T + 1]; the token of each position.
        codes: [B, T, GROUPS].
        heard: [B, T, GROUPS], the codes to read; those of a reference clip may be wrong.
        wanted: [B, T + 1] of codebook 0 and the end code, ``_IGNORED`` after it and where frames are only read.
        spoken: [B, T + 1], the position whose token a frame speaks, or ``_IGNORED``.
        speakers: [B, H].
    """

    def __init__(self, readings: Sequence[Reading], marks: Marks, blur: float = 0.0) -> None:
        rows, longest = len(readings), max(len(each.codes) for each in readings)
        text = np.full((rows, longest + 1), marks.text_pad)
        coded = np.zeros((rows, longest, shapes.GROUPS), np.int64)
        heard = np.zeros_like(coded)
        wanted = np.full((rows, longest + 1), _IGNORED)
        spoken = np.full((rows, longest + 1), _IGNORED)
        for row, each in enumerate(readings):
            frames = len(each.codes)
            tokens = [*each.tokens, marks.text_eos][: longest + 1]
            text[row, : len(tokens)] = tokens
            coded[row, :frames] = each.codes
            heard[row, :frames] = each.codes if each.heard is None else each.heard
            wanted[row, :frames] = each.codes[:, 0]
            wanted[row, list(each.given)] = _IGNORED
            wanted[row, frames] = marks.codec_eos
            # Attention cannot reach a token that has not been read yet.
            known = (each.spoken != reading.UNKNOWN) & (each.spoken <= np.arange(frames))
            spoken[row, :frames] = np.where(known, each.spoken, _IGNORED)
        where = device()
        self.text = torch.from_numpy(text).to(where)
        self.codes, self.heard = torch.from_numpy(coded).to(where), torch.from_numpy(heard).to(where)
        self.wanted, self.spoken = torch.from_numpy(wanted).to(where), torch.from_numpy(spoken).to(where)
        self.speakers = speaker_space.embed([each.voice for each in readings], blur).to(where)


def corrupted(batch: Batch) -> Tensor:
    """Codes of a batch as a talker would hear itself: some are wrong, so it has to read the text.

    Up to a third of a row's frames are replaced. In most rows, the pitch and sound of every frame come from another
    frame with the same phonemes, since the codes that the code predictor draws fit the phonemes but do not tell how
    much of them has been spoken. A talker that is trained only on the teacher's own sounds relies on that information,
    and fails when it hears itself.
    """
    rows, frames, groups = batch.codes.shape
    where = batch.codes.device
    flat = batch.codes.flatten(0, 1)
    alike = flat[_partners(flat[:, 0])].view(rows, frames, groups)
    swapped = torch.rand(rows, frames, device=where) < (torch.rand(rows, 1, device=where) * 3).clamp(max=1)
    codes = torch.where(swapped[:, :, None], alike, batch.heard)
    hit = torch.rand(rows, frames, device=where) < torch.rand(rows, 1, device=where) * _CORRUPTED
    others = flat[torch.randint(rows * frames, (rows, frames), device=where)]
    return torch.where(hit[:, :, None], others, codes)


def _partners(phonemes: Tensor) -> Tensor:
    """[N] -> [N]: for each element, the index of another one of the same value, or its own if there is none."""
    order = torch.argsort(phonemes + torch.rand(phonemes.shape, device=phonemes.device, dtype=torch.float64) / 2)
    sorted_ = phonemes[order]
    following, before = order.roll(-1), order.roll(1)
    same = sorted_ == sorted_.roll(-1)
    partners = torch.where(same, following, torch.where(sorted_ == sorted_.roll(1), before, order))
    found = torch.empty_like(order)
    found[order] = partners
    return found


def losses(
    talker: nn.Module,
    attention: Attention,
    batch: Batch,
    marks: Marks,
    sounds: Tensor,
    *,
    corrupt: bool = False,
    tagged: bool = True,
) -> dict[str, Tensor]:
    """Cross-entropies of codebook 0, of the other codebooks, and of the guided head's attention.

    With ``corrupt``, the codes that are read are corrupted, as in training. ``sounds`` are the codebooks of sound.
    """
    head = prompt_layout.head(talker, marks, batch.speakers, tagged=tagged)
    body = prompt_layout.body(talker, marks, batch.text, corrupted(batch) if corrupt else batch.heard)
    start = head.shape[1]
    hidden = talker.model(inputs_embeds=torch.cat([head, body], 1), use_cache=False).last_hidden_state[:, start:]
    counted = batch.wanted != _IGNORED
    # Upstream never draws a control code except the end code, so the others need no training.
    logits = functional.linear(hidden[counted], talker.codec_head.weight[: marks.codec_eos + 1])
    phones = functional.cross_entropy(logits, batch.wanted[counted])

    scores = attention.scores()[:, start:]
    length = scores.shape[2]
    later = torch.ones(scores.shape[1], length, dtype=torch.bool, device=scores.device).triu(start + 1)
    guided = batch.spoken != _IGNORED
    looked = scores.masked_fill(later, -1e9)[guided]
    looking = functional.cross_entropy(looked, batch.spoken[guided] + start)
    near = ((looked.argmax(1) - batch.spoken[guided] - start).abs() <= 1).float().mean()

    spoken = counted[:, 1:]
    rest = predictor.losses(talker, hidden[:, :-1][spoken], batch.codes[spoken], sounds)
    total = phones + looking + sum(_WEIGHTS[name] * value for name, value in rest.items())
    return {"loss": total, "phones": phones, "looking": looking, "near": near} | rest


def conversations(readings: Sequence[Reading], space: np.ndarray, rng: random.Random) -> list[Reading]:
    """Join up to four consecutive readings of one voice, half of them without a space, as reference and text are."""
    joined: list[Reading] = []
    place = 0
    while place < len(readings):
        count = rng.choices([1, 2, 3, 4], [0.5, 0.2, 0.15, 0.15])[0]
        parts = [each for each in readings[place : place + count] if each.voice == readings[place].voice]
        gap = space if rng.random() < 0.5 else space[:0]
        silence = rng.randint(*_SILENCE) if rng.random() < _RECORDED else 1
        joined.append(reading.joined(parts, gap, recorded=rng.random() < _RECORDED, silence=silence))
        place += len(parts)
    return joined


def endless(library: reading.Library, space: np.ndarray, seed: int) -> Iterator[list[Reading]]:
    """Endless batches; each round joins readings anew, and reads shards that have been added."""
    rng = random.Random(seed)
    while True:
        chosen = conversations(library.trained(), space, rng)
        total = sum(len(each.codes) for each in chosen)
        stream = reading.batches(chosen, FRAMES, rng)
        for _ in range(max(1, total // FRAMES)):
            yield next(stream)


def prepare_text(state: Path) -> tuple[text_tokens.Tokenizer, Marks]:
    """Load the tokenizer; if it is missing, train it on the texts of the first shards."""
    directory = state / "text"
    if not (directory / "tokenizer.json").exists():
        paths = shards.names(state / "data")[:4]
        text_tokens.train((each.text for path in paths for each in shards.read(path)), directory)
    tokenizer = text_tokens.load(directory)
    role = tokenizer.encode(f"{text_tokens.START}{text_tokens.ROLE}\n", add_special_tokens=False).ids
    assert len(role) == 3, "upstream cuts the role off by position"
    return tokenizer, Marks.of(shapes.language_model(), role)


def main() -> None:
    """Train, or continue training."""
    options = read_options(__doc__, seed=7)
    codebooks = Codebooks.load(codes.path_of(options.state))
    tokenizer, marks = prepare_text(options.state)
    library = reading.Library(options.state / "data", codebooks, tokenizer)
    held = library.held()[:200]
    readings = library.trained()
    frames, tokens = sum(len(each.codes) for each in readings), sum(len(each.tokens) for each in readings)
    hours = frames * 0.08 / 3600
    print(f"{len(readings)} readings, {hours:.1f} h, {tokens / frames:.2f} text tokens a frame", flush=True)
    plan = Plan(options.minutes, RATE, mixed=True, cooling=options.cool)
    sounds = torch.from_numpy(codebooks.sounds).to(device())
    model = build(options.seed)
    predictor.set_weights(model, sounds.cpu())
    run = Run(options.state / "talker", model, plan)
    attention = {id(each): Attention(each.model.layers[shapes.ALIGNMENT_LAYER]) for each in (run.model, run.mean)}
    space = np.array(tokenizer.encode(" ", add_special_tokens=False).ids)
    stream = endless(library, space, options.seed + run.step)

    def of(model: nn.Module, step: int) -> Mapping[str, Tensor]:
        torch.manual_seed(options.seed + step)
        batch = Batch(next(stream), marks, _BLUR)
        return losses(model, attention[id(model)], batch, marks, sounds, corrupt=True, tagged=step % 4 != 0)

    def judge(model: nn.Module, step: int) -> dict[str, float]:
        found = [
            losses(model, attention[id(model)], Batch(held[start : start + 50], marks), marks, sounds)
            for start in range(0, len(held), 50)
        ]
        means = {name: float(torch.stack([each[name] for each in found]).mean()) for name in found[0]}
        return means | free_running(model, held[:HELD], marks, codebooks, options.state / "talker" / f"said-{step:06}")

    run.train(of, judge)


def free_running(
    talker: nn.Module, held: Sequence[Reading], marks: Marks, codebooks: Codebooks, path: Path
) -> dict[str, float]:
    """Generate freely: sound errors relative to the sounds of the texts, and the share of texts that it ended."""
    asked = [Asked(each.tokens, each.voice, int(len(each.codes) * 1.6) + 10) for each in held]
    said = speak(talker, asked, marks, Temperatures(0.3, 0.5), torch.Generator().manual_seed(1))
    errors = total = 0
    lines: list[dict[str, object]] = []
    for each, made in zip(held, said, strict=True):
        wanted, heard = codebooks.triples.said(each.codes[:, 0]), codebooks.triples.said(made.codes[:, 0])
        errors += distance(wanted, heard)
        total += len(wanted)
        lines.append({"text": each.text, "wanted": wanted, "said": heard, "ended": made.ended})
    path.with_suffix(".json").write_text(json.dumps(lines, ensure_ascii=False, indent=1), encoding="utf-8")
    return {"sound errors": errors / total, "ended": sum(made.ended for made in said) / len(said)}


if __name__ == "__main__":
    main()
