"""How far a run is: counts, the progress bar on standard error, and the summary at the end."""

import sys
import textwrap
from dataclasses import dataclass
from functools import partial
from typing import NoReturn

from tqdm import tqdm

from serve_app.cli.batch.table import Json


@dataclass(slots=True)
class Progress:
    """How far a run is.

    Attributes:
        total: texts of the table.
        earlier: texts that an earlier run has spoken.
        began_s: when the run began, on the clock of the callers.
        answered_s: when a text was last spoken or refused; at first when the run began.
        spoken: texts that this run has spoken.
        failed: texts that were refused or failed.
        cut_short: spoken texts that did not end by themselves.
        audio_s: seconds of audio of this run.
        waiting: why the service is overloaded or unreachable; empty after the next answer.
    """

    total: int
    earlier: int
    began_s: float
    answered_s: float
    spoken: int = 0
    failed: int = 0
    cut_short: int = 0
    audio_s: float = 0.0
    waiting: str = ""

    @property
    def done(self) -> int:
        """Number of texts that are done, in this run or an earlier one."""
        return self.earlier + self.spoken + self.failed

    def count(self, facts: Json, now_s: float) -> None:
        """Count a text of this run, by what the manifest says about it."""
        self.answered_s, self.waiting = now_s, ""
        if "code" in facts:
            self.failed += 1
            return
        self.spoken += 1
        self.audio_s += facts["seconds"]
        self.cut_short += facts["finish_reason"] != "eos"

    def details(self, now_s: float) -> str:
        """What the bar says after its numbers of texts."""
        failed = f"{self.failed} failed" if self.failed else ""
        rate = self._rate(now_s) if self.spoken else ""
        waiting = textwrap.shorten(self.waiting, 100, placeholder="…")
        return ", ".join(filter(None, (failed, rate, waiting)))

    def summary(self, now_s: float) -> str:
        """One line at the end of a run."""
        counts = [
            (self.spoken, "spoken"),
            (self.earlier, "spoken earlier"),
            (self.cut_short, "cut short"),
            (self.failed, "failed"),
            (self.total - self.done, "missing"),
        ]
        shown = ", ".join(f"{count} {words}" for count, words in counts if count or words == "spoken")
        audio, took = tqdm.format_interval(self.audio_s), tqdm.format_interval(now_s - self.began_s)
        return f"{self.total} texts: {shown}; {audio} of audio in {took}, {self._rate(now_s)}"

    def _rate(self, now_s: float) -> str:
        return f"{self.audio_s / max(1e-9, now_s - self.began_s):.2f} s of audio/s"


class _Lines:
    """A file for tqdm in which each state is a line of its own."""

    def write(self, text: str) -> None:
        """Write a state, without the characters that would put it over the last one."""
        if text.strip():
            print(text.strip(), file=sys.stderr, flush=True)


def bar(progress: Progress, line_period_s: float = 30.0) -> "tqdm[NoReturn]":
    """Return a bar for :func:`show`: one line that changes on a terminal; otherwise a line every ``line_period_s``."""
    # miniters: the bar also changes while no text is spoken; smoothing: the rate is that of the whole run
    new = partial(tqdm, total=progress.total, initial=progress.earlier, unit="text", miniters=0, smoothing=0)
    if sys.stderr.isatty():
        return new(dynamic_ncols=True)
    return new(file=_Lines(), mininterval=line_period_s, delay=line_period_s)


def show(shown: "tqdm[NoReturn]", progress: Progress, now_s: float) -> None:
    """Give the bar the present state; it decides whether it is time to show it."""
    shown.set_postfix_str(progress.details(now_s), refresh=False)
    shown.update(progress.done - shown.n)
