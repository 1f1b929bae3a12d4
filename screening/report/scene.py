"""A crystal as things to draw: atoms of one cell with their images on its faces, bonds between them, and its edges.

Where an atom lies on a face of the cell, edge or corner, it is drawn on the opposite ones too, as crystallographers do.
A bond joins atoms whose distance, over the sum of their covalent radii, is nearly the smallest that either of them has:
so Ti-O of a perovskite is drawn, and Sr-O, much longer on that measure than the bonds of its oxygen, is not. Two metals
are joined only in crystals of metals alone.
"""

import math
from dataclasses import dataclass
from itertools import product

import numpy as np

from screening.arrays import Bool, Float64, Int64
from screening.crystals.crystal import Crystal
from screening.ops.neighbors import neighbor_list
from screening.report.element_looks import RADIUS

# Larger cells are drawn without images on faces; the largest in part, which the caller should say.
MOST_ATOMS = 240
MOST_BONDS = 480
AZIMUTH, TILT = math.radians(-24.0), math.radians(14.0)
# Nearer to a face than this (angstrom), an atom lies on it.
ON_FACE = 0.05
_LONGEST_BOND = 1.3
_ALIKE = 1.15
# Directions (degrees) to look at a cell from; the first that shows at least this share of its greatest width is taken.
_DIRECTIONS = (0, 90, 30, 120, 60, 150)
_BROAD = 0.75
# fmt: off
_NONMETALS = frozenset({
    1, 2, 5, 6, 7, 8, 9, 10, 14, 15, 16, 17, 18, 32, 33, 34, 35, 36, 51, 52, 53, 54, 85, 86, 117, 118,
})
# fmt: on


@dataclass(frozen=True, eq=False)
class Scene:
    """Points in angstrom around a centre of rotation at 0: atoms, pairs of them that are bonded, ends of cell edges.

    `left_out` tells how many atoms are not drawn because they are too many.
    """

    numbers: Int64
    positions: Float64
    bonds: Int64
    edges: Float64
    left_out: int

    @property
    def reach(self) -> float:
        """How far from the centre anything is drawn."""
        radii = np.array(RADIUS)[self.numbers] * 0.5
        ends = np.linalg.norm(self.positions, axis=1) + radii
        corners = np.linalg.norm(self.edges.reshape(-1, 3), axis=1)
        return max(float(ends.max(initial=0.0)), float(corners.max(initial=0.0)), 1.0)


def initial_turn() -> Float64:
    """The rotation (of row vectors) that every drawing starts with: about the vertical, then towards the viewer."""
    a, t = AZIMUTH, TILT
    about_y = np.array([[math.cos(a), 0, -math.sin(a)], [0, 1, 0], [math.sin(a), 0, math.cos(a)]])
    about_x = np.array([[1, 0, 0], [0, math.cos(t), math.sin(t)], [0, -math.sin(t), math.cos(t)]])
    turn: Float64 = about_y @ about_x
    return turn


def scene_of(crystal: Crystal) -> Scene:
    """Lay out what to draw of a crystal, turned so that its third vector stands upright."""
    pbc = np.array(crystal.pbc)
    positions = _wrapped(crystal, pbc)
    atoms, shifts = _with_images(positions, crystal.lattice, pbc)
    left_out = max(len(atoms) - MOST_ATOMS, 0)
    atoms, shifts = atoms[:MOST_ATOMS], shifts[:MOST_ATOMS]
    places = positions[atoms] + shifts @ crystal.lattice
    edges = _cell_edges(crystal.lattice, pbc)
    bonds = _bonds(crystal, positions, atoms, shifts)
    turn = _upright(edges, places, crystal.lattice, pbc)
    points = edges.reshape(-1, 3) if len(edges) else places
    centre = (points.min(axis=0) + points.max(axis=0)) / 2 if not len(edges) else points.mean(axis=0)
    return Scene(
        numbers=crystal.numbers[atoms].astype(np.int64),
        positions=(places - centre) @ turn,
        bonds=bonds if len(bonds) <= MOST_BONDS else np.empty((0, 2), np.int64),
        edges=(edges - centre) @ turn,
        left_out=left_out,
    )


def _completed(lattice: Float64, pbc: Bool) -> Float64:
    """The lattice with directions of length 1, normal to the others, where it is not periodic."""
    box = np.where(pbc[:, None], lattice, 0.0)
    if pbc.all():
        return box
    normals = list(np.linalg.svd(box)[2][int(pbc.sum()) :])
    return np.array([box[k] if pbc[k] else normals.pop() for k in range(3)])


def _wrapped(crystal: Crystal, pbc: Bool) -> Float64:
    """Positions moved into the cell; what lies on its far faces comes to the near ones."""
    box = _completed(crystal.lattice, pbc)
    fractional = crystal.positions @ np.linalg.inv(box)
    room = ON_FACE / _heights(box)
    shift = np.where(pbc, np.floor(fractional + room), 0.0)
    wrapped: Float64 = crystal.positions - shift @ box
    return wrapped


