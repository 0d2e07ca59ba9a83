"""Compares word times with the teacher's durations, and prints the figures of docs/demo_voice.md.

python -m training.word_times STATE: reads the held-out utterances in STATE/data and STATE/codebooks.npz, and measures
the demonstration checkpoint. It measures twice. *Read*: the talker reads the teacher's codes, so the teacher's
durations are the truth. *Own*: the talker speaks the same texts itself. Codebook 0 then tells which phoneme is spoken
when, and the truth is the path through the teacher's phonemes that differs least from it.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serve_app.audio.loudness import Loudness
from serve_app.config import AppConfig, EngineConfig, ModelConfig, SessionConfig
from serve_app.model.factory import LoadedModel, load_model
from serve_app.session.word_times import SegmentWords
from serve_app.speech import SAMPLES_PER_FRAME, AudioChunk, SpeechEnd, SpeechEvent, SpeechRequest
from serve_app.voices.voice import VoicePrompt
from training import alignment, codes, phones, shards, speaker_space
from training.codes import UNIT_SAMPLES, Codebooks
from training.shards import Spoken

SLOT = 0
SAMPLES_PER_MS = 24


@dataclass(frozen=True, slots=True)
class Found:
    """Word beginnings of one utterance, in samples since its first frame.

    Attributes:
        truth: [W], from the phonemes.
        words: [W], from the alignment head.
    """

    truth: NDArray[np.int64]
    words: NDArray[np.int64]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("state", type=Path)
    parser.add_argument("--utterances", type=int, default=200)
    options = parser.parse_args()
    config = AppConfig(model=ModelConfig(source="demo", device="cpu"), engine=EngineConfig(slots=1))
    model = load_model(config)
    codebooks = Codebooks.load(codes.path_of(options.state))
    path = shards.names(options.state / "data")[0]
    held = [pair for pair in codes.read_coded(codebooks, path) if countable(pair[0])][: options.utterances]
    audio = shards.audio(path)
    report("read", [read(model, *pair, audio) for pair in held])
    report("own", [own(model, codebooks, spoken) for spoken, _ in held])


def countable(spoken: Spoken) -> bool:
    """Whether text and phonemes have the same number of words."""
    return len(spoken.text.split(" ")) == len(spoken.phonemes.split(" "))


def report(name: str, found: Sequence[Found]) -> None:
    """Print how far word beginnings are from the truth, in milliseconds."""
    errors = np.concatenate([each.words - each.truth for each in found]) / SAMPLES_PER_MS
    median, most = np.percentile(np.abs(errors), [50, 95])
    within = np.mean(np.abs(errors) <= 160)
    print(
        f"{name}: {len(errors)} words, median error {median:.0f} ms, 95th percentile {most:.0f} ms,"
        f" mean {errors.mean():+.0f} ms, {within:.1%} within 160 ms",
        flush=True,
    )


def read(model: LoadedModel, spoken: Spoken, coded: NDArray[np.int64], audio: NDArray[np.int16]) -> Found:
    """Let the talker read the teacher's codes."""
    request = SpeechRequest(spoken.text, "held", "english", words=True, delivered_codes=coded.astype(np.int16))
    runner = model.runner
    prepared = runner.prepare(request, prompt_of(spoken))
    runner.prefill([SLOT], [prepared])
    looked = runner.spoken(SLOT, prepared, range(len(coded)))
    runner.release(SLOT)
    begin = spoken.first_frame * SAMPLES_PER_FRAME
    pcm = audio[begin : begin + len(coded) * SAMPLES_PER_FRAME].astype(np.float32) / 32768
    ends = np.cumsum(spoken.durations) * UNIT_SAMPLES
    return Found(
        ends[alignment.word_phonemes(spoken.phonemes) - 1],
        begins(spoken.text, [AudioChunk(0, coded, pcm, spoken=looked)]),
    )


def own(model: LoadedModel, codebooks: Codebooks, spoken: Spoken) -> Found:
    """Let the talker speak the text, through the engine."""
    events: list[SpeechEvent] = []

    def deliver(event: SpeechEvent) -> None:
        events.append(event)
        if isinstance(event, AudioChunk):
            stream.consumed(len(event.codes))  # otherwise the engine pauses a long stream

    request = SpeechRequest(spoken.text, "held", "english", seed=1, words=True, listening=False)
    stream = model.engine.submit(model.runner.prepare(request, prompt_of(spoken)), deliver)
    while not (events and isinstance(events[-1], SpeechEnd)):
        model.engine.step()
    chunks = [event for event in events if isinstance(event, AudioChunk)]
    said = np.concatenate([chunk.codes for chunk in chunks])[:, 0]
    heard = [sound for code in said for sound in codebooks.triples.listing[code]]
    units = alignment.aligned(heard, phones.sounds(spoken.phonemes))
    firsts = np.searchsorted(units, alignment.word_phonemes(spoken.phonemes)) + phones.LEAD
    return Found(firsts * UNIT_SAMPLES, begins(spoken.text, chunks))


def begins(text: str, chunks: Sequence[AudioChunk]) -> NDArray[np.int64]:
    """[W], when the words of a text begin."""
    words = SegmentWords(text, text, SessionConfig().silence_level)
    for chunk in chunks:
        words.add(chunk)
    return np.array([each.start_samples for each in words.times(complete=True)])


def prompt_of(spoken: Spoken) -> VoicePrompt:
    """Make a voice prompt of an utterance's voice, without a clip."""
    embedding = speaker_space.embed([spoken.voice])[0].numpy()
    name = f"{spoken.voice.stretch} {spoken.voice.pitch}"
    return VoicePrompt("held", name, embedding, None, None, Loudness(-23.0, 0.0))


if __name__ == "__main__":
    main()
