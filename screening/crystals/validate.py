"""Refuses crystals that no model should see, each with a reason code and a sentence.

The checks run in this order, each on the crystals that passed the one before, so that a crystal has one reason
and no bad number reaches a later computation: empty, too many atoms, unknown element, non-finite, tiny volume,
atoms too close. Duplicate ids are the reader's business (read.py), because they concern a whole run.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from screening.arrays import Float64, Int64
from screening.crystals.batch import Crystals
from screening.crystals.crystal import Reason, Rejection
from screening.crystals.elements import SYMBOLS
from screening.errors import InputError
from screening.ops.neighbors import count_edges, fill_edges

Refusal = tuple[int, str]

# A float64 this large still resolves 1e-9 angstrom; beyond it, distances to neighbours lose their digits.
LARGEST_COORDINATE = 1e7
# Faces of a cell closer than this make its images uncountable. Cells with vectors of some angstrom get here only
# when sheared by several hundred lattice vectors.
SMALLEST_HEIGHT = 0.01
# Up to this size, even atoms that all lie on one point give few enough pairs to list them all.
CROWD = 64
MEASURES = {1: "length is {:.3g} angstrom", 2: "area is {:.3g} square angstrom", 3: "volume is {:.3g} cubic angstrom"}


@dataclass(frozen=True, slots=True)
class CrystalLimits:
    """What a crystal must keep to.

    `min_distance` (angstrom): the shortest bond known is 0.74 (H2), so that 0.5 only refuses mistakes.
    `min_volume_per_atom` (cubic angstrom): the densest crystals at normal pressure have 5.7 (diamond), hydrides at
    200 GPa about 3, metallic hydrogen 1; the usual mistakes (fractional or zero lattice, wrong unit) are far below.
    `max_atoms` per crystal; None for any number.
    """

    min_distance: float = 0.5
    min_volume_per_atom: float = 0.5
    max_atoms: int | None = None

    def __post_init__(self) -> None:
        for name in ("min_distance", "min_volume_per_atom"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise InputError(f"{name} must be a finite number of at least 0, got {value}")
        if self.min_distance > 10:
            raise InputError(f"min_distance must be at most 10 angstrom, got {self.min_distance}")
        if self.max_atoms is not None and self.max_atoms < 1:
            raise InputError(f"max_atoms must be at least 1 (or None for no limit), got {self.max_atoms}")


@dataclass(frozen=True, slots=True, eq=False)
class Validated:
    """The accepted crystals in order, the rejections in order, and the rows the rejected ones had in the batch.

    `unusable` names what accepted crystals had that is no finite number, and became missing.
    """

    accepted: Crystals
    rejections: list[Rejection]
    rejected_rows: Int64
    unusable: list[str]


def validate(crystals: Crystals, limits: CrystalLimits | None = None) -> Validated:
    """Sort a batch into accepted crystals and rejections.

    Labels that are not finite become missing (NaN), and so do the forces or the stress of a crystal in which one
    component is not finite: the crystal itself is fine.
    """
    limits = limits or CrystalLimits()
    rows = np.arange(len(crystals))
    kept = crystals
    refused: dict[int, Rejection] = {}
    for reason, check in CHECKS:
        refusals = list(check(kept, limits))
        for k, message in refusals:
            id = kept.ids[k]
            source = kept.sources[k] if kept.sources else ""
            refused[int(rows[k])] = Rejection(id, source, reason, f"{id}: {message}")
        if refusals:
            staying = np.delete(np.arange(len(kept)), [k for k, _ in refusals])
            rows, kept = rows[staying], kept.take(staying)
    order = sorted(refused)
    rejections, rejected_rows = [refused[row] for row in order], np.array(order, np.int64)
    return Validated(_with_finite_labels(kept), rejections, rejected_rows, _unusable(kept))


def _empty(crystals: Crystals, limits: CrystalLimits) -> Iterator[Refusal]:
    for row in np.flatnonzero(crystals.atom_counts == 0).tolist():
        yield row, "has no atoms; check that its sites were written"


def _too_many_atoms(crystals: Crystals, limits: CrystalLimits) -> Iterator[Refusal]:
    if limits.max_atoms is None:
        return
    counts = crystals.atom_counts
    for row in np.flatnonzero(counts > limits.max_atoms).tolist():
        yield row, f"has {counts[row]} atoms (maximum {limits.max_atoms}); raise max_atoms or leave it out"


def _unknown_element(crystals: Crystals, limits: CrystalLimits) -> Iterator[Refusal]:
    unknown = (crystals.numbers == 0) | (crystals.numbers >= len(SYMBOLS))
    for row, atom in _first_atoms(crystals, unknown):
        number = crystals.numbers[crystals.atom_offsets[row] + atom]
        yield row, f"atom {atom} has the atomic number {number} (1 to {len(SYMBOLS) - 1} exist); name its element"


def _non_finite(crystals: Crystals, limits: CrystalLimits) -> Iterator[Refusal]:
    cure = f"expected a number below {LARGEST_COORDINATE:.0e} angstrom; check the file for missing or overflowed values"
    # The comparison is false for NaN, so that its negation catches NaN, infinite and huge alike.
    bad_lattice = ~(np.abs(crystals.lattice) <= LARGEST_COORDINATE)
    in_lattice = np.flatnonzero(bad_lattice.any(axis=(1, 2))).tolist()
    for row in in_lattice:
        vector, axis = np.argwhere(bad_lattice[row])[0]
        yield (
            row,
            f"component {'xyz'[axis]} of lattice vector {vector} is {crystals.lattice[row, vector, axis]}; {cure}",
        )
    bad = ~(np.abs(crystals.positions) <= LARGEST_COORDINATE)
    for row, atom in _first_atoms(crystals, bad.any(axis=1)):
        if row not in in_lattice:
            place = int(crystals.atom_offsets[row]) + atom
            axis = int(np.flatnonzero(bad[place])[0])
            yield row, f"coordinate {'xyz'[axis]} of atom {atom} is {crystals.positions[place, axis]}; {cure}"


def _tiny_volume(crystals: Crystals, limits: CrystalLimits) -> Iterator[Refusal]:
    """Measure the periodic part of each cell: volume per atom, or the area or length of a partly periodic cell.

    Layers and wires have no volume of their own, so that their area or length must have room for one atom only.
    """
    periodic = crystals.pbc.sum(axis=1)
    size, heights = _sizes(crystals)
    size = np.where(periodic == 3, size / np.maximum(crystals.atom_counts, 1), size)
    minimum = limits.min_volume_per_atom ** (np.where(periodic == 3, 3, periodic) / 3)
    tiny = (periodic > 0) & ((size < minimum) | (size == 0))
    for row in np.flatnonzero(tiny).tolist():
        measure = MEASURES[int(periodic[row])].format(size[row])
        per_atom = " per atom" if periodic[row] == 3 else ""
        yield row, f"{measure}{per_atom} (minimum {minimum[row]:.3g}); check the lattice vectors and their unit"
    for row in np.flatnonzero(~tiny & (heights < SMALLEST_HEIGHT).any(axis=1)).tolist():
        axis = int(heights[row].argmin())
        yield (
            row,
            (
                f"the cell is flat: its faces across lattice vector {axis} are {heights[row, axis]:.2g} angstrom apart "
                f"(minimum {SMALLEST_HEIGHT}); check the lattice vectors"
            ),
        )


def _atoms_too_close(crystals: Crystals, limits: CrystalLimits) -> Iterator[Refusal]:
    if limits.min_distance == 0 or len(crystals) == 0:
        return
    crowded = _crowded(crystals, limits.min_distance)
    rest = np.delete(np.arange(len(crystals)), list(crowded))
    searched = crystals.take(rest) if crowded else crystals
    closest = {int(rest[row]): pair for row, pair in _closest_pairs(searched, limits.min_distance).items()}
    for row, (distance, first, second) in (crowded | closest).items():
        what = f"atoms {first} and {second} are" if first != second else f"atom {first} and its periodic image are"
        cure = "the file for duplicated sites" if first != second else "the lattice vectors"
        yield row, f"{what} {distance:.2g} angstrom apart (minimum {limits.min_distance:g}); check {cure}"


CHECKS: tuple[tuple[Reason, Callable[[Crystals, CrystalLimits], Iterator[Refusal]]], ...] = (
    (Reason.EMPTY, _empty),
    (Reason.TOO_MANY_ATOMS, _too_many_atoms),
    (Reason.UNKNOWN_ELEMENT, _unknown_element),
    (Reason.NON_FINITE, _non_finite),
    (Reason.TINY_VOLUME, _tiny_volume),
    (Reason.ATOMS_TOO_CLOSE, _atoms_too_close),
)


def _closest_pairs(crystals: Crystals, cutoff: float) -> dict[int, tuple[float, int, int]]:
    """For each crystal with atoms nearer than the cutoff: the smallest distance and the two atoms, the lower first."""
    if len(crystals) == 0:
        return {}
    arrays = crystals.positions, crystals.lattice, crystals.pbc, crystals.atom_offsets
    rows = count_edges(*arrays, cutoff=cutoff, threads=1)
    if not rows.edge_count.any():
        return {}
    edges = fill_edges(*arrays, rows, cutoff=cutoff, threads=1)
    centre = np.repeat(np.arange(len(crystals.numbers)), np.diff(edges.edge_offsets))
    once = np.flatnonzero(centre <= edges.edge_source)
    return _best_of(crystals, centre[once], edges.edge_source[once].astype(np.int64), edges.edge_distance[once])


def _crowded(crystals: Crystals, min_distance: float) -> dict[int, tuple[float, int, int]]:
    """Large crystals in which two atoms share a box whose diagonal is the minimum distance, with such a pair.

    Ten thousand atoms on one point have a hundred million pairs. Refusing crowds first leaves at most one atom per
    box, and so keeps the list of all pairs linear in the number of atoms.
    """
    large = np.flatnonzero(crystals.atom_counts > CROWD)
    if len(large) == 0:
        return {}
    chosen = crystals.take(large)
    wrapped = _wrapped(chosen)
    crystal = np.repeat(np.arange(len(chosen)), chosen.atom_counts)
    box = np.floor(wrapped / (min_distance * 0.999 / np.sqrt(3))).astype(np.int64)
    order = np.lexsort((*box.T, crystal))
    keys = np.column_stack([crystal, box])[order]
    same = np.flatnonzero((keys[1:] == keys[:-1]).all(axis=1))
    first, second = np.sort([order[same], order[same + 1]], axis=0)
    pairs = _best_of(chosen, first, second, np.linalg.norm(wrapped[first] - wrapped[second], axis=1))
    return {int(large[row]): pair for row, pair in pairs.items()}


def _best_of(crystals: Crystals, first: Int64, second: Int64, distance: Float64) -> dict[int, tuple[float, int, int]]:
    """Of these pairs of atoms, the closest in each crystal, with atoms counted within it; ties go to the lowest."""
    crystal = np.searchsorted(crystals.atom_offsets, first, side="right") - 1
    order = np.lexsort((second, first, distance, crystal))
    rows, start = np.unique(crystal[order], return_index=True)
    best = order[start]
    base = crystals.atom_offsets[rows]
    columns = (distance[best], first[best] - base, second[best] - base)
    return dict(zip(rows.tolist(), zip(*(c.tolist() for c in columns), strict=True), strict=True))


def _sizes(crystals: Crystals) -> tuple[Float64, Float64]:
    """Measure the cell spanned by the periodic vectors, and its height along each of them (infinite along others).

    A height is the distance between two opposite faces: the measure of the cell over that of the face.
    """
    vectors = np.where(crystals.pbc[:, :, None], crystals.lattice, 0.0)
    normals = np.cross(vectors[:, [1, 2, 0]], vectors[:, [2, 0, 1]])
    lengths, areas = np.linalg.norm(vectors, axis=2), np.linalg.norm(normals, axis=2)
    # With two periodic vectors two of the three normals vanish, with one the lengths of the others do.
    measures = [np.ones(len(vectors)), lengths.sum(1), areas.sum(1), np.abs((vectors[:, 0] * normals[:, 0]).sum(1))]
    faces = [np.ones_like(lengths), np.ones_like(lengths), lengths[:, [1, 2, 0]] + lengths[:, [2, 0, 1]], areas]
    periodic = crystals.pbc.sum(axis=1)
    size, face = np.choose(periodic, measures), np.choose(periodic[:, None], faces)
    heights = np.full_like(lengths, np.inf)
    np.divide(size[:, None], face, out=heights, where=crystals.pbc & (face > 0))
    return size, heights


def _wrapped(crystals: Crystals) -> Float64:
    """Positions moved into the cell along its periodic vectors."""
    vectors = np.where(crystals.pbc[:, :, None], crystals.lattice, 0.0)
    counts = crystals.atom_counts
    to_fractional = np.repeat(np.linalg.pinv(vectors), counts, axis=0)
    cells = np.floor(np.einsum("ai,aij->aj", crystals.positions, to_fractional))
    moves: Float64 = np.einsum("ai,aij->aj", cells, np.repeat(vectors, counts, axis=0))
    return crystals.positions - moves


def _first_atoms(crystals: Crystals, marked: Any) -> list[tuple[int, int]]:
    """For each crystal with a marked atom, its row and the first such atom, counted within it."""
    atoms = np.flatnonzero(marked)
    crystal = np.searchsorted(crystals.atom_offsets, atoms, side="right") - 1
    rows, start = np.unique(crystal, return_index=True)
    return list(zip(rows.tolist(), (atoms[start] - crystals.atom_offsets[rows]).tolist(), strict=True))


def _unusable(crystals: Crystals) -> list[str]:
    """Name labels that are infinite, and forces and stresses that are not finite in part: NaN alone means missing."""
    found = [
        (row, name) for name, column in crystals.labels.items() for row in np.flatnonzero(np.isinf(column)).tolist()
    ]
    if crystals.forces is not None and not _all_finite(crystals.forces):
        ends = crystals.atom_offsets
        for row, _ in _first_atoms(crystals, ~np.isfinite(crystals.forces).all(1)):
            if not np.isnan(crystals.forces[ends[row] : ends[row + 1]]).all():
                found.append((row, "the forces"))
    if crystals.stress is not None:
        bad = ~np.isfinite(crystals.stress).all(axis=(1, 2)) & ~np.isnan(crystals.stress).all(axis=(1, 2))
        found += [(row, "the stress") for row in np.flatnonzero(bad).tolist()]
    return [f"{name} of {crystals.ids[row]}" for row, name in sorted(found, key=lambda one: one[0])]


def _all_finite(forces: Float64) -> bool:
    """Whether there are forces, and all are numbers: nearly always so, and far cheaper to ask than atom by atom."""
    return bool(forces.size and np.isfinite(forces).all())


def _with_finite_labels(crystals: Crystals) -> Crystals:
    labels = {name: np.where(np.isfinite(column), column, np.nan) for name, column in crystals.labels.items()}
    labels = {name: column for name, column in labels.items() if not np.isnan(column).all()}
    forces, stress = crystals.forces, crystals.stress
    bad: Any
    if forces is not None and not _all_finite(forces):
        bad = np.isin(np.arange(len(crystals)), [row for row, _ in _first_atoms(crystals, ~np.isfinite(forces).all(1))])
        forces = np.where(np.repeat(bad, crystals.atom_counts)[:, None], np.nan, forces) if bad.any() else forces
        forces = None if bad.all() else forces
    if stress is not None:
        bad = ~np.isfinite(stress).all(axis=(1, 2))
        stress = np.where(bad[:, None, None], np.nan, stress) if bad.any() else stress
        stress = None if bad.all() else stress
    return replace(crystals, labels=labels, forces=forces, stress=stress)
