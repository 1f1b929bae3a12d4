"""How the relaxations of some rows ended, with the atoms of those that were relaxed; and the same as columns."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from screening.arrays import Bool, Float32, Float64, Int64, UInt8, UInt32
from screening.crystals.batch import Crystals
from screening.store.schema import RELAXATION, RELAXATION_COLUMNS, RELAXED_COLUMNS, Array, Ending

ROW, OFFSETS, LATTICE, POSITIONS = (column.name for column in RELAXED_COLUMNS)


@dataclass(frozen=True, slots=True, eq=False)
class RelaxedRows:
    """One entry per row, as schema.py has the columns; `lattice`, `atom_counts` and `positions` of relaxed rows only.

    What is not known is 0 or NaN.
    """

    ending: UInt8
    steps: UInt32
    energy_before: Float32
    energy: Float32
    force: Float32
    stress: Float32
    volume_change: Float32
    atom_counts: Int64
    lattice: Float64
    positions: Float64

    @classmethod
    def nothing(cls, rows: int) -> "RelaxedRows":
        """Rows that nobody relaxed."""
        nan = np.full(rows, np.nan, np.float32)
        return cls(
            ending=np.full(rows, Ending.NONE, np.uint8),
            steps=np.zeros(rows, np.uint32),
            energy_before=nan,
            energy=nan,
            force=nan,
            stress=nan,
            volume_change=nan,
            atom_counts=np.zeros(0, np.int64),
            lattice=np.zeros((0, 3, 3)),
            positions=np.zeros((0, 3)),
        )

    @classmethod
    def joined(cls, parts: Sequence["RelaxedRows"]) -> "RelaxedRows":
        """Rows end to end."""
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    @property
    def has_atoms(self) -> Bool:
        """Which rows have a relaxed crystal."""
        return has_atoms(self.ending)

    def __len__(self) -> int:
        return len(self.ending)

    def of(self, crystals: Crystals) -> Crystals:
        """Those of these crystals that were relaxed, as they are then."""
        return crystals.take(np.flatnonzero(self.has_atoms)).moved(self.lattice, self.positions)

    def without(self, rows: Int64) -> "RelaxedRows":
        """The same, but some rows, which had a crystal, count as diverged."""
        ending = self.ending.copy()
        ending[rows] = Ending.DIVERGED
        kept = np.asarray(has_atoms(ending)[self.has_atoms])
        columns = {field.name: getattr(self, field.name) for field in fields(self)}
        columns |= {"ending": ending, "atom_counts": self.atom_counts[kept], "lattice": self.lattice[kept]}
        return RelaxedRows(**columns | {"positions": self.positions[np.repeat(kept, self.atom_counts)]})

    def columns(self, start: int) -> dict[str, Array]:
        """Lay them out as the columns of a file whose first row this is."""
        numbers = (self.energy_before, self.energy, self.force, self.stress, self.volume_change)
        values = (self.ending, self.steps, *numbers)
        offsets = np.concatenate([[0], np.cumsum(self.atom_counts)])
        atoms = (np.flatnonzero(self.has_atoms) + start, offsets, self.lattice, self.positions)
        named = zip((*RELAXATION_COLUMNS, *RELAXED_COLUMNS), (*values, *atoms), strict=True)
        return {column.name: np.ascontiguousarray(array, column.dtype) for column, array in named}

    @classmethod
    def of_columns(cls, columns: Mapping[str, Array]) -> "RelaxedRows":
        """Undo `columns`."""
        names = [field.name for field in fields(cls)]
        held: dict[str, Any] = {
            name: columns[column.name] for name, column in zip(names, RELAXATION_COLUMNS, strict=False)
        }
        held |= {"atom_counts": np.diff(columns[OFFSETS]), "lattice": columns[LATTICE], "positions": columns[POSITIONS]}
        return cls(**held)

    def problems(self, ok: Bool, nsites: npt.NDArray[np.integer]) -> Iterator[str]:
        """What makes no sense about them, in words, given which rows have predictions and the atoms of each."""
        rows = len(ok)
        held = {name: len(getattr(self, name)) for name in ("steps", "energy_before", "energy", "force", "stress")}
        held |= {RELAXATION: len(self), "volume_change": len(self.volume_change)}
        wrong = [f"{name} of relaxations has {count} entries, expected {rows}" for name, count in held.items()]
        yield from (text for text, count in zip(wrong, held.values(), strict=True) if count != rows)
        if len(self) != rows:
            return
        if (ok & ~self.has_atoms).any():
            yield f"place {np.flatnonzero(ok & ~self.has_atoms)[0]} is ok, and was not relaxed"
        if not np.isin(self.ending, list(Ending)).all():
            yield f"a relaxation that ended as {self.ending.max()}, expected {', '.join(e.word for e in Ending)}"
        if not np.array_equal(self.atom_counts, nsites[self.has_atoms]):
            yield "relaxed crystals have other numbers of atoms than their rows"
        if (len(self.lattice), len(self.positions)) != (len(self.atom_counts), self.atom_counts.sum()):
            yield "relaxed crystals have more or fewer lattices or positions than crystals or atoms"
        elif not (np.isfinite(self.lattice).all() and np.isfinite(self.positions).all()):
            yield "a relaxed crystal has a coordinate that is no finite number"


def has_atoms(ending: Array) -> Bool:
    """Which of these endings leave a relaxed crystal."""
    return np.isin(ending, [ending for ending in Ending if ending.has_atoms])


def relaxed_part(columns: Mapping[str, Array], start: int, stop: int) -> dict[str, Array]:
    """The relaxed crystals of rows [start, stop), from the columns of a shard that holds more."""
    first, last = np.searchsorted(columns[ROW], [start, stop]).tolist()
    offsets = columns[OFFSETS][first : last + 1]
    return {
        ROW: columns[ROW][first:last],
        OFFSETS: offsets - offsets[0],
        LATTICE: columns[LATTICE][first:last],
        POSITIONS: columns[POSITIONS][offsets[0] : offsets[-1]],
    }
