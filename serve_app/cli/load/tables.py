"""Formats the results of a load for a terminal."""

from collections.abc import Sequence

from serve_app.cli.load.figures import MEASURES, NOT_SENT, PERCENTS, Summary
from serve_app.cli.load.knee import Slo

WIDTH = 9


def load_lines(summary: Summary, seconds: float, buffer_s: float) -> list[str]:
    """The results of one load."""
    not_sent = summary.codes.get(NOT_SENT, 0)
    failed = summary.arrivals - summary.complete - not_sent
    came = f"{summary.arrivals} arrivals in {seconds:g} s, {summary.arrivals / seconds:.2f}/s"
    lines = [
        f"{came}: {summary.complete} complete, {failed} failed, {not_sent} not sent",
        *(f"  {code}: {count}" for code, count in summary.codes.items()),
        f"{summary.audio_s:.2f} s of audio, {summary.samples} samples",
    ]
    if summary.complete:
        had = f"{summary.underruns}, in {summary.figures['underruns']:.1%} of the utterances"
        lines += [
            "",
            f"{'':<24}" + "".join(f"{name:>{WIDTH}}" for name in PERCENTS),
            *_percentile_lines(summary),
            "",
            f"underruns: {had}, {summary.silent_s:.2f} s of silence; players begin with {buffer_s * 1000:g} ms",
        ]
    return lines


def _percentile_lines(summary: Summary) -> list[str]:
    lines: list[str] = []
    for measure in MEASURES:
        values = [summary.figures.get(measure.key(name)) for name in PERCENTS]
        label = f"{measure.label}, {measure.unit}" if measure.unit else measure.label
        shown = "".join(f"{'-' if value is None else _number(value, measure.unit):>{WIDTH}}" for value in values)
        lines.append(f"{label:<24}{shown}")
    return lines


def _number(value: float, unit: str) -> str:
    return f"{value:.0f}" if unit else f"{value:.2f}"


def slo_line(slo: Slo, summary: Summary) -> str:
    """Whether the SLO was met, with each value and its limit."""
    parts = [
        f"{name} {summary.figures[name]:.4g} of {limit:g}" if name in summary.figures else f"{name} unknown"
        for name, limit in slo.limits.items()
    ]
    return f"SLO {'met' if slo.is_met(summary.figures) else 'VIOLATED'}: {', '.join(parts)}"


def step_lines(steps: Sequence[tuple[float, Summary]], slo: Slo) -> list[str]:
    """The rates that were tried, in ascending order, with the metrics of the SLO."""
    names = list(slo.limits)
    lines = [f"{'rate, 1/s':>10}{'arrivals':>10}" + "".join(f"{name:>{len(name) + 2}}" for name in names) + "  SLO"]
    for rate_hz, summary in sorted(steps, key=lambda step: step[0]):
        values = (summary.figures.get(name) for name in names)
        shown = (f"{'-' if value is None else format(value, '.4g')}" for value in values)
        columns = "".join(f"{value:>{len(name) + 2}}" for name, value in zip(names, shown, strict=True))
        met = "met" if slo.is_met(summary.figures) else "violated"
        lines.append(f"{rate_hz:>10.3g}{summary.arrivals:>10}{columns}  {met}")
    return lines


def knee_line(met_hz: float | None, violated_hz: float | None) -> str:
    """The result of the search."""
    if met_hz is None:
        return f"no rate that was tried meets the SLO; the lowest was {violated_hz:.3g}/s"
    if violated_hz is None:
        return f"{met_hz:.3g}/s meets the SLO; no higher rate was tried"
    return f"{met_hz:.3g}/s is the highest rate that met the SLO; {violated_hz:.3g}/s violated it"
