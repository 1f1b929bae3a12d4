"""Relaxation of a stream of crystals: as many at once as fit, each of which ends on its own and makes room for another.

What becomes of a crystal does not depend on what is relaxed beside it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol

import numpy as np

from screening.arrays import Bool, Float64, Int64
from screening.crystals.batch import Crystals
from screening.crystals.crystal import Crystal
from screening.crystals.together import together
from screening.errors import InputError
from screening.predictions import Target
from screening.relaxation.fire import Motion, moved
from screening.relaxation.potential import Surface
from screening.relaxation_limits import AT_ONCE, RelaxationLimits


class Outcome(StrEnum):
    """How a relaxation ended. The values are stored in files: add, never rename."""

    CONVERGED = "converged"
    TIMED_OUT = "timed_out"
    DIVERGED = "diverged"


@dataclass(frozen=True, slots=True, eq=False)
class Relaxed:
    """A crystal where its relaxation ended, after so many steps.

    `crystal` has the model's forces and stress, and its energy under the name of the target; one that diverged is where
    it last was, without them. `energy` and `energy_before` are in eV, of the whole cell; `force` is the length of the
    largest force, `stress` the largest component, NaN where there is none.
    """

    crystal: Crystal
    outcome: Outcome
    steps: int
    energy: float
    energy_before: float
    force: float
    stress: float


class Surfaces(Protocol):
    """What gives energies, forces and stresses of crystals, as a `Potential` does."""

    @property
    def energy_target(self) -> Target:
        """What the energy is, as a target."""

    def __call__(self, crystals: Crystals) -> Surface:
        """Evaluate crystals, any number of them."""


def relax(
    potential: Surfaces,
    stream: Crystals | Iterable[Crystals | Crystal],
    limits: RelaxationLimits | None = None,
    *,
    atoms: int = AT_ONCE,
) -> Iterator[Relaxed]:
    """Move crystals downhill until no force is left; give them in the order they came.

    The stream is of single crystals, or of many at a time. Crystals of `atoms` atoms move at once, or a larger one by
    itself.

    >>> with Potential(model) as potential:
    ...     for found in relax(potential, [crystals], RelaxationLimits(steps=200)):
    ...         print(found.crystal.id, found.outcome, found.energy)
    """
    if atoms < 1:
        raise InputError(f"a relaxation needs room for at least one atom, got {atoms}")
    waiting, limits = _Waiting(together(stream, taker="relax")), limits or RelaxationLimits()
    done: dict[int, Relaxed] = {}
    given = 0
    pool: _Pool | None = None
    while True:
        arrived = waiting.take(atoms - (0 if pool is None else len(pool.crystals.numbers)), any_size=not pool)
        pool = _Pool.joined(pool, arrived)
        if pool is None:
            return
        pool, ended = pool.advanced(potential, limits)
        done |= ended
        while given in done:
            yield done.pop(given)
            given += 1


class _Waiting:
    """Crystals that have not begun, numbered as they come."""

    def __init__(self, stream: Iterable[Crystals]) -> None:
        self._stream = (batch for batch in stream if len(batch))
        self._batch = next(self._stream, None)
        self._number = self._row = 0

    def take(self, atoms: int, *, any_size: bool) -> "tuple[Crystals, int] | None":
        """The next crystals, of at most so many atoms, or if need be one of any size; and the first one's number."""
        parts: list[Crystals] = []
        first = self._number
        while self._batch is not None:
            left = self._batch[self._row :]
            count = int(np.searchsorted(left.atom_offsets[1:], atoms, side="right"))
            if count == 0 and any_size and not parts:
                count = 1
            if count == 0:
                break
            parts.append(left[:count])
            atoms -= int(left.atom_offsets[count])
            self._number, self._row = self._number + count, self._row + count
            if self._row == len(self._batch):
                self._batch, self._row = next(self._stream, None), 0
        return (Crystals.joined(parts), first) if parts else None


