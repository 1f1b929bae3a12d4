"""How a screen shows where it is: packing, predicting and merging, one after the other."""

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from screening.cli.pack import packing_progress
from screening.cli.progress import Moment, shown
from screening.cli.telling import say

if TYPE_CHECKING:
    from screening.crystals.pack import Tally
    from screening.runs.listener import Progress

Update = Callable[[Any], None]


class Display:
    """What follows packing, predicting and merging; a context manager."""

    def __init__(self, *, quiet: bool, total_bytes: int | None) -> None:
        self._quiet, self._total_bytes = quiet, total_bytes
        self._shown = contextlib.ExitStack()
        self._stage = ""
        self._update: Update = lambda state: None

    def packed(self, tally: "Tally") -> None:
        """Follow packing."""
        self._enter("pack", lambda: packing_progress(self._total_bytes, quiet=self._quiet))
        self._update(tally)

    def show(self, progress: "Progress") -> None:
        """Follow predicting."""
        self._enter("screen", lambda: shown(quiet=self._quiet))
        words = f"{progress.done:,} of {progress.total:,}, {_described(progress)}"
        self._update(Moment(words, progress.done, progress.total))

    def merged(self, rows: int, total: int) -> None:
        """Follow merging."""
        self._enter("merge", lambda: shown(quiet=self._quiet))
        self._update(merging(rows, total))

    def say(self, text: str) -> None:
        """Print a sentence that stays."""
        self._leave()
        if not self._quiet:
            say(text)

    def _enter(
        self, stage: str, display: Callable[[], contextlib.AbstractContextManager[Callable[[Any], None]]]
    ) -> None:
        if self._stage != stage:
            self._leave()
            self._stage, self._update = stage, self._shown.enter_context(display())

    def _leave(self) -> None:
        self._shown.close()
        self._stage = ""

    def __enter__(self) -> "Display":
        return self

    def __exit__(self, *_: object) -> None:
        self._leave()


def merging(rows: int, total: int) -> Moment:
    """Where the merge of a run's shards is."""
    return Moment(f"merged {rows:,} of {total:,} rows", rows, total)


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
    return ", ".join([*parts, *([progress.dashboard] if progress.dashboard else [])])


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
