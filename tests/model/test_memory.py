"""The computed memory of a replica is that of a loaded one, and the documentation has it."""

from pathlib import Path

import pytest
import torch

from benchmarks.memory import CONSTANT_POSITIONS, memory_of, table

SCALING = Path(__file__).parents[2] / "docs" / "scaling.md"


def test_the_computed_bytes_are_those_of_a_loaded_replica(plain_runner, checkpoint, voices):
    runner = plain_runner
    memory = memory_of("tiny", 1024, torch.float32, torch.float32)
    assert list(memory.slot.values()) == [
        runner.talker.cache.bytes_per_slot,
        runner.slot_tensors.bytes_per_slot,
        runner.predictor.cache.bytes_per_slot,
        runner.codec.state_bytes_per_row,
    ]
    assert memory.weights["embeddings of codes"] == runner.prompts.codes.table.nbytes
    norms = 0.02  # norms are folded into matmuls
    assert memory.weights["talker"] == pytest.approx(runner.talker.weight_bytes, rel=norms)
    one_pass = runner.predictor.stack.weight_bytes + sum(head.nbytes for head in runner.predictor._heads)
    assert memory.weights["code predictor"] == pytest.approx(one_pass, rel=norms)
    encoder = checkpoint.model.speech_tokenizer.model.encoder
    of_clips = (encoder, checkpoint.model.speaker_encoder)
    assert memory.weights["encoders of clips"] == sum(
        each.nbytes for part in of_clips for each in part.state_dict().values()
    )
    state = runner._voice_state(voices["austen"])
    frames = len(voices["austen"].codes)
    per_frame = memory.voice["reference, embedded"] // (1 + round(10 * 12.5))
    assert state.reference.nbytes == (1 + frames) * per_frame
    assert state.codec.nbytes == memory.voice["state of the codec"]
    keys, values = runner.talker.cache.copy_out(0, CONSTANT_POSITIONS)
    assert keys.nbytes + values.nbytes == memory.voice["constant part of the prompt"]


def test_the_documentation_has_the_table():
    memories = {
        label: memory_of(name, 1024, torch.bfloat16, torch.bfloat16)
        for label, name in (("0.6B", "full-random"), ("1.7B", "full-random-1.7b"))
    }
    page = SCALING.read_text()
    for row in table(memories, 10, 10):
        assert f"| {' | '.join(row)} |" in page, "python benchmarks/memory.py"
