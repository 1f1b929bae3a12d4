"""Many crystals in flat columns: what packed files hold and the native core takes.

Names, shapes and dtypes are those of docs/conventions.md. A crystal without a label holds NaN in that
label's column; a batch in which no crystal has forces or stress has no such column at all.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import overload

import numpy as np
import numpy.typing as npt

from screening.arrays import Bool, Float64, Int32, UInt8
from screening.crystals.crystal import Crystal
from screening.errors import InputError


@dataclass(frozen=True, slots=True, eq=False)
class Crystals(Sequence[Crystal]):
    """A batch of crystals: atoms of crystal c are rows [atom_offsets[c], atom_offsets[c + 1])."""

    ids: Sequence[str]
    numbers: UInt8
    positions: Float64
    lattice: Float64
    pbc: Bool
    atom_offsets: Int32
    labels: Mapping[str, Float64] = field(default_factory=dict)
    forces: Float64 | None = None
    stress: Float64 | None = None
    sources: Sequence[str] = ()

    @classmethod
    def of(cls, crystals: Iterable[Crystal]) -> "Crystals":
        """Lay single crystals end to end, in order."""
        if isinstance(crystals, Crystals):
            return crystals
        parts = list(crystals)
        atoms = np.fromiter((len(c.numbers) for c in parts), np.int64, len(parts))
        return cls(
            ids=[c.id for c in parts],
            numbers=_joined([c.numbers for c in parts], (0,), np.uint8),
            positions=_joined([c.positions for c in parts], (0, 3), np.float64),
            lattice=np.array([c.lattice for c in parts], np.float64).reshape(-1, 3, 3),
            pbc=np.array([c.pbc for c in parts], np.bool_).reshape(-1, 3),
            atom_offsets=offsets_of(atoms),
            labels=_label_columns(parts),
            forces=_optional_forces(parts),
            stress=_optional_stress(parts),
            sources=[c.source for c in parts],
        )

    @classmethod
    def joined(cls, batches: Sequence["Crystals"]) -> "Crystals":
        """Lay batches end to end, in order."""
        if len(batches) == 1:
            return batches[0]
        names = dict.fromkeys(name for batch in batches for name in batch.labels)
        with_forces = any(b.forces is not None for b in batches)
        with_stress = any(b.stress is not None for b in batches)
        return cls(
            ids=[i for b in batches for i in b.ids],
            numbers=_joined([b.numbers for b in batches], (0,), np.uint8),
            positions=_joined([b.positions for b in batches], (0, 3), np.float64),
            lattice=_joined([b.lattice for b in batches], (0, 3, 3), np.float64),
            pbc=_joined([b.pbc for b in batches], (0, 3), np.bool_),
            atom_offsets=offsets_of(np.concatenate([[0], *(b.atom_counts for b in batches)])[1:]),
            labels={
                name: np.concatenate([b.labels.get(name, np.full(len(b), np.nan)) for b in batches]) for name in names
            },
            forces=np.concatenate([_or_nan(b.forces, b.positions.shape) for b in batches]) if with_forces else None,
            stress=np.concatenate([_or_nan(b.stress, b.lattice.shape) for b in batches]) if with_stress else None,
            sources=[s for b in batches for s in (b.sources or [""] * len(b))],
        )

    @property
    def atom_counts(self) -> Int32:
        """Atoms per crystal, (crystals,)."""
        return np.diff(self.atom_offsets)

    def __len__(self) -> int:
        return len(self.lattice)

    @overload
    def __getitem__(self, index: int) -> Crystal: ...
    @overload
    def __getitem__(self, index: slice) -> "Crystals": ...
    def __getitem__(self, index: int | slice) -> "Crystal | Crystals":
        if isinstance(index, slice):
            return self._sliced(index)
        c = range(len(self))[index]
        atoms = slice(int(self.atom_offsets[c]), int(self.atom_offsets[c + 1]))
        x, y, z = self.pbc[c].tolist()
        stress = None if self.stress is None else self.stress[c]
        forces = None if self.forces is None else self.forces[atoms]
        return Crystal(
            id=self.ids[c],
            numbers=self.numbers[atoms],
            positions=self.positions[atoms],
            lattice=self.lattice[c],
            pbc=(x, y, z),
            labels={name: v for name, column in self.labels.items() if (v := float(column[c])) == v},
            forces=None if forces is None or np.isnan(forces).all() else forces,
            stress=None if stress is None or np.isnan(stress).all() else stress,
            source=self.sources[c] if self.sources else "",
        )

    def __iter__(self) -> Iterator[Crystal]:
        return (self[c] for c in range(len(self)))

    def _sliced(self, index: slice) -> "Crystals":
        start, stop, step = index.indices(len(self))
        if step != 1:
            raise InputError(f"Crystals can be sliced with step 1 only, got {step}; use take() to reorder or thin out")
        stop = max(start, stop)
        first, last = int(self.atom_offsets[start]), int(self.atom_offsets[stop])
        return Crystals(
            ids=self.ids[start:stop],
            numbers=self.numbers[first:last],
            positions=self.positions[first:last],
            lattice=self.lattice[start:stop],
            pbc=self.pbc[start:stop],
            atom_offsets=self.atom_offsets[start : stop + 1] - np.int32(first),
            labels={name: column[start:stop] for name, column in self.labels.items()},
            forces=None if self.forces is None else self.forces[first:last],
            stress=None if self.stress is None else self.stress[start:stop],
            sources=self.sources[start:stop] if self.sources else (),
        )

    def cut(self, max_atoms: int) -> "Iterator[Crystals]":
        """Cut into runs of at most so many atoms; a larger crystal is a run of its own."""
        start = 0
        while start < len(self):
            limit = int(self.atom_offsets[start]) + max_atoms
            end = max(start + 1, int(np.searchsorted(self.atom_offsets, limit, side="right")) - 1)
            yield self[start:end]
            start = end

    def take(self, rows: npt.ArrayLike) -> "Crystals":
        """The crystals at these rows, in this order."""
        chosen = np.asarray(rows, np.int64)
        counts = self.atom_counts[chosen].astype(np.int64)
        offsets = offsets_of(counts)
        start_of = np.repeat(self.atom_offsets[chosen].astype(np.int64) - offsets[:-1], counts)
        atoms = start_of + np.arange(int(offsets[-1]))
        listed = chosen.tolist()
        return Crystals(
            ids=[self.ids[c] for c in listed],
            numbers=self.numbers[atoms],
            positions=self.positions[atoms],
            lattice=self.lattice[chosen],
            pbc=self.pbc[chosen],
            atom_offsets=offsets,
            labels={name: column[chosen] for name, column in self.labels.items()},
            forces=None if self.forces is None else self.forces[atoms],
            stress=None if self.stress is None else self.stress[chosen],
            sources=[self.sources[c] for c in listed] if self.sources else (),
        )

    def moved(self, lattice: Float64, positions: Float64) -> "Crystals":
        """The same atoms in other cells and places, without what was known of the former: labels, forces, stress."""
        return Crystals(
            ids=self.ids,
            numbers=self.numbers,
            positions=np.ascontiguousarray(positions),
            lattice=np.ascontiguousarray(lattice),
            pbc=self.pbc,
            atom_offsets=self.atom_offsets,
            sources=self.sources,
        )


def offsets_of(counts: npt.ArrayLike) -> Int32:
    """Counts to the (n + 1,) i32 offsets that start at 0."""
    ends = np.cumsum(np.asarray(counts, np.int64), dtype=np.int64)
    if len(ends) and ends[-1] > np.iinfo(np.int32).max:
        raise InputError(f"a batch holds at most 2^31 - 1 atoms, got {ends[-1]}; split it")
    return np.concatenate([[0], ends]).astype(np.int32)


def _joined(parts: Sequence[npt.NDArray[np.generic]], empty: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray:  # type: ignore[type-arg]
    # Arrays in column-major order would make the joined one column-major too.
    return np.ascontiguousarray(np.concatenate(parts, dtype=dtype)) if parts else np.empty(empty, dtype)


def _label_columns(parts: Sequence[Crystal]) -> dict[str, Float64]:
    names = dict.fromkeys(name for c in parts for name in c.labels)
    return {name: np.array([c.labels.get(name, np.nan) for c in parts], np.float64) for name in names}


def _or_nan(column: Float64 | None, shape: tuple[int, ...]) -> Float64:
    return np.full(shape, np.nan) if column is None else column


def _optional_forces(parts: Sequence[Crystal]) -> Float64 | None:
    if all(c.forces is None for c in parts):
        return None
    return np.concatenate([_or_nan(c.forces, c.positions.shape) for c in parts])


def _optional_stress(parts: Sequence[Crystal]) -> Float64 | None:
    if all(c.stress is None for c in parts):
        return None
    return np.array([_or_nan(c.stress, (3, 3)) for c in parts])
