"""Clips with the loud and quiet of speech, for tests of what becomes of them."""

import io

import av
import numpy as np
import soundfile as sf


def speechlike(seconds=4.0, rate_hz=16_000, level=0.3, hz=200.0, noise=1e-3):
    """[N] float32: syllables of 160 ms with 90 ms between them, over a little noise."""
    at_s = np.arange(int(seconds * rate_hz)) / rate_hz
    syllable = np.clip(np.sin(2 * np.pi * at_s / 0.25) + 0.2, 0, 1)
    hiss = np.random.default_rng(1).normal(0, noise, len(at_s))
    return (level * syllable * np.sin(2 * np.pi * hz * at_s) + level * hiss).astype(np.float32)


def wav(seconds=4.0, rate_hz=16_000, level=0.3, channels=1, **kind):
    return encoded(np.stack([speechlike(seconds, rate_hz, level, **kind)] * channels, axis=1), rate_hz)


def encoded(samples, rate_hz=16_000, form="WAV"):
    file = io.BytesIO()
    sf.write(file, samples, rate_hz, format=form)
    return file.getvalue()


def ffmpeg(container, codec, rate_hz=24_000, seconds=4.0, layout="mono", gains=(1.0,)):
    """The same through FFmpeg: what telephones and browsers record; a gain for each channel of the layout."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate_hz, layout=layout)
        samples = np.ascontiguousarray(np.outer(speechlike(seconds, rate_hz), gains).reshape(1, -1), np.float32)
        frame = av.AudioFrame.from_ndarray(samples, format="flt", layout=layout)
        frame.sample_rate = rate_hz
        resampler = av.AudioResampler(stream.format, layout, rate_hz, stream.codec_context.frame_size)
        for piece in (*resampler.resample(frame), *resampler.resample(None)):
            output.mux(stream.encode(piece))
        output.mux(stream.encode(None))
    return file.getvalue()
