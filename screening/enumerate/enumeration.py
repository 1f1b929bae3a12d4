"""Counts a specification's crystals and streams them, batch by batch, in an order that nothing but it decides.

Two passes: the first counts what each block holds, so that a sample can be drawn evenly and progress has a total; the
second builds only what was drawn. What is kept in memory is a number for each block.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from screening.arrays import UInt8
from screening.crystals.batch import Crystals
from screening.crystals.pack import Tally, pack_batches
from screening.crystals.read import ReadBatch
from screening.crystals.validate import CrystalLimits, validate
from screening.enumerate.build import Builder
from screening.enumerate.duplicates import Duplicates
from screening.enumerate.resolve import spaces_of
from screening.enumerate.sampling import Draw
from screening.enumerate.spec import Specification
from screening.errors import InputError

# Atoms of a batch: enough to outweigh the cost of a batch, few enough for the cache.
BATCH_ATOMS = 1 << 16
LIMITS = CrystalLimits()


@dataclass(slots=True)
class Funnel:
    """How many assignments of one prototype are left after each test, and how many of these are drawn."""

    label: str
    assignments: int
    neutral: int = 0
    ordered: int = 0
    tolerated: int = 0
    distinct: int = 0
    drawn: int = 0


@dataclass(slots=True)
class _Counted:
    funnel: Funnel
    blocks: list[int] = field(default_factory=list)


class Enumeration:
    """The crystals that a specification asks for; `origin` is its name, for their sources."""

    def __init__(self, specification: Specification, origin: str, *, batch_atoms: int = BATCH_ATOMS) -> None:
        self._specification = specification
        self.origin = origin
        self._batch_atoms = batch_atoms
        try:
            self.spaces = spaces_of(specification)
            self._duplicates = Duplicates(self.spaces)
        except InputError as error:
            raise InputError(f"{origin}: {error}") from error
        self._counted: list[_Counted] = []

    @property
    def funnels(self) -> list[Funnel]:
        """What became of each prototype's assignments; counts if nobody has yet."""
        if not self._counted:
            self.count()
        return [counted.funnel for counted in self._counted]

    @property
    def total(self) -> int:
        """How many crystals are drawn."""
        return sum(funnel.drawn for funnel in self.funnels)

    def count(self, progress: Callable[[int], object] = lambda assignments: None) -> list[Funnel]:
        """Test every assignment and draw the sample; after each block `progress` is told how many are tested."""
        self._counted, tested = [], 0
        for index, space in enumerate(self.spaces):
            counted = _Counted(Funnel(space.label, space.size))
            for number in range(space.blocks):
                counted.blocks.append(self._count_block(index, number, counted.funnel))
                progress(tested + space.size * (number + 1) // space.blocks)
            tested += space.size
            self._counted.append(counted)
        self._draw()
        return [counted.funnel for counted in self._counted]

    def batches(self) -> Iterator[Crystals]:
        """Build the crystals that were drawn, in order."""
        for index, space in enumerate(self.spaces):
            builder = Builder(space, self.origin, self._specification.volume_scale)
            size = max(1, self._batch_atoms // len(space.prototype))
            for elements in _gathered(self._drawn(index), size):
                yield builder.crystals(elements)

    def _count_block(self, index: int, number: int, funnel: Funnel) -> int:
        block = self.spaces[index].block(number)
        distinct = int(self._duplicates.firsts(index, block.elements).sum())
        funnel.neutral += block.neutral
        funnel.ordered += block.ordered
        funnel.tolerated += len(block.elements)
        funnel.distinct += distinct
        return distinct

    def _draw(self) -> None:
        """Draw from each prototype first, then from all of them together."""
        whole, start = self._whole, 0
        for index, counted in enumerate(self._counted):
            own = self._own(index).count
            counted.funnel.drawn = whole.before(start + own) - whole.before(start)
            start += own

    def _own(self, index: int) -> Draw:
        """The draw from one prototype; each has a seed of its own."""
        wanted = self._specification.prototype[index].max_crystals
        return Draw(self._counted[index].funnel.distinct, wanted, self._specification.seed + (index + 1) * 0x9E3779B1)

    @property
    def _whole(self) -> Draw:
        total = sum(self._own(index).count for index in range(len(self._counted)))
        return Draw(total, self._specification.max_crystals, self._specification.seed)

    def _drawn(self, index: int) -> Iterator[UInt8]:
        """The drawn assignments of one space, block by block; blocks of which none is drawn are not tested again."""
        if not self._counted:
            self.count()
        whole, own = self._whole, self._own(index)
        offset = sum(self._own(earlier).count for earlier in range(index))
        start = 0
        for number, count in enumerate(self._counted[index].blocks):
            places = own.within(start, start + count)
            first = offset + own.before(start)
            places = places[whole.within(first, first + len(places)) - first]
            if len(places):
                elements = self.spaces[index].block(number).elements
                distinct = elements[self._duplicates.firsts(index, elements)]
                yield distinct[places - start]
            start += count


def write_enumeration(
    enumeration: Enumeration,
    output: Path,
    *,
    to: str | None = None,
    rejections: Path | None = None,
    progress: Callable[[Tally], object] = lambda tally: None,
) -> Tally:
    """Check the crystals of an enumeration and write them to one output, as `pack` does."""
    if enumeration.total == 0:
        raise InputError(f"{enumeration.origin}: no crystal is left; {_where_lost(enumeration.funnels)}")
    return pack_batches(
        map(_checked, enumeration.batches()),
        output,
        to=to,
        limits=LIMITS,
        inputs=[enumeration.origin],
        rejections=rejections,
        progress=progress,
    )


def _gathered(parts: Iterator[UInt8], size: int) -> Iterator[UInt8]:
    """Join and cut parts to `size` rows each, the last one shorter."""
    waiting: list[UInt8] = []
    rows = 0
    for part in parts:
        waiting.append(part)
        rows += len(part)
        if rows >= size:
            joined = np.concatenate(waiting)
            whole = rows - rows % size
            yield from (joined[start : start + size] for start in range(0, whole, size))
            waiting, rows = [joined[whole:]], rows - whole
    if rows:
        yield np.concatenate(waiting)


def _checked(crystals: Crystals) -> ReadBatch:
    found = validate(crystals, LIMITS)
    return ReadBatch(crystals, weight=len(crystals)).refusing(found.rejected_rows, found.rejections, found.accepted)


def _where_lost(funnels: list[Funnel]) -> str:
    """Say after which test nothing was left, by prototype."""
    stages = (
        ("neutral", "none is charge neutral; see oxidation_states"),
        ("ordered", "none has distinct elements in the order of electronegativity"),
        ("tolerated", "none is in the window of the tolerance factor"),
        ("distinct", "all are the same crystals as those of earlier prototypes"),
    )
    told = []
    for funnel in funnels:
        reason = next((text for name, text in stages if getattr(funnel, name) == 0), "none was drawn")
        told.append(f"{funnel.label}: of {funnel.assignments:,} assignments {reason}")
    return "; ".join(told)
