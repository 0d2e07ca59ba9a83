"""Checks whether a clip will make a good voice. Each check reports a measurement, the limit and advice.

These are pure functions of samples and text. They do not decode, store or encode, and they need no model.
"""

import unicodedata
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from serve_app.config import SAMPLE_RATE_HZ, Language, Settings
from serve_app.voices.decoding import MAX_COUNTED_S, MAX_DECODED_S, Clip, loud_percentile

MIN_REFERENCE_S = 3.0
MAX_REFERENCE_S = 30.0

APPENDED_SILENCE_S = 0.5
"""Silence that is appended to every clip. Without it, the clip's last word runs into the generated speech."""

KEPT_SILENCE_S = 0.1
"""Silence that stays at both ends, because breaths and soft consonants are quieter than the threshold."""

LOWEST_DBFS = -90.0
"""Digital silence; 16-bit audio has no lower level."""

RUMBLE_HZ = 30.0
"""Lower frequencies are removed: an offset, a drift, wind, footsteps. The deepest voices begin at about twice this."""

_RUMBLE_ORDER = 4
_RUMBLE_PADDING_S = 0.25

_FRAME_S = 0.02
_SILENCE_BELOW_SPEECH_DB = 35.0
_SILENCE_DBFS = -65.0

Verdict = Literal["accept", "warn", "refuse"]


class Check(Settings):
    """The result of one check.

    Attributes:
        name: the name of the check; ends with the unit of ``measured``, if it has one.
        verdict: the result.
        measured: the measured value; None if there was nothing to measure.
        limit: description of the accepted values.
        advice: how to correct the clip; empty if the clip is accepted.
        over: whether ``measured`` is only a lower bound.
    """

    name: str
    verdict: Verdict
    measured: float | None
    limit: str
    advice: str = ""
    over: bool = False

    @property
    def value(self) -> str:
        """``measured`` in words."""
        if self.measured is None:
            return "missing"
        return f"over {self.measured:g}" if self.over else f"{self.measured:g}"


class Report(Settings):
    """All checks of one clip."""

    checks: tuple[Check, ...]

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of all checks."""
        found = {check.verdict for check in self.checks}
        return "refuse" if "refuse" in found else "warn" if "warn" in found else "accept"

    def reasons(self, verdict: Verdict = "refuse") -> str:
        """Return the checks with one verdict as a sentence."""
        return "; ".join(
            f"{check.name} is {check.value}, allowed: {check.limit}: {check.advice}"
            for check in self.checks
            if check.verdict == verdict
        )


@dataclass(frozen=True, slots=True)
class Examined:
    """A checked clip.

    Attributes:
        pcm: [N] float32, 24 kHz, mono: without frequencies below :data:`RUMBLE_HZ`, with its silence cut to
            :data:`KEPT_SILENCE_S` and :data:`APPENDED_SILENCE_S` appended.
        report: the results of the checks.
    """

    pcm: NDArray[np.float32]
    report: Report


def examine(clip: Clip, transcript: str | None, language: Language) -> Examined:
    """Check a clip and prepare it for encoding, even if it is refused.

    Args:
        clip: the decoded clip.
        transcript: the words of the clip, stripped; None if they are unknown.
        language: the language of the clip.
    """
    pcm = without_rumble(clip.pcm)
    levels = frame_levels(pcm)
    begin, end = speech_span(levels, len(pcm))
    speech = pcm[begin:end]
    speech_s = len(speech) / SAMPLE_RATE_HZ
    if clip.length_s > MAX_DECODED_S:  # the end was not decoded, so the silence there is unknown
        speech_s = clip.length_s
    spoken = frame_levels(speech)
    silence_s = (begin / SAMPLE_RATE_HZ, (len(pcm) - end) / SAMPLE_RATE_HZ)
    checks = (
        duration(speech_s),
        level(spoken),
        clipping(clip.clipped_share),
        signal_to_noise(spoken),
        silence("silence_before_s", silence_s[0]),
        silence("silence_after_s", silence_s[1]),
        channels(clip.channels, alike=clip.alike),
        sample_rate(clip.sample_rate_hz),
        transcript_rate(transcript, language, speech_s),
    )
    appended = np.zeros(round(APPENDED_SILENCE_S * SAMPLE_RATE_HZ), np.float32)
    return Examined(np.concatenate([speech, appended]), Report(checks=checks))


def without_rumble(pcm: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a copy of [N] float32 without frequencies below :data:`RUMBLE_HZ` and without delay.

    The magnitude response is that of a Butterworth filter that runs forward and backward over the clip.
    """
    padding = min(round(_RUMBLE_PADDING_S * SAMPLE_RATE_HZ), len(pcm) - 1)
    if padding < 1:
        return pcm.copy()
    padded = np.pad(pcm.astype(np.float64), padding, mode="reflect", reflect_type="odd")
    hz = np.fft.rfftfreq(len(padded), 1 / SAMPLE_RATE_HZ)
    gain = np.zeros(len(hz))
    gain[1:] = 1 / (1 + (RUMBLE_HZ / hz[1:]) ** (2 * _RUMBLE_ORDER))
    filtered = np.fft.irfft(np.fft.rfft(padded) * gain, len(padded))
    return filtered[padding : padding + len(pcm)].astype(np.float32)


