"""Who is told how a run goes: how far it is, several times a second, and single events, for a log."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from screening.crystals.pack import Tally


@dataclass(slots=True)
class Progress:
    """How far a run is. `done` rows were there before; `rows` are all that this run adds to them so far.

    `statuses` counts what this run added, `seconds` adds up the stages of its shards over all threads. Packing
    `refused` crystals which are no part of the total.
    """

    total: int
    before: int = 0
    refused: int = 0
    rows: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)
    workers: int = 0
    lost_workers: int = 0
    elapsed: float = 0.0
    dashboard: str = ""

    @property
    def done(self) -> int:
        """Rows that are done, now or before."""
        return self.before + self.rows

    @property
    def rate(self) -> float:
        """Crystals per second."""
        return self.rows / self.elapsed if self.elapsed > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """How long it will take, at the rate so far; None until there is one."""
        return (self.total - self.done) / self.rate if self.rate > 0 else None


@dataclass(frozen=True, slots=True)
class Listener:
    """`show` is called several times a second, `tell` with the kind and the facts of each event, `say` with a sentence.

    `packed` and `merged` follow what comes before and after. `stopping` is asked whether to end early: leases at work
    are then finished, and no other is begun.
    """

    show: Callable[[Progress], object] = lambda progress: None
    tell: Callable[[str, dict[str, Any]], object] = lambda kind, facts: None
    say: Callable[[str], object] = lambda text: None
    packed: Callable[[Tally], object] = lambda tally: None
    merged: Callable[[int, int], object] = lambda rows, total: None
    stopping: Callable[[], bool] = lambda: False
