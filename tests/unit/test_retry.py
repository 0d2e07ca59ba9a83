from dataclasses import replace

import numpy as np

from serve_app.cluster.retry import MAX_RETRIES, MAX_RETRIES_AFTER_AUDIO, Resumption
from serve_app.speech import AudioChunk, SilenceLimits, SpeechRequest


def chunk(first_frame, frames=2):
    codes = np.arange(first_frame, first_frame + frames, dtype=np.int16)[:, None].repeat(16, axis=1)
    return AudioChunk(first_frame, codes, np.zeros(frames * 1920, np.float32))


def waits(held):
    said = []
    while (wait_s := held.count_interruption()) is not None:
        said.append(wait_s)
    return said


def test_the_next_stream_is_asked_for_what_is_not_held():
    request = SpeechRequest("Hello.", "austen", seed=3, speed=1.5)
    held = Resumption(request)
    assert held.request is request
    held.add(chunk(0))
    held.add(chunk(2, 3))
    assert held.frames == 5
    assert held.request.delivered_codes[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert (held.request.text, held.request.seed, held.request.speed) == ("Hello.", 3, 1.5)


def test_what_the_request_holds_already_comes_first():
    held = Resumption(SpeechRequest("Hello.", "austen", delivered_codes=chunk(0).codes))
    held.add(chunk(2))
    assert held.request.delivered_codes[:, 0].tolist() == [0, 1, 2, 3]


def test_what_follows_is_spoken_with_the_clip_that_it_was_begun_with():
    held = Resumption(SpeechRequest("Hello.", "austen"))
    held.add(replace(chunk(0), voice_digest="d1"))
    assert held.request.voice_digest == "d1"
    later = Resumption(SpeechRequest("Hello again.", "austen", begun=True, voice_digest="d1"))
    assert later.request.voice_digest == "d1"
    later.add(chunk(0))
    assert later.request.voice_digest == "d1"


def test_the_next_stream_knows_the_rendering_of_the_codes_that_it_resumes():
    held = Resumption(SpeechRequest("Hello.", "austen"))
    assert held.request.rendering == ""
    held.add(replace(chunk(0), rendering="m1 packed"))
    held.add(chunk(2))
    assert held.request.rendering == "m1 packed"
    others = [held.has_other_rendering(replace(chunk(4), rendering=by)) for by in ("m1 packed", "m2 packed", "")]
    assert others == [False, True, False]


def test_failed_attempts_are_bounded_and_back_off():
    never_spoke = waits(Resumption(SpeechRequest("Hello.", "austen", seed=5)))
    assert len(never_spoke) == MAX_RETRIES
    held = Resumption(SpeechRequest("Hello.", "austen", seed=5))
    held.add(chunk(0))
    spoken = waits(held)
    assert len(spoken) == MAX_RETRIES_AFTER_AUDIO
    assert waits(Resumption(SpeechRequest("Hello again.", "austen", seed=5, begun=True))) == spoken
    assert spoken[0] == 0.0
    assert spoken == sorted(spoken)
    assert spoken[-1] <= 8.0


def test_progress_forgives():
    held = Resumption(SpeechRequest("Hello.", "austen"))
    for frame in range(0, 40, 2):
        held.add(chunk(frame))
        assert held.count_interruption() == 0.0


def test_two_streams_do_not_come_again_at_the_same_moment():
    (_, one), (_, other) = (waits(Resumption(SpeechRequest("Hello.", "austen", seed=seed))) for seed in (1, 500))
    assert one != other


def test_the_next_stream_is_told_how_much_silence_was_delivered_last():
    held = Resumption(SpeechRequest("Hello.", "austen", silence=SilenceLimits(0.01, 960, trailing_samples=9600)))
    held.add(replace(chunk(0), silent_samples=480))
    assert held.request.silence == SilenceLimits(0.01, 960, trailing_samples=9600, delivered_samples=480)