@dataclass(frozen=True, slots=True, eq=False)
class _Pool:
    """What is being relaxed: where each crystal is, its number in the stream, its steps; what it began with.

    `before` is its energy then, `lonely` how many of its atoms had no neighbour.
    """

    crystals: Crystals
    motion: Motion
    number: Int64
    steps: Int64
    before: Float64
    lonely: Int64

    @staticmethod
    def joined(pool: "_Pool | None", arrived: "tuple[Crystals, int] | None") -> "_Pool | None":
        """The pool and the crystals that arrived."""
        if arrived is None:
            return pool
        crystals, first = arrived
        new = _Pool(
            crystals,
            Motion.of(crystals),
            first + np.arange(len(crystals)),
            np.zeros(len(crystals), np.int64),
            np.full(len(crystals), np.nan),
            np.zeros(len(crystals), np.int64),
        )
        if pool is None:
            return new
        return _Pool(
            Crystals.joined([pool.crystals, crystals]),
            pool.motion.joined(new.motion),
            np.concatenate([pool.number, new.number]),
            np.concatenate([pool.steps, new.steps]),
            np.concatenate([pool.before, new.before]),
            np.concatenate([pool.lonely, new.lonely]),
        )

    def advanced(self, potential: Surfaces, limits: RelaxationLimits) -> "tuple[_Pool | None, dict[int, Relaxed]]":
        """Look where all are, let those go that have ended, and take a step with the others."""
        surface = potential(self.crystals)
        before = np.where(self.steps == 0, surface.energy, self.before)
        lonely = np.where(self.steps == 0, surface.lonely, self.lonely)
        looks = _Looks.of(self.crystals, surface, self.motion, surface.lonely <= lonely, limits)
        ended = looks.wrong | looks.converged | (self.steps >= limits.steps)
        names = [
            Outcome.DIVERGED if bad else Outcome.CONVERGED if good else Outcome.TIMED_OUT
            for bad, good in zip(looks.wrong.tolist(), looks.converged.tolist(), strict=True)
        ]
        name = potential.energy_target.name
        found = {
            int(self.number[c]): _relaxed(self, surface, looks, before, names[c], name, int(c))
            for c in np.flatnonzero(ended)
        }
        keep = ~ended
        if not keep.any():
            return None, found
        left, motion = self.crystals.take(np.flatnonzero(keep)), self.motion.kept(self.crystals, keep)
        atoms = np.repeat(keep, self.crystals.atom_counts)
        here = Surface(surface.energy[keep], surface.forces[atoms], surface.stress[keep], surface.lonely[keep])
        there = moved(left, motion, here, moving_cells=looks.moving_cells[keep])
        return _Pool(there, motion, self.number[keep], self.steps[keep] + 1, before[keep], lonely[keep]), found


@dataclass(frozen=True, slots=True, eq=False)
class _Looks:
    """What decides about each crystal."""

    moving_cells: Bool
    wrong: Bool
    converged: Bool
    force: Float64
    stress: Float64

    @classmethod
    def of(
        cls, crystals: Crystals, surface: Surface, motion: Motion, together: Bool, limits: RelaxationLimits
    ) -> "_Looks":
        moving: Bool = np.logical_and(crystals.pbc.all(axis=1), limits.cells)
        squares = (surface.forces**2).sum(axis=1)
        force = np.sqrt(np.maximum.reduceat(squares, crystals.atom_offsets[:-1]))
        stress = np.abs(surface.stress).max(axis=(1, 2))
        finite = np.isfinite(surface.energy) & np.isfinite(force) & (np.isfinite(stress) | ~moving)
        ratio = motion.volume_ratio
        usual = (ratio > 1 / limits.swell) & (ratio < limits.swell) & together
        calm = (force < limits.force) & ((stress < limits.stress) | ~moving)
        return cls(moving, ~(finite & usual), calm & finite & usual, force, stress)


def _relaxed(
    pool: _Pool, surface: Surface, looks: _Looks, before: Float64, outcome: Outcome, target: str, c: int
) -> Relaxed:
    crystal = replace(pool.crystals[c], labels={}, forces=None, stress=None)
    energy = float(surface.energy[c])
    if outcome is not Outcome.DIVERGED:
        atoms = slice(*pool.crystals.atom_offsets[c : c + 2].tolist())
        stress = surface.stress[c]
        crystal = replace(
            crystal,
            labels={target: energy / len(crystal)},
            forces=surface.forces[atoms],
            stress=None if np.isnan(stress).any() else stress,
        )
    return Relaxed(
        crystal, outcome, int(pool.steps[c]), energy, float(before[c]), float(looks.force[c]), float(looks.stress[c])
    )
