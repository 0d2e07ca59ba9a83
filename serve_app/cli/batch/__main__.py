"""``tts-batch``: speaks a table of texts with a running service, into a folder of audio files; it can be resumed.

The texts have low priority, so the service speaks them with what its listeners leave (docs/batches.md).
"""

import argparse
import sys
import time
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any

from serve_app.cli.address import add_options, given_address
from serve_app.cli.batch.folder import Folder
from serve_app.cli.batch.job import Job
from serve_app.cli.batch.progress import Progress
from serve_app.cli.batch.table import BatchError, check, rows
from serve_app.protocol.messages import FASTEST, FORMATS, SAMPLE_RATES_HZ, SLOWEST

MAX_AT_ONCE = 256


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        0 if all texts are spoken; 1 if texts failed or are missing; 130 after Ctrl-C.
    """
    arguments = _parser().parse_args(argv)
    names = ("voice", "language", "speed", "response_format", "sample_rate")
    defaults = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    try:
        total = check(arguments.table, defaults)
        with Folder(arguments.out) as folder:
            return _run(arguments, defaults, total, folder)
    except (BatchError, OSError, HTTPException) as error:
        print(f"tts-batch: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _run(arguments: argparse.Namespace, defaults: dict[str, Any], total: int, folder: Folder) -> int:
    earlier = sum(map(folder.has, rows(arguments.table, defaults)))
    progress = Progress(total, earlier, began_s=time.monotonic(), answered_s=time.monotonic())
    texts = (row for row in rows(arguments.table, defaults) if not folder.has(row))
    job = Job(given_address(arguments), arguments.timeout, arguments.patience, folder, texts, progress)
    try:
        job.run(arguments.at_once)
    finally:
        with job.lock:  # a worker may be writing a file
            job.stopped = True
            folder.tidy(rows(arguments.table, defaults))
        print(progress.summary(time.monotonic()))
        print(f"manifest: {folder.manifest}")
        if progress.done < total:
            print("run the same command again to go on", file=sys.stderr)
    return int(progress.failed > 0 or progress.done < total)


def _at_once(words: str) -> int:
    if not words.isdecimal() or not 1 <= int(words) <= MAX_AT_ONCE:
        raise argparse.ArgumentTypeError(f"{words!r} is not allowed; allowed: 1 to {MAX_AT_ONCE}")
    return int(words)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tts-batch", description="Speak a table of texts with a running service, into a folder of audio files."
    )
    parser.add_argument("table", type=Path, help='JSON lines: {"id": "a1", "text": "Hello.", "voice": "austen"}, …')
    parser.add_argument("out", type=Path, help="folder for the audio files and manifest.jsonl")
    add_options(parser)
    parser.add_argument("--voice", help="id, name or alias of a voice, for lines without one; default: the server's")
    parser.add_argument("--language", help='such as "English", for lines without one; default: the server\'s')
    parser.add_argument("--speed", type=float, help=f"{SLOWEST:g} (slow) to {FASTEST:g} (fast); default: 1")
    words = "format of the files; default: %(default)s"
    parser.add_argument("--format", dest="response_format", choices=FORMATS, default="wav", help=words)
    parser.add_argument("--sample-rate", type=int, choices=SAMPLE_RATES_HZ, help="in Hz; default: 24000")
    words = f"texts that are sent at the same time, 1 to {MAX_AT_ONCE}; default: %(default)s"
    parser.add_argument("--at-once", type=_at_once, default=16, metavar="N", help=words)
    words = "end if the service was overloaded or unreachable for so long; default: %(default)s"
    parser.add_argument("--patience", type=float, default=600.0, metavar="S", help=words)
    words = "connect again if the service sends nothing for so long; default: %(default)s"
    parser.add_argument("--timeout", type=float, default=60.0, metavar="S", help=words)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
