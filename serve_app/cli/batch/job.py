"""Speaks the texts of a run with several threads, and decides when to try again and when to end."""

import random
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from http.client import HTTPConnection

from serve_app.cli.address import Address
from serve_app.cli.batch.folder import Folder
from serve_app.cli.batch.progress import Progress, bar, show
from serve_app.cli.batch.request import MAX_FAILURES, Later, Result, ask, connect, wait_s
from serve_app.cli.batch.table import BatchError, Row
from serve_app.errors import SynthesisError


@dataclass(slots=True)
class Job:
    """The texts of a run and their results, shared by its threads.

    Attributes:
        address: address of the service, with the API key.
        timeout_s: how long the service may send nothing.
        patience_s: how long it may be overloaded or unreachable before the run ends.
        folder: where the results go.
        texts: the texts without a result; each is taken once.
        progress: what was done so far.
        lock: held while the folder, the texts or what follows is used.
        stopped: no thread begins or saves anything more.
        error: why the run ended early.
    """

    address: Address
    timeout_s: float
    patience_s: float
    folder: Folder
    texts: Iterator[Row]
    progress: Progress
    lock: threading.Lock = field(default_factory=threading.Lock)
    stopped: bool = False
    error: Exception | None = None

    def run(self, at_once: int) -> None:
        """Speak the texts with ``at_once`` threads, and show the progress.

        Raises:
            BatchError: the run ended early.
            OSError: a file cannot be written.
        """
        # Daemons, because after Ctrl-C nobody waits for an answer.
        workers = [threading.Thread(target=self._work, daemon=True) for _ in range(at_once)]
        for worker in workers:
            worker.start()
        with bar(self.progress) as shown:
            while not self.stopped and any(worker.is_alive() for worker in workers):
                time.sleep(0.05)
                show(shown, self.progress, time.monotonic())
            show(shown, self.progress, time.monotonic())  # the last results
        if self.error is not None:
            raise self.error

    def _work(self) -> None:
        """Speak texts until there are no more."""
        try:
            with closing(connect(self.address, self.timeout_s)) as connection:
                while (row := self._next()) is not None:
                    self._speak(connection, row)
        except Exception as error:  # noqa: BLE001 - the main thread raises it again
            with self.lock:
                self.error = self.error or error
                self.stopped = True

    def _next(self) -> Row | None:
        with self.lock:
            return None if self.stopped else next(self.texts, None)

    def _speak(self, connection: HTTPConnection, row: Row) -> None:
        """Speak one text, however often the service is overloaded."""
        attempt = failures = 0
        while not self.stopped:
            answer = ask(connection, self.address, row.item)
            if isinstance(answer, Result) and answer.facts.get("code") == SynthesisError.code:
                failures += 1
                answer = answer if failures == MAX_FAILURES else Later(answer.facts["error"])
            self._record(row, answer)
            if isinstance(answer, Result):
                return
            connection.close()  # the service closes an idle connection
            time.sleep(wait_s(answer, attempt, random.Random()))  # noqa: S311 - spreads load
            attempt += 1

    def _record(self, row: Row, answer: Result | Later) -> None:
        """Record an answer; a BatchError if the service was unavailable for too long, or never available."""
        progress, now_s = self.progress, time.monotonic()
        with self.lock:
            if self.stopped:
                return
            if isinstance(answer, Result):
                self.folder.record(row, answer.facts, answer.audio)
                progress.count(answer.facts, now_s)
                return
            progress.waiting = answer.message
            if not answer.reached and not progress.spoken + progress.failed:
                raise BatchError(answer.message)
            if now_s - progress.answered_s > self.patience_s:
                raise BatchError(f"no text was spoken for {self.patience_s:g} s: {answer.message}")
