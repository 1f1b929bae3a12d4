"""How work shows where it is: a bar on a terminal, now and then a line elsewhere; both on standard error."""

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from screening.cli.telling import clock, say

# Without a terminal, a line this often says how far the work is.
PLAIN_INTERVAL_S = 30.0


class Moment(NamedTuple):
    """Where work is: in words, and how much of how much is done, in whatever unit; the whole may be unknown."""

    words: str
    done: float
    total: float | None


Show = Callable[[Moment], None]


@contextlib.contextmanager
def shown(*, quiet: bool, last_line: bool = False) -> Iterator[Show]:
    """Give what work should call now and then; work that goes back, or begins another, begins anew.

    With `last_line` the lines say the end of each work too, however short it was.
    """
    if quiet:
        yield lambda moment: None
    elif sys.stderr.isatty():
        with _bar() as show:
            yield show
    else:
        yield _lines(last_line=last_line)


@contextlib.contextmanager
def _bar() -> Iterator[Show]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    # What has a width of its own comes first: words may be longer than the terminal is wide.
    columns = BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    with Progress(*columns, TextColumn("{task.description}"), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=None)
        last = -1.0

        def show(moment: Moment) -> None:
            nonlocal last
            if moment.done < last:
                bar.reset(task)
            last = moment.done
            bar.update(task, description=moment.words, completed=moment.done, total=moment.total)

        yield show


def _lines(*, last_line: bool) -> Show:
    told = time.monotonic()
    # What came before the first progress is no part of the work: workers started, or another run did it.
    first, started, last = 0.0, told, math.inf

    def show(moment: Moment) -> None:
        nonlocal told, first, started, last
        now = time.monotonic()
        if moment.done < last or moment.done == first:
            first, started = moment.done, now
        ends, last = moment.done == moment.total != last, moment.done
        if now - told < PLAIN_INTERVAL_S and not (last_line and ends):
            return
        told = now
        say(", ".join([moment.words, *_left(moment, moment.done - first, now - started)]))

    return show


def _left(moment: Moment, done: float, seconds: float) -> Iterator[str]:
    if moment.total is not None and done > 0:
        yield f"{clock((moment.total - moment.done) * seconds / done)} left"