def _heights(box: Float64) -> Float64:
    """How far opposite faces of the cell are apart."""
    heights: Float64 = 1.0 / np.linalg.norm(np.linalg.inv(box), axis=0)
    return heights


def _with_images(positions: Float64, lattice: Float64, pbc: Bool) -> tuple[Int64, Int64]:
    """Atoms and the lattice vectors to their images: themselves first, then those on far faces."""
    box = _completed(lattice, pbc)
    on_face = (np.abs(positions @ np.linalg.inv(box)) * _heights(box) < ON_FACE) & pbc
    atoms, shifts = [np.arange(len(positions))], [np.zeros((len(positions), 3), np.int64)]
    for shift in product((0, 1), repeat=3):
        if any(shift):
            found = np.flatnonzero(on_face[:, np.array(shift, bool)].all(axis=1))
            atoms.append(found)
            shifts.append(np.tile(np.array(shift, np.int64), (len(found), 1)))
    if sum(map(len, atoms)) > MOST_ATOMS:
        return atoms[0], shifts[0]
    return np.concatenate(atoms), np.concatenate(shifts)


def _bonds(crystal: Crystal, positions: Float64, atoms: Int64, shifts: Int64) -> Int64:
    """Pairs of drawn atoms that are bonded, each once."""
    radius = np.array(RADIUS)[crystal.numbers]
    offsets = np.array([0, len(positions)], np.int32)
    lattice = np.ascontiguousarray(crystal.lattice[None], np.float64)
    pbc = np.array([crystal.pbc], bool)
    cutoff = 2 * _LONGEST_BOND * float(radius.max())
    found = neighbor_list(np.ascontiguousarray(positions), lattice, pbc, offsets, cutoff=cutoff, threads=1)
    centre = np.repeat(np.arange(len(positions)), np.diff(found.edge_offsets))
    source, stretch = found.edge_source, found.edge_distance / (radius[centre] + radius[found.edge_source])
    metal = ~np.isin(crystal.numbers, list(_NONMETALS))
    fitting = (stretch < _LONGEST_BOND) & (metal.all() | ~(metal[centre] & metal[source]))
    nearest = np.full(len(positions), np.inf)
    np.minimum.at(nearest, centre[fitting], stretch[fitting])
    bonded = fitting & (stretch <= _ALIKE * np.minimum(nearest[centre], nearest[source]))
    drawn = {(atom, *shift): k for k, (atom, shift) in enumerate(zip(atoms.tolist(), shifts.tolist(), strict=True))}
    by_centre: dict[int, list[tuple[int, list[int]]]] = {}
    for i, j, shift in zip(
        centre[bonded].tolist(), source[bonded].tolist(), found.edge_shift[bonded].tolist(), strict=True
    ):
        by_centre.setdefault(i, []).append((j, shift))
    pairs = set()
    for (atom, *at), k in drawn.items():
        for j, shift in by_centre.get(atom, ()):
            other = drawn.get((j, *(a + s for a, s in zip(at, shift, strict=True))))
            if other is not None and other != k:
                pairs.add((min(k, other), max(k, other)))
    return np.array(sorted(pairs), np.int64).reshape(-1, 2)


def _cell_edges(lattice: Float64, pbc: Bool) -> Float64:
    """The edges of the cell along its periodic vectors, (edges, 2, 3)."""
    vectors = lattice[pbc]
    edges = []
    for k in range(len(vectors)):
        others = np.delete(vectors, k, axis=0)
        for corner in product((0, 1), repeat=len(others)):
            start = np.array(corner, float) @ others if len(others) else np.zeros(3)
            edges.append([start, start + vectors[k]])
    return np.array(edges).reshape(-1, 2, 3)


def _upright(edges: Float64, places: Float64, lattice: Float64, pbc: Bool) -> Float64:
    """The turn (of row vectors) that brings the third lattice vector up, and a broad side of the cell to the front.

    The viewer looks along -z; x goes right, y up. The first vector comes towards the viewer, unless the cell looks thin
    from there. A left-handed lattice stays left-handed: nothing is mirrored.
    """
    up, toward = np.array([0.0, 1.0, 0.0]), np.array([0.0, 0.0, 1.0])
    if pbc.any():
        box = _completed(lattice, pbc)
        up = box[2] / np.linalg.norm(box[2])
        toward = box[0] - (box[0] @ up) * up
        toward = toward / np.linalg.norm(toward)
    aside = np.cross(up, toward)
    points = edges.reshape(-1, 3) if len(edges) else places
    turns, widths = [], []
    for angle in np.radians(_DIRECTIONS):
        forward = math.cos(angle) * toward + math.sin(angle) * aside
        turns.append(np.stack([np.cross(up, forward), up, forward], axis=1))
        widths.append(np.ptp((points @ turns[-1] @ initial_turn())[:, 0]))
    broad = next(k for k, width in enumerate(widths) if width >= _BROAD * max(widths))
    return turns[broad]
