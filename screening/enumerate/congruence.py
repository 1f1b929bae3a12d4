"""Which geometries are the same but for their size and the names of their sites.

Two coloured geometries are taken for the same when their primitive cells have equally many atoms of each colour in the
same space group and, scaled to one atom per unit volume, every list of distances between two colours agrees entry by
entry. That is coarser than congruence only for geometries whose distances all agree, which mirror images do too.
"""

import contextlib
import itertools
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import moyopy
import numpy as np

from screening.arrays import Float64, Int64
from screening.crystals import symmetry
from screening.ops.neighbors import neighbor_list

# In units of the cube root of the volume per atom. Within the reach lie 113 neighbours on average. Real crystals of
# one prototype differ by 0.05 and more, what rounding and another source of the same prototype change is below 0.02.
REACH = 3.0
SAME = 0.02
# The scaled cell, for tolerances in angstrom: about 10 cubic angstrom per atom.
ANGSTROM = 10.0 ** (1 / 3)


@dataclass(frozen=True, eq=False)
class Geometry:
    """A coloured geometry, as comparisons see it.

    `counts` are the atoms of each colour in the primitive cell; `distances[c, d]` the sorted distances below `REACH`
    from atoms of colour c to atoms of colour d.
    """

    group: int
    counts: tuple[int, ...]
    distances: Mapping[tuple[int, int], Float64]

    @property
    def kind(self) -> tuple[int, tuple[int, ...]]:
        """What equal geometries have in common, to look them up by."""
        return self.group, tuple(sorted(self.counts))


def geometry_of(lattice: Float64, fractional: Float64, colours: Int64) -> Geometry:
    """Describe a geometry; colours are 0, 1, ... without gaps."""
    scaled = lattice * (len(colours) / abs(float(np.linalg.det(lattice)))) ** (1 / 3)
    # Colours are passed off as elements.
    with _unlogged():
        found = moyopy.MoyoDataset(
            moyopy.Cell((scaled * ANGSTROM).tolist(), fractional.tolist(), (colours + 1).tolist()),
            symprec=symmetry.TOLERANCE,
        )
    cell = found.prim_std_cell
    kinds = np.array(cell.numbers) - 1
    basis = np.array(cell.basis, np.float64)
    basis *= (len(kinds) / abs(float(np.linalg.det(basis)))) ** (1 / 3)
    return Geometry(
        group=found.number,
        counts=tuple(np.bincount(kinds, minlength=int(colours.max()) + 1).tolist()),
        distances=_distances(basis, np.array(cell.positions, np.float64), kinds),
    )


@contextlib.contextmanager
def _unlogged() -> Iterator[None]:
    """Keep moyo from warning that a cell is not primitive, which repeated colours make it."""
    logger = logging.getLogger("moyo")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _distances(lattice: Float64, fractional: Float64, colours: Int64) -> dict[tuple[int, int], Float64]:
    offsets = np.array([0, len(colours)], np.int32)
    periodic = np.ones((1, 3), np.bool_)
    edges = neighbor_list(fractional @ lattice, lattice[None], periodic, offsets, cutoff=REACH, threads=1)
    centre = np.repeat(colours, np.diff(edges.edge_offsets))
    source = colours[edges.edge_source]
    every = range(int(colours.max()) + 1)
    pairs = itertools.product(every, every)
    return {(c, d): np.sort(edges.edge_distance[(centre == c) & (source == d)]) for c, d in pairs}


def mappings(ours: Geometry, theirs: Geometry, *, tolerance: float = SAME) -> Iterator[tuple[int, ...]]:
    """Yield every way to rename our colours as theirs so that the geometries are the same: theirs = mapping[ours]."""
    if ours.kind != theirs.kind:
        return
    yield from _extended((), ours, theirs, tolerance)


def _extended(
    mapping: tuple[int, ...], ours: Geometry, theirs: Geometry, tolerance: float
) -> Iterator[tuple[int, ...]]:
    """Rename colour by colour, each as it fits to those before it."""
    c = len(mapping)
    if c == len(ours.counts):
        yield mapping
        return
    for new in range(len(theirs.counts)):
        if new in mapping or ours.counts[c] != theirs.counts[new]:
            continue
        longer = (*mapping, new)
        pairs = ((c, d) for d in range(c + 1))
        if all(_agree(ours.distances[p, q], theirs.distances[longer[p], longer[q]], tolerance) for p, q in pairs):
            yield from _extended(longer, ours, theirs, tolerance)


def _agree(ours: Float64, theirs: Float64, tolerance: float) -> bool:
    """Compare two sorted lists; at the reach, one may hold what has just left the other."""
    length = max(len(ours), len(theirs))
    a, b = (np.pad(lengths, (0, length - len(lengths)), constant_values=REACH) for lengths in (ours, theirs))
    return bool(np.abs(a - b).max(initial=0.0) <= tolerance)
