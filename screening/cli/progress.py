"""How long work shows where it is: a bar on a terminal, now and then a line elsewhere; both on standard error."""

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from screening.training.loop import Progress

# Without a terminal, a line this often says how far the run is.
PLAIN_INTERVAL_S = 30.0

Watch = Callable[["Progress"], None]


@contextlib.contextmanager
def training_progress(*, quiet: bool) -> Iterator[Watch]:
    """Give what training should call after each step: one run after another, such as folds, or one that goes back."""
    if quiet:
        yield lambda progress: None
    elif sys.stderr.isatty():
        with _bar() as watch:
            yield watch
    else:
        yield _plain_lines()


@contextlib.contextmanager
def _bar() -> Iterator[Watch]:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = [TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn()]
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=None)
        last = 0

        def watch(progress: "Progress") -> None:
            nonlocal last
            if progress.step <= last:
                bar.reset(task)
            last = progress.step
            bar.update(task, total=progress.steps, completed=progress.step, description=described(progress))

        yield watch


def _plain_lines() -> Watch:
    told = time.monotonic()
    # Nothing is known of the first step, before which crystals were read and teachers asked.
    started, before = math.nan, math.nan
    first, last = 0, math.inf

    def watch(progress: "Progress") -> None:
        nonlocal told, started, before, first, last
        now = time.monotonic()
        if progress.step <= last:
            started, first = (now, progress.step) if math.isnan(before) else (before, progress.step - 1)
        before, last = now, progress.step
        if now - told < PLAIN_INTERVAL_S and progress.step < progress.steps:
            return
        told = now
        # Of this process and run alone: a continued run has steps behind it that took no time here.
        made, ahead = progress.step - first, progress.steps - progress.step
        left = f", {clock((now - started) / made * ahead)} left" if made else ""
        print(f"{described(progress)}{left}", file=sys.stderr, flush=True)

    return watch


@contextlib.contextmanager
def rows_progress(what: str, *, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """Give what work on rows should call now and then, with the rows done and all rows."""
    if quiet or not sys.stderr.isatty():
        yield (lambda rows, total: None) if quiet else _row_lines(what)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = [TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda rows, total: bar.update(task, total=total, completed=rows)


def _row_lines(what: str) -> Callable[[int, int], None]:
    told = time.monotonic()

    def watch(rows: int, total: int) -> None:
        nonlocal told
        if time.monotonic() - told >= PLAIN_INTERVAL_S:
            told = time.monotonic()
            print(f"{what}: {rows:,} of {total:,} rows", file=sys.stderr, flush=True)

    return watch


def described(progress: "Progress") -> str:
    """Say where a run is: epoch, loss, rate and how it did on the validation crystals last."""
    parts = [
        f"epoch {progress.epoch}/{progress.epochs}",
        f"loss {progress.loss:.4g}",
        f"{progress.rate:,.0f} crystals/s",
        progress.validation,
    ]
    return ", ".join(part for part in parts if part)


def clock(seconds: float) -> str:
    """Seconds as hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


def say(text: str) -> None:
    """Tell on standard error, at once, what standard output is not for."""
    print(text, file=sys.stderr, flush=True)


def announce(text: str) -> None:
    """Tell something there in the name of this program, among what other programs may say."""
    say(f"screening: {text}")


def silent(text: str) -> None:
    """Tell nothing."""
