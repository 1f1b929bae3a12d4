"""How a screen shows where it is: bars on a terminal, now and then a line elsewhere; both on standard error."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from screening.cli.pack import packing_progress
from screening.cli.progress import clock

if TYPE_CHECKING:
    from screening.crystals.pack import Tally
    from screening.runs.listener import Progress

# Without a terminal, a line this often says how far the run is.
PLAIN_INTERVAL_S = 30.0


class Display:
    """What follows packing, predicting and merging, one after the other; a context manager."""

    def __init__(self, *, quiet: bool, total_bytes: int | None) -> None:
        self._quiet, self._total_bytes = quiet, total_bytes
        self._shown = contextlib.ExitStack()
        self._stage = ""
        self._update: Callable[..., None] = lambda *arguments: None

    def packed(self, tally: "Tally") -> None:
        """Follow packing."""
        self._enter("pack", lambda: packing_progress(self._total_bytes, quiet=self._quiet))
        self._update(tally)

    def show(self, progress: "Progress") -> None:
        """Follow predicting."""
        self._enter("screen", lambda: _shown(_described, progress.total, self._quiet))
        self._update(progress, progress.done)

    def merged(self, rows: int, total: int) -> None:
        """Follow merging."""
        self._enter("merge", lambda: _shown(lambda rows: "merging", total, self._quiet))
        self._update(rows, rows)

    def say(self, text: str) -> None:
        """Print a sentence that stays."""
        self._leave()
        if not self._quiet:
            print(text, file=sys.stderr, flush=True)

    def _enter(self, stage: str, shown: Callable[[], "contextlib.AbstractContextManager[Callable[..., None]]"]) -> None:
        if self._stage != stage:
            self._leave()
            self._stage, self._update = stage, self._shown.enter_context(shown())

    def _leave(self) -> None:
        self._shown.close()
        self._stage = ""

    def __enter__(self) -> "Display":
        return self

    def __exit__(self, *_: object) -> None:
        self._leave()


@contextlib.contextmanager
def _shown(described: Callable[..., str], total: int, quiet: bool) -> Iterator[Callable[..., None]]:
    if quiet:
        yield lambda *arguments: None
    elif sys.stderr.isatty():
        with _bar(described, total) as update:
            yield update
    else:
        yield _plain_lines(described, total)


@contextlib.contextmanager
def _bar(described: Callable[..., str], total: int) -> Iterator[Callable[..., None]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    columns = [BarColumn(), TaskProgressColumn(), TextColumn("{task.description}")]
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total)

        def update(state: object, done: int) -> None:
            bar.update(task, completed=done, description=described(state))

        yield update


def _plain_lines(described: Callable[..., str], total: int) -> Callable[..., None]:
    told = time.monotonic()

    def update(state: object, done: int) -> None:
        nonlocal told
        now = time.monotonic()
        if now - told >= PLAIN_INTERVAL_S:
            told = now
            print(f"{done:,} of {total:,}, {described(state)}", file=sys.stderr, flush=True)

    return update


def _described(progress: "Progress") -> str:
    if not progress.workers and not progress.rows:
        parts = ["workers are starting"]
    else:
        parts = [f"{progress.rate:,.0f} crystals/s", _counted(progress.workers, "worker")]
    if progress.before:
        parts.append(f"{progress.before:,} done before")
    parts += [f"{count:,} {status}" for status, count in sorted(progress.statuses.items(), reverse=True)]
    if progress.refused:
        parts.append(f"{progress.refused:,} refused by packing")
    if progress.lost_workers:
        parts.append(f"{_counted(progress.lost_workers, 'worker')} lost")
    if progress.seconds_left is not None:
        parts.append(f"{clock(progress.seconds_left)} left")
    return ", ".join([*parts, *([progress.dashboard] if progress.dashboard else [])])


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
