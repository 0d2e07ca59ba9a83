"""``tts-load``: measures what listeners of a running service hear under load, and the highest rate that it can serve.

It runs many clients of dialect B. The modules of this package send, play and summarize; docs/load.md explains the
results.
"""

import argparse
import asyncio
import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from serve_app.cli.address import Address, add_options, given_address
from serve_app.cli.load import picture
from serve_app.cli.load.arrivals import (
    MAX_TEXT_CHARACTERS,
    Arrival,
    ArrivalsError,
    Speech,
    poisson,
    span_s,
    trace,
)
from serve_app.cli.load.client import Target, load
from serve_app.cli.load.figures import Summary, Utterance, summarize
from serve_app.cli.load.knee import Search, Slo, SloError, Step, bracket, next_rate, parse_slo
from serve_app.cli.load.tables import knee_line, load_lines, slo_line, step_lines
from serve_app.cli.outputs import OutputError, check_writable

TEXT = "It is good to hear you, and to speak to you again after such a long time."
DEFAULT_SLO = "ttfa_p95_ms=500,underruns=0.01,errors=0.01"
MAX_FILE_BYTES = 64 << 20
MIN_ARRIVALS = 5
"""Minimum number of expected arrivals in a step of the search; fewer would say nothing about its rate."""


class LoadError(Exception):
    """The command cannot run; the message is for a terminal."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        0 if the load ran and the SLO was met; 1 if the SLO was violated or no utterance was complete; 2 if the options
        are invalid.
    """
    arguments = _parser().parse_args(argv)
    try:
        if arguments.plot is not None:
            picture.check(arguments.plot)
        for path in filter(None, (arguments.plot, arguments.json)):
            check_writable(path)
        slo = parse_slo(arguments.slo) if arguments.slo else None
        if arguments.find_knee:
            return find_knee(arguments, slo or parse_slo(DEFAULT_SLO))
        return one_load(arguments, slo)
    except (LoadError, ArrivalsError, SloError, OutputError, picture.PictureError, OSError) as error:
        print(f"tts-load: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("tts-load: interrupted", file=sys.stderr)
        return 130


def one_load(arguments: argparse.Namespace, slo: Slo | None) -> int:
    """Run one load, print its table, and report whether the SLO was met."""
    if arguments.trace is None:
        arrivals = poisson(arguments.rate, arguments.seconds, _speech(arguments), arguments.seed)
        seconds = arguments.seconds
    else:
        arrivals = trace(_lines(arguments.trace), arguments.seed)
        seconds = span_s(arrivals)
    utterances, summary = _made(arrivals, _target(arguments))
    print("\n".join(load_lines(summary, seconds, arguments.buffer_ms / 1000)))
    is_met = slo is None or slo.is_met(summary.figures)
    if slo is not None:
        print(slo_line(slo, summary))
    if arguments.plot is not None:
        picture.draw_load(utterances, arguments.plot)
    _write(
        arguments.json,
        {
            "url": arguments.url.url,
            "seconds": seconds,
            "buffer_ms": arguments.buffer_ms,
            "slo": None if slo is None else {"limits": slo.limits, "met": is_met},
            "promise": None if slo is None else {"limits": slo.limits, "kept": is_met},  # until the next release
            "summary": dataclasses.asdict(summary),
            "utterances": [dataclasses.asdict(one) for one in utterances],
        },
    )
    return 0 if is_met and summary.complete else 1


def find_knee(arguments: argparse.Namespace, slo: Slo) -> int:
    """Run loads at different rates to find the highest one that meets the SLO."""
    if arguments.trace is not None:
        raise LoadError("--find-knee must be able to change the rate, so it cannot be used with --trace")
    lowest_hz = MIN_ARRIVALS / arguments.seconds
    search = Search(arguments.rate, lowest_hz, max(arguments.max_rate, lowest_hz), arguments.max_steps)
    speech, target = _speech(arguments), _target(arguments)
    deadline_s = time.monotonic() + 60 * arguments.max_minutes
    tried: list[tuple[float, Summary]] = []
    steps: list[Step] = []
    while (rate_hz := next_rate(steps, search)) is not None and time.monotonic() < deadline_s:
        _, summary = _made(poisson(rate_hz, arguments.seconds, speech, arguments.seed), target)
        tried.append((rate_hz, summary))
        steps.append(Step(rate_hz, slo.is_met(summary.figures)))
        print(f"{rate_hz:.3g}/s: {slo_line(slo, summary)}", file=sys.stderr)
    met_hz, violated_hz = bracket(steps)
    print("\n".join([*step_lines(tried, slo), "", knee_line(met_hz, violated_hz)]))
    if arguments.plot is not None:
        picture.draw_steps(tried, slo, arguments.plot)
    _write(
        arguments.json,
        {
            "url": arguments.url.url,
            "seconds": arguments.seconds,
            "buffer_ms": arguments.buffer_ms,
            "slo": slo.limits,
            "met_hz": met_hz,
            "violated_hz": violated_hz,
            # The next three have their old names, until the next release.
            "promise": slo.limits,
            "kept_hz": met_hz,
            "broken_hz": violated_hz,
            "steps": [
                {"rate_hz": rate_hz, "met": step.met, "kept": step.met, "summary": dataclasses.asdict(summary)}
                for (rate_hz, summary), step in zip(tried, steps, strict=True)
            ],
        },
    )
    return 0 if met_hz is not None else 1


def _made(arrivals: Sequence[Arrival], target: Target) -> tuple[list[Utterance], Summary]:
    utterances = asyncio.run(load(arrivals, target))
    return utterances, summarize(utterances)


def _target(arguments: argparse.Namespace) -> Target:
    address: Address = given_address(arguments)
    return Target(address.socket(), address.key, arguments.max_sessions, arguments.timeout, arguments.buffer_ms / 1000)


def _speech(arguments: argparse.Namespace) -> Speech:
    texts = [arguments.text or TEXT]
    if arguments.texts is not None:
        texts = [line.strip() for line in _lines(arguments.texts) if line.strip()]
    if not texts or max(map(len, texts)) > MAX_TEXT_CHARACTERS:
        raise LoadError(f"texts: need at least one, each with at most {MAX_TEXT_CHARACTERS} characters")
    return Speech(texts, arguments.voice, arguments.language)


def _lines(path: Path) -> list[str]:
    """The lines of a text file.

    Raises:
        LoadError: the file is too large, or not a text file.
    """
    if path.stat().st_size > MAX_FILE_BYTES:
        raise LoadError(f"{path} has {path.stat().st_size} bytes; the limit is {MAX_FILE_BYTES}")
    try:
        return path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise LoadError(f"{path} is not UTF-8: {error}") from error


def _write(path: Path | None, document: dict[str, Any]) -> None:
    if path is not None:
        path.write_text(json.dumps(document, indent=1, default=dict) + "\n")


def _positive(words: str) -> float:
    value = float(words)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{words}: must be a number above 0")
    return value


def _not_negative(words: str) -> float:
    value = float(words)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{words}: must be a number, 0 or more")
    return value


def _count(words: str) -> int:
    value = int(words)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{words}: must be a whole number above 0")
    return value


class _OldName(argparse.Action):
    """Accepts an option by the name that it had before, and says so."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        """Store the value, as the new name does."""
        del parser
        print(f"tts-load: {option_string} is now --{self.dest}; the next release drops the old name", file=sys.stderr)
        setattr(namespace, self.dest, values)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tts-load", description="Load a running service and measure what is heard.")
    add_options(parser, ("--api-key", "--key"))
    come = parser.add_argument_group("arrivals")
    come.add_argument("--rate", type=_positive, default=1.0, metavar="HZ", help="arrivals per second; default: 1")
    come.add_argument("--seconds", type=_positive, default=30.0, metavar="S", help="length of the load; default: 30")
    come.add_argument("--seed", type=int, default=1, metavar="N", help="the same seed is the same load; default: 1")
    come.add_argument("--trace", type=Path, metavar="FILE", help='JSON lines {"at_s", "text", "voice", "language"}')
    come.add_argument("--max-sessions", type=_count, default=256, metavar="N", help="concurrent; default: 256")
    said = parser.add_argument_group("speech")
    said.add_argument("--text", help="one text for all")
    said.add_argument("--texts", type=Path, metavar="FILE", help="one text per line, chosen at random")
    said.add_argument("--voice", help="a voice's id; default: the server's")
    said.add_argument("--language", help='such as "English"; default: the server\'s')
    heard = parser.add_argument_group("measurement")
    heard.add_argument("--buffer-ms", type=_not_negative, default=100.0, metavar="MS", help="of a player; default: 100")
    heard.add_argument("--timeout", type=_positive, default=60.0, metavar="S", help="per utterance; default: 60")
    heard.add_argument("--slo", metavar="FIGURES", help=f"an SLO such as {DEFAULT_SLO}")
    heard.add_argument("--promise", dest="slo", action=_OldName, help=argparse.SUPPRESS)  # until the next release
    heard.add_argument("--json", type=Path, metavar="FILE", help="save all results, including each utterance")
    heard.add_argument("--plot", type=Path, metavar="FILE", help="save a plot, .svg or .png; needs matplotlib")
    knee = parser.add_argument_group("finding the highest rate")
    knee.add_argument(
        "--find-knee", action="store_true", help="find the highest rate that meets the SLO, starting at --rate"
    )
    knee.add_argument("--max-rate", type=_positive, default=100.0, metavar="HZ", help="highest rate; default: 100")
    knee.add_argument("--max-steps", type=_count, default=12, metavar="N", help="most rates to try; default: 12")
    knee.add_argument("--max-minutes", type=_positive, default=15.0, metavar="M", help="no new rate after; default: 15")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
