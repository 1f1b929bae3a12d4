"""How fast a run was, from what its shards say of themselves: when each was written, by whom, and seconds by stage."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

import numpy as np

from screening.arrays import Float64
from screening.store.schema import ShardNote

# Silence of so many usual gaps between shards, and at least so many seconds, is a pause of the run.
_PAUSE_GAPS = 20.0
_PAUSE_S = 30.0


@dataclass(frozen=True, slots=True)
class Spell:
    """A stretch of time in which the run was at work, from and to Unix times."""

    start: float
    end: float

    @property
    def seconds(self) -> float:
        """How long it is."""
        return self.end - self.start


@dataclass(frozen=True)
class Pace:
    """Notes on shards in the order they were written, when the work on each began, and the spells it took."""

    notes: tuple[ShardNote, ...]
    begun: tuple[float, ...]
    spells: tuple[Spell, ...]

    @property
    def rows(self) -> int:
        """Rows of all shards."""
        return sum(note.stop - note.start for note in self.notes)

    @property
    def seconds(self) -> float:
        """Seconds at work, pauses left out."""
        return sum(spell.seconds for spell in self.spells)

    @property
    def workers(self) -> list[str]:
        """Who wrote shards."""
        return sorted({note.worker for note in self.notes if note.worker})

    @property
    def stages(self) -> dict[str, float]:
        """Seconds by stage, summed over all shards."""
        sums: dict[str, float] = defaultdict(float)
        for note in self.notes:
            for stage, seconds in note.timing.items():
                sums[stage] += seconds
        return {stage: seconds for stage, seconds in sums.items() if 0 < seconds < math.inf}


def pace_of(notes: Iterable[ShardNote]) -> Pace:
    """Work out when a run was at work."""
    told = [note for note in notes if math.isfinite(note.written)]
    ordered = tuple(sorted(told, key=lambda note: (note.written, note.start)))
    stretches = _stretches(ordered)
    begun = _begun(ordered, stretches)
    spells = tuple(Spell(min(begun[first:end]), ordered[end - 1].written) for first, end in stretches)
    return Pace(ordered, tuple(begun), spells)


def _begun(notes: Sequence[ShardNote], stretches: Sequence[tuple[int, int]]) -> list[float]:
    """When the work on each shard began: when its worker had written the one before, or as long before as is usual."""
    usual = _usual_gaps(notes)
    found: list[float] = []
    silence = -math.inf
    for first, end in stretches:
        last: dict[str, float] = {}
        for note in notes[first:end]:
            alone = max(note.written - usual.get(note.worker, sum(note.timing.values())), silence)
            found.append(last.get(note.worker, alone))
            last[note.worker] = note.written
        silence = notes[end - 1].written
    return found


def _stretches(notes: Sequence[ShardNote]) -> list[tuple[int, int]]:
    """Runs of shards between silences, as ranges."""
    if not notes:
        return []
    gaps = [b.written - a.written for a, b in pairwise(notes)]
    longest = max(_PAUSE_S, _PAUSE_GAPS * median(gaps)) if gaps else _PAUSE_S
    cuts = [0, *(k + 1 for k, gap in enumerate(gaps) if gap > longest), len(notes)]
    return list(pairwise(cuts))


def _usual_gaps(notes: Sequence[ShardNote]) -> dict[str, float]:
    """How long each worker usually takes from one shard to the next, if it wrote several."""
    written: dict[str, list[float]] = defaultdict(list)
    for note in notes:
        written[note.worker].append(note.written)
    return {name: median(b - a for a, b in pairwise(times)) for name, times in written.items() if len(times) > 1}


def rates(pace: Pace, bins: int) -> Float64:
    """Crystals per second in equal bins of the time at work: pauses cut out, a shard's rows spread over its time."""
    if pace.seconds <= 0:
        return np.zeros(bins)
    edges = np.linspace(0, pace.seconds, bins + 1)
    sums = np.zeros(bins + 1)
    starts = at_work(pace.spells, pace.begun)
    ends = at_work(pace.spells, [note.written for note in pace.notes])
    for a, b, note in zip(starts.tolist(), ends.tolist(), pace.notes, strict=True):
        done = np.clip((edges - a) / (b - a), 0, 1) if b > a else (edges >= b).astype(float)
        done[0] = 0.0
        sums += done * (note.stop - note.start)
    found: Float64 = np.diff(sums) * bins / pace.seconds
    return found


def at_work(spells: Sequence[Spell], moments: Sequence[float]) -> Float64:
    """Seconds at work before each moment."""
    times = [moment for spell in spells for moment in (spell.start, spell.end)]
    lengths = [length for spell in spells for length in (0.0, spell.seconds)]
    found: Float64 = np.interp(moments, times, np.cumsum(lengths))
    return found
