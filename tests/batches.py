"""Flat batches of random cells for kernels: shapes that have broken neighbour lists elsewhere, and comparisons."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from screening.arrays import Bool, Float64, Int32
from screening.ops.edges import EdgeArrays


@dataclass(frozen=True, slots=True)
class Flat:
    """The four arrays a kernel takes."""

    positions: Float64
    lattice: Float64
    pbc: Bool
    atom_offsets: Int32

    def arrays(self) -> tuple[npt.NDArray[np.generic], ...]:
        """In the order of the kernels' arguments."""
        return self.positions, self.lattice, self.pbc, self.atom_offsets

    def single(self, c: int) -> "Flat":
        """Crystal c alone."""
        atoms = slice(self.atom_offsets[c], self.atom_offsets[c + 1])
        offsets = np.array([0, self.atom_offsets[c + 1] - self.atom_offsets[c]], np.int32)
        return Flat(self.positions[atoms], self.lattice[c : c + 1], self.pbc[c : c + 1], offsets)


def laid(cells: Sequence[tuple[Any, Any, Any]]) -> Flat:
    """(positions, lattice, pbc) of single cells, end to end."""
    counts = [len(np.asarray(positions, float).reshape(-1, 3)) for positions, _, _ in cells]
    return Flat(
        np.concatenate([np.asarray(p, float).reshape(-1, 3) for p, _, _ in cells] or [np.empty((0, 3))]),
        np.array([lattice for _, lattice, _ in cells], float).reshape(-1, 3, 3),
        np.array([pbc for _, _, pbc in cells], bool).reshape(-1, 3),
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int32),
    )


def random_cells(
    count: int, *, seed: int, atoms: tuple[int, int] = (1, 20), skew: float = 0.5, density: float = 0.05
) -> Flat:
    """Cells of a solid's density with independent random atoms, some lattices left-handed, all periodic."""
    rng = np.random.default_rng(seed)
    cells = []
    for _ in range(count):
        n = int(rng.integers(atoms[0], atoms[1] + 1))
        lattice = np.eye(3) + skew * rng.uniform(-1, 1, (3, 3))
        lattice *= (n / density / abs(np.linalg.det(lattice))) ** (1 / 3)
        lattice *= rng.choice([-1, 1])
        cells.append((rng.uniform(-1, 2, (n, 3)) @ lattice, lattice, (True, True, True)))
    return laid(cells)


def rhombohedral(angle_degrees: float, length: float) -> Float64:
    """Lattice vectors of equal length with equal angles between them."""
    cosine = np.cos(np.radians(angle_degrees))
    gram = np.full((3, 3), cosine) + (1 - cosine) * np.eye(3)
    return length * np.linalg.cholesky(gram)


def killers() -> dict[str, Flat]:
    """Cells by what is hard about them."""
    rng = np.random.default_rng(11)
    whole, none = (True, True, True), (False, False, False)
    cube = 4.0 * np.eye(3)
    some = rng.uniform(0, 4, (3, 3))
    return {
        "no crystals": laid([]),
        "no atoms": laid([(np.empty((0, 3)), cube, whole)]),
        "one atom": laid([([[0.1, 0.2, 0.3]], 3.1 * np.eye(3), whole)]),
        "cutoff ten cells": laid([([[0, 0, 0]], 0.55 * np.eye(3), whole)]),
        "isolated atom": laid([([[1, 1, 1]], 40 * np.eye(3), whole)]),
        "ten degrees": laid([(rng.uniform(0, 1, (3, 3)) @ rhombohedral(10, 7.0), rhombohedral(10, 7.0), whole)]),
        "obtuse": laid([(rng.uniform(0, 1, (3, 3)) @ rhombohedral(118, 5.0), rhombohedral(118, 5.0), whole)]),
        "left-handed": laid([(some, cube[[1, 0, 2]], whole)]),
        "outside the cell": laid([(some + 1000.0 * cube[0] - 37 * cube[2], cube, whole)]),
        "slab": laid([(some, [[4, 0, 0], [1, 4, 0], [0, 0, 0]], (True, True, False))]),
        "slab with a skewed third vector": laid([(some, [[4, 0, 0], [1, 4, 0], [9, 9, 0.1]], (True, True, False))]),
        "wire": laid([(some, [[0, 0, 0], [0.3, 2.5, 0.2], [0, 0, 0]], (False, True, False))]),
        "molecule": laid([(some - 500, np.zeros((3, 3)), none)]),
        "molecule with a cell": laid([(some, cube, none)]),
        "needle": laid([(rng.uniform(0, 1, (6, 3)) @ np.diag([1.2, 1.3, 60]), np.diag([1.2, 1.3, 60.0]), whole)]),
        "plate": laid([(rng.uniform(0, 1, (20, 3)) @ np.diag([30, 30, 0.9]), np.diag([30, 30, 0.9]), whole)]),
        "atoms on one spot": laid([([[1, 1, 1], [1, 1, 1]], cube, whole)]),
        "edges of the cell": laid([(np.array([[0, 0, 0], [1, 0, 0], [1 - 1e-16, 1, 1]]) @ cube, cube, whole)]),
        "ties with the cutoff": laid([(rng.integers(0, 4, (5, 3)) * 1.0, cube, whole)]),
        "a mixed batch": laid(
            [
                (some, cube, whole),
                (np.empty((0, 3)), cube, whole),
                ([[0, 0, 0]], np.zeros((3, 3)), none),
                (some, cube, (False, True, True)),
            ]
        ),
    }


def distant() -> dict[str, Flat]:
    """Cells in which an atom is far from the others, where nothing repeats them or along a vector that is as long."""
    rng = np.random.default_rng(12)
    turned = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    some = rng.uniform(0, 3, (3, 3))
    away = [[0, 0, 0], [0, 0, 0], [0, 0, 1]] @ turned
    layer, wire, needle = np.diag([3.0, 3.2, 20]), np.diag([0.4, 1, 1]), np.diag([1.2, 1.3, 2e6])
    return {
        "layer": laid([(some @ turned + 1e4 * away, layer @ turned, (True, True, False))]),
        "layer, further": laid([(some @ turned + 9e6 * away, layer @ turned, (True, True, False))]),
        "wire": laid([([[0, 0, 0], [0, 9.9e8, 0]], wire, (True, False, False))]),
        "molecule": laid([(some + 1e8 * away, np.zeros((3, 3)), (False, False, False))]),
        "needle": laid([(some @ turned + 1e6 * away, needle @ turned, (True, True, True))]),
    }


def assert_same_edges(ours: EdgeArrays, right: EdgeArrays, *, tolerance: float = 1e-11) -> None:
    """Compare topology exactly and geometry to rounding."""
    np.testing.assert_array_equal(ours.edge_offsets, right.edge_offsets)
    np.testing.assert_array_equal(ours.edge_source, right.edge_source)
    np.testing.assert_array_equal(ours.edge_shift, right.edge_shift)
    np.testing.assert_allclose(ours.edge_vector, right.edge_vector, rtol=0, atol=tolerance)
    np.testing.assert_allclose(ours.edge_distance, right.edge_distance, rtol=0, atol=tolerance)


def assert_same_bits(ours: EdgeArrays, right: EdgeArrays) -> None:
    """Compare every array bit for bit."""
    for name, one, other in zip(EdgeArrays._fields, ours, right, strict=True):
        assert one.dtype == other.dtype
        assert one.tobytes() == other.tobytes(), f"{name} differs"