def frame_levels(pcm: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the level of each 20 ms of ``pcm`` [N] in dBFS (a full-scale square wave is 0); at least -90."""
    size = round(_FRAME_S * SAMPLE_RATE_HZ)
    frames = pcm[: len(pcm) // size * size].reshape(-1, size).astype(np.float64)
    power = np.maximum((frames**2).mean(axis=1), 10 ** (LOWEST_DBFS / 10))
    return (10 * np.log10(power)).astype(np.float32)


def speech_span(levels: NDArray[np.float32], samples: int) -> tuple[int, int]:
    """Return the begin and end of the speech, with :data:`KEPT_SILENCE_S` around it; all samples if all are silent."""
    threshold = max(_SILENCE_DBFS, _loud(levels) - _SILENCE_BELOW_SPEECH_DB)
    loud = np.flatnonzero(levels > threshold)
    if len(loud) == 0:
        return 0, samples
    size, kept = round(_FRAME_S * SAMPLE_RATE_HZ), round(KEPT_SILENCE_S * SAMPLE_RATE_HZ)
    begin, end = int(loud[0]) * size - kept, (int(loud[-1]) + 1) * size + kept
    return max(0, begin), min(samples, end)


def duration(speech_s: float) -> Check:
    """Check the seconds between the silence at both ends; the total length if the clip was not decoded to its end."""
    limit = f"{MIN_REFERENCE_S:g} to {MAX_REFERENCE_S:g} s, 5 to 15 s best"
    seconds = round(min(speech_s, MAX_COUNTED_S), 2)
    if seconds < MIN_REFERENCE_S:
        return _refused("duration_s", seconds, limit, "record more: a few whole sentences")
    if seconds > MAX_REFERENCE_S:
        check = _refused("duration_s", seconds, limit, "cut it to its best 5 to 15 seconds, between two sentences")
        return check.model_copy(update={"over": speech_s > MAX_COUNTED_S})
    return Check(name="duration_s", verdict="accept", measured=seconds, limit=limit)


def level(levels: NDArray[np.float32]) -> Check:
    """Check the level of the loudest tenth of the speech, or of the loudest half second if the clip is long."""
    measured, limit = round(_loud(levels), 1), "-35 dBFS or more"
    if measured < -55:
        return _refused("level_dbfs", measured, limit, "it is nearly silent: check the microphone and its gain")
    if measured < -35:
        return _warned("level_dbfs", measured, limit, "it is too quiet, so its noise will be audible: record it louder")
    return Check(name="level_dbfs", verdict="accept", measured=measured, limit=limit)


def clipping(share: float) -> Check:
    """Check the share of samples that are clipped at full scale."""
    measured, limit = round(100 * share, 4), "0.01 % or less"
    advice = "its peaks are clipped, which makes the cloned voice harsh: record it with less gain"
    if measured > 1.0:
        return _refused("clipping_percent", measured, limit, advice)
    if measured > 0.01:
        return _warned("clipping_percent", measured, limit, advice)
    return Check(name="clipping_percent", verdict="accept", measured=measured, limit=limit)


def signal_to_noise(levels: NDArray[np.float32]) -> Check:
    """Estimate the distance between the pauses (the quietest tenth of all frames) and the speech (the loudest tenth).

    Speech has pauses and stops in every second. A clip without pauses is noise or music, or its speech is covered by
    noise or music.
    """
    quiet = float(np.percentile(levels, 10)) if len(levels) else LOWEST_DBFS
    measured, limit = round(_loud(levels) - quiet, 1), "15 dB or more"
    if measured < 6:
        return _refused("signal_to_noise_db", measured, limit, "no speech stands out: record it in a quiet room")
    if measured < 15:
        return _warned("signal_to_noise_db", measured, limit, "there is background noise, which will be cloned too")
    return Check(name="signal_to_noise_db", verdict="accept", measured=measured, limit=limit)


def silence(name: str, seconds: float) -> Check:
    """Check the silence at one end of the clip, which is cut away."""
    measured, limit = round(seconds, 2), "1 s or less; it is cut away"
    if measured > 1:
        return _warned(name, measured, limit, "it was cut away: check that the clip contains what you meant")
    return Check(name=name, verdict="accept", measured=measured, limit=limit)


def channels(count: int, *, alike: bool) -> Check:
    """Check that the channels carry the same signal; only the one in which speech stands out most is used."""
    limit = "1, or further channels that are silent or have the same voice"
    if count > 1 and not alike:
        advice = "the channel in which speech stands out most is used: check that only one person speaks"
        return _warned("channels", count, limit, advice)
    return Check(name="channels", verdict="accept", measured=count, limit=limit)


def sample_rate(rate_hz: int) -> Check:
    """Check the sample rate. The model works at 24 kHz; telephone audio (8 kHz) lacks details that identify a voice."""
    limit = "16000 Hz or more"
    if rate_hz < 16_000:
        advice = "the voice will sound like a telephone call: use a recording of 24000 Hz or more"
        return _warned("sample_rate_hz", rate_hz, limit, advice)
    return Check(name="sample_rate_hz", verdict="accept", measured=rate_hz, limit=limit)


RATES: dict[str, tuple[float, float]] = {
    "chinese": (2.0, 8.0),
    "japanese": (3.0, 12.0),
    "korean": (2.5, 10.0),
    "alphabetic": (6.0, 25.0),
}
"""Letters and digits per second of slow and fast speakers, by script; punctuation and spaces are not counted. The
ranges are wide, because they check the transcript and not the speaker."""


def transcript_rate(transcript: str | None, language: Language, speech_s: float) -> Check:
    """Check that the transcript fits the duration; a clip that is off by another factor of two is refused."""
    name = "characters_per_second"
    if transcript is None:
        advice = "only the timbre is cloned (x-vector mode); with a transcript the way of speaking is cloned too"
        return _warned(name, None, "a transcript", advice)
    low, high = RATES[_script(transcript, language)]
    spoken = sum(character.isalnum() for character in transcript)
    measured, limit = round(spoken / max(speech_s, _FRAME_S), 1), f"{low:g} to {high:g} for this language"
    advice = "the transcript does not fit the clip's length: write exactly what is said, no more and no less"
    if not low / 2 <= measured <= high * 2:
        return _refused(name, measured, limit, advice)
    if not low <= measured <= high:
        return _warned(name, measured, limit, advice)
    return Check(name=name, verdict="accept", measured=measured, limit=limit)


def _script(transcript: str, language: Language) -> str:
    """Return the applicable key of :data:`RATES`: the language's, unless the characters belong to another script."""
    names = [unicodedata.name(character, "") for character in transcript if character.isalpha()]
    wide = {
        "korean": sum(name.startswith("HANGUL") for name in names),
        "japanese": sum(name.startswith(("HIRAGANA", "KATAKANA")) for name in names),
        "chinese": sum(name.startswith("CJK") for name in names),
    }
    if 2 * sum(wide.values()) <= len(names):
        return "alphabetic"
    if language in wide:
        return language
    # Japanese mixes ideographs with kana; Chinese has no kana.
    return "japanese" if wide["japanese"] else max(wide, key=lambda script: wide[script])


def _loud(levels: NDArray[np.float32]) -> float:
    return float(np.percentile(levels, loud_percentile(len(levels)))) if len(levels) else LOWEST_DBFS


def _refused(name: str, measured: float | None, limit: str, advice: str) -> Check:
    return Check(name=name, verdict="refuse", measured=measured, limit=limit, advice=advice)


def _warned(name: str, measured: float | None, limit: str, advice: str) -> Check:
    return Check(name=name, verdict="warn", measured=measured, limit=limit, advice=advice)
