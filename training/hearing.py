"""A listener: a speech recognizer, word errors, and the pitch of a voice."""

import io
from collections.abc import Iterator, Sequence

import av
import numpy as np
import soundfile

from serve_app.text.numbers.normalize import normalize
from training.scores import distance, plain

_SILENCE_S = 0.5
_LONGEST_PIECE_S = 30
_LOWEST_HZ, _HIGHEST_HZ = 60, 400
_VOICED_RMS = 0.02
_VOICED_CORRELATION = 0.5


class Recognizer:
    """The recognizer in moonshine-voice's package, which needs no download."""

    def __init__(self) -> None:
        import moonshine_voice  # noqa: PLC0415 - not installed everywhere
        from moonshine_voice.utils import get_model_path  # noqa: PLC0415

        self._transcriber = moonshine_voice.Transcriber(str(get_model_path("tiny-en")), moonshine_voice.ModelArch.TINY)

    def words(self, samples: np.ndarray, rate_hz: int) -> list[str]:
        """Recognize the words in [N] float samples of any length.

        Each piece gets silence around it, without which the recognizer misses short words.
        """
        heard = []
        for piece in pieces(samples, rate_hz):
            padded = np.pad(piece.astype(np.float32), round(_SILENCE_S * rate_hz))
            heard += self._transcriber.transcribe_without_streaming(padded.tolist(), rate_hz).lines
        return words(" ".join(line.text for line in heard))


def pieces(samples: np.ndarray, rate_hz: int) -> Iterator[np.ndarray]:
    """Cut [N] samples into pieces of 15 to 30 s, the last one shorter, where they are quietest for 40 ms."""
    longest, span = _LONGEST_PIECE_S * rate_hz, rate_hz // 25
    while len(samples) > longest:
        power = np.convolve(samples[longest // 2 : longest] ** 2, np.ones(span), "valid")
        cut = longest // 2 + int(np.argmin(power)) + span // 2
        yield samples[:cut]
        samples = samples[cut:]
    yield samples


def words(text: str) -> list[str]:
    """Split a text into lower-case words without punctuation. Numbers become words: a recognizer writes either."""
    return plain(normalize(text, "english")).split()


def word_errors(pairs: Sequence[tuple[str, list[str]]]) -> float:
    """Return the word error rate of some texts together, each with the words that were recognized."""
    return sum(distance(words(said), heard) for said, heard in pairs) / sum(len(words(said)) for said, _ in pairs)


def prefix_errors(said: str, heard: list[str]) -> tuple[int, float]:
    """Compare what was heard with the best-fitting beginning of a text.

    Returns:
        The number of words of this beginning, and its word error rate.
    """
    wanted = words(said)
    count = min(range(1, len(wanted) + 1), key=lambda length: distance(wanted[:length], heard))
    return count, distance(wanted[:count], heard) / count


def recognized(wanted: Sequence[str], heard: Sequence[str]) -> list[bool]:
    """Tell for each wanted word whether it was heard in its place, by the shortest edit of one text into the other."""
    costs = np.zeros((len(wanted) + 1, len(heard) + 1), int)
    costs[:, 0], costs[0] = np.arange(len(wanted) + 1), np.arange(len(heard) + 1)
    for i, word in enumerate(wanted, 1):
        for j, found in enumerate(heard, 1):
            costs[i, j] = min(costs[i - 1, j] + 1, costs[i, j - 1] + 1, costs[i - 1, j - 1] + (word != found))
    hits = [False] * len(wanted)
    i, j = len(wanted), len(heard)
    while i and j:
        if costs[i, j] == costs[i - 1, j - 1] + (wanted[i - 1] != heard[j - 1]):
            i, j = i - 1, j - 1
            hits[i] = wanted[i] == heard[j]
        elif costs[i, j] == costs[i - 1, j] + 1:
            i -= 1
        else:
            j -= 1
    return hits


def median_pitch_hz(samples: np.ndarray, rate_hz: int) -> float:
    """Return the median pitch of the voiced frames in [N] float samples, found by autocorrelation."""
    length, step = int(0.08 * rate_hz), int(0.02 * rate_hz)
    shortest, longest = rate_hz // _HIGHEST_HZ, rate_hz // _LOWEST_HZ
    found = []
    for at in range(0, len(samples) - length, step):
        frame = samples[at : at + length] - samples[at : at + length].mean()
        if np.sqrt((frame**2).mean()) < _VOICED_RMS:
            continue
        power = np.abs(np.fft.rfft(frame * np.hanning(length), 4 * length)) ** 2
        correlation = np.fft.irfft(power)[:length]
        period = shortest + int(np.argmax(correlation[shortest:longest]))
        if correlation[period] > _VOICED_CORRELATION * correlation[0]:
            found.append(rate_hz / period)
    return float(np.median(found))


def pcm16(payload: bytes) -> np.ndarray:
    """[N] float samples of signed 16-bit little-endian PCM."""
    return np.frombuffer(payload, "<i2") / 32768


def mulaw(payload: bytes, rate_hz: int) -> np.ndarray:
    """[N] float samples of G.711 mu-law."""
    return soundfile.read(io.BytesIO(payload), channels=1, samplerate=rate_hz, format="RAW", subtype="ULAW")[0]


def file_samples(content: bytes, container: str, rate_hz: int) -> np.ndarray:
    """[N] float samples of an audio file, at a sample rate."""
    with av.open(io.BytesIO(content), format=container) as file:
        resampler = av.AudioResampler("flt", "mono", rate_hz)
        frames = [each for frame in file.decode(audio=0) for each in resampler.resample(frame)]
        frames += resampler.resample(None)
    return np.concatenate([frame.to_ndarray().ravel() for frame in frames])
