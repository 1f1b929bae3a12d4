"""How fast a run was, from what its shards say of themselves: when each was written, by whom, and seconds by stage."""

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt

from screening.errors import FileFormatError, InputError
from screening.store.shard import ShardFile, shard_ranges

Float64 = npt.NDArray[np.float64]

# Of more shards, every so-many-th is looked at, so that 10^5 of them take seconds.
MOST_SHARDS = 4096
# Silence of so many usual gaps between shards, and at least so many seconds, is a pause of the run.
_PAUSE_GAPS = 20.0
_PAUSE_S = 30.0


@dataclass(frozen=True, slots=True)
class Work:
    """One shard: its rows, when it was written (Unix time), by which worker, and seconds by stage."""

    rows: int
    written: float
    worker: str
    seconds: dict[str, float]


@dataclass(frozen=True)
class Pace:
    """Shards in the order they were written; each stands for `weight` of them. `unreadable` were passed over."""

    works: tuple[Work, ...]
    weight: float = 1.0
    unreadable: int = 0

    @property
    def rows(self) -> int:
        """Rows of all shards, about so many if not all were looked at."""
        return round(self.weight * sum(work.rows for work in self.works))

    @property
    def workers(self) -> list[str]:
        """Who wrote shards."""
        return sorted({work.worker for work in self.works if work.worker})

    @property
    def stages(self) -> dict[str, float]:
        """Seconds by stage, summed over all shards."""
        sums: dict[str, float] = defaultdict(float)
        for work in self.works:
            for stage, seconds in work.seconds.items():
                sums[stage] += seconds * self.weight
        return dict(sums)


@dataclass(frozen=True)
class Spell:
    """A stretch of time in which the run was at work, from and to Unix times."""

    start: float
    end: float

    @property
    def seconds(self) -> float:
        """How long it is."""
        return self.end - self.start


def pace_of(folder: Path) -> Pace | None:
    """Read the attributes of the shards in a folder; None if there are none."""
    shards = shard_ranges(folder) if folder.is_dir() else []
    if not shards:
        return None
    every = math.ceil(len(shards) / MOST_SHARDS)
    works, unreadable = [], 0
    for _, _, path in shards[::every]:
        try:
            works.append(_work(path))
        except (FileFormatError, InputError):
            unreadable += 1
    works.sort(key=lambda work: (work.written, work.worker, work.rows))
    return Pace(tuple(works), weight=len(shards) / len(shards[::every]), unreadable=unreadable)


def _work(path: Path) -> Work:
    with ShardFile(path) as file:
        try:
            timing = json.loads(file.attributes["timing"])
            seconds = {str(stage): float(value) for stage, value in timing.items()}
            written, worker = float(file.attributes["written"]), str(file.attributes["worker"])
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise FileFormatError(f"{path}: does not say when it was written ({error})") from error
        if not math.isfinite(written):
            raise FileFormatError(f"{path}: was written at {written}")
        return Work(file.stop - file.start, written, worker, {k: v for k, v in seconds.items() if v >= 0})


def spells_of(works: Sequence[Work]) -> list[Spell]:
    """Stretches of time in which shards were written, without long silence in between."""
    starts = begun(works)
    spells = []
    for first, end in _stretches(works):
        spells.append(Spell(min(starts[first:end]), works[end - 1].written))
    return spells


def begun(works: Sequence[Work]) -> list[float]:
    """When the work on each shard began: when its worker had written the one before, or as long before as is usual."""
    usual = _usual_gaps(works)
    found, silence = [], -math.inf
    for first, end in _stretches(works):
        last: dict[str, float] = {}
        for work in works[first:end]:
            alone = max(work.written - usual.get(work.worker, sum(work.seconds.values())), silence)
            found.append(last.get(work.worker, alone))
            last[work.worker] = work.written
        silence = works[end - 1].written
    return found


def _stretches(works: Sequence[Work]) -> list[tuple[int, int]]:
    """Runs of shards between silences, as ranges."""
    if not works:
        return []
    gaps = [b.written - a.written for a, b in pairwise(works)]
    longest = max(_PAUSE_S, _PAUSE_GAPS * median(gaps)) if gaps else _PAUSE_S
    cuts = [0, *(k + 1 for k, gap in enumerate(gaps) if gap > longest), len(works)]
    return list(pairwise(cuts))


def _usual_gaps(works: Sequence[Work]) -> dict[str, float]:
    """How long each worker usually takes from one shard to the next, if it wrote several."""
    written: dict[str, list[float]] = defaultdict(list)
    for work in works:
        written[work.worker].append(work.written)
    return {name: median(b - a for a, b in pairwise(times)) for name, times in written.items() if len(times) > 1}


def rates(pace: Pace, spells: Sequence[Spell], bins: int) -> Float64:
    """Crystals per second in equal bins of the time at work: pauses cut out, a shard's rows spread over its time."""
    total = sum(spell.seconds for spell in spells)
    if total <= 0:
        return np.zeros(bins)
    edges = np.linspace(0, total, bins + 1)
    sums = np.zeros(bins + 1)
    for start, work in zip(begun(pace.works), pace.works, strict=True):
        a, b = at_work(spells, start), at_work(spells, work.written)
        done = np.clip((edges - a) / max(b - a, 1e-9), 0, 1) if b > a else (edges >= b).astype(float)
        sums += done * work.rows
    found: Float64 = np.diff(sums) * pace.weight * bins / total
    return found


def at_work(spells: Sequence[Spell], moment: float) -> float:
    """Seconds at work before a moment."""
    return sum(min(max(moment - spell.start, 0.0), spell.seconds) for spell in spells)
