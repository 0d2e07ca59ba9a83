"""Plots a load or the steps of a search. Only this module uses matplotlib, and only if a plot is requested."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serve_app.cli.load.figures import COMPLETE, Summary, Utterance
from serve_app.cli.load.knee import Slo

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".svg", ".png")
MAX_SHOWN = 3
"""Values above this multiple of the limit, and unknown ones, are plotted at this multiple."""


class PictureError(ValueError):
    """The plot cannot be made; the message says why."""


def check(path: Path) -> None:
    """Check before the load that the plot can be made.

    Raises:
        PictureError: the suffix is not allowed, or matplotlib is not installed.
    """
    if path.suffix not in SUFFIXES:
        raise PictureError(f"--plot {path}: the suffix must be {' or '.join(SUFFIXES)}")
    if importlib.util.find_spec("matplotlib") is None:
        raise PictureError("--plot needs matplotlib: pip install 'qwen3-tts-serve[load]'")


def draw_load(utterances: Sequence[Utterance], path: Path) -> None:
    """Time to first audio of each utterance over time, with failures, and the distribution of these times."""
    figure = _figure()
    by_time, distribution = figure.subplots(1, 2, width_ratios=(3, 2))
    complete = [one for one in utterances if one.code == COMPLETE and one.ttfa_s is not None]
    heard = [one for one in complete if one.audible_s is not None]
    waits_ms = [(one.ttfa_s or 0.0) * 1000 for one in complete]
    audible_ms = [(one.audible_s or 0.0) * 1000 for one in heard]
    by_time.plot([one.at_s for one in complete], waits_ms, ".", label="TTFA")
    by_time.plot([one.at_s for one in heard], audible_ms, ".", markersize=3, label="audible TTFA")
    failed = [one.at_s for one in utterances if one.code != COMPLETE]
    by_time.plot(failed, [0.0] * len(failed), "rx", label="failed or not sent")
    by_time.set(xlabel="arrival, s", ylabel="ms", ylim=(0, None))
    for values, label in ((waits_ms, "TTFA"), (audible_ms, "audible TTFA")):
        shares = [(number + 1) / len(values) for number in range(len(values))]
        distribution.step(sorted(values), shares, where="post", label=label)
    distribution.set(xlabel="ms", ylabel="share of utterances", xlim=(0, None), ylim=(0, 1))
    _save(figure, path)


def draw_steps(steps: Sequence[tuple[float, Summary]], slo: Slo, path: Path) -> None:
    """Each value as a share of its limit, by rate; the highest rate is reached where the first line crosses 1."""
    figure = _figure()
    panel = figure.subplots()
    ordered = sorted(steps, key=lambda step: step[0])
    rates_hz = [rate_hz for rate_hz, _ in ordered]
    for name in slo.limits:
        used = [min(MAX_SHOWN, slo.used(summary.figures)[name]) for _, summary in ordered]
        panel.plot(rates_hz, used, ".-", label=name, clip_on=False)
    panel.axhline(1, color="black", linewidth=0.8)
    panel.set(xlabel="arrivals per second", ylabel=f"share of the limit ({MAX_SHOWN} or more)", ylim=(0, MAX_SHOWN))
    panel.set_xticks(rates_hz, [f"{rate_hz:.3g}" for rate_hz in rates_hz])
    _save(figure, path)


def _figure() -> "Figure":
    import matplotlib as mpl  # noqa: PLC0415 - optional
    from matplotlib.figure import Figure  # noqa: PLC0415 - optional

    mpl.rcParams.update({"svg.hashsalt": "tts-load", "svg.fonttype": "none", "font.size": 9})
    return Figure(figsize=(8, 3.5), layout="constrained")


def _save(figure: "Figure", path: Path) -> None:
    for panel in figure.axes:
        panel.legend()
    metadata: dict[str, Any] = {"Date": None} if path.suffix == ".svg" else {}
    figure.savefig(path, metadata=metadata)
