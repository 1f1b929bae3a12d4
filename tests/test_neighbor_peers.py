"""The same edges as pymatgen, ASE, matscipy and vesin find, and where one of them is wrong, which and why."""

import numpy as np
import pytest
from batches import Flat, killers, laid, random_cells

from screening.ops import neighbors

CUTOFF = 4.3
# No distance of these crystals is closer to the cutoff: then rounding cannot decide.
CLEAR = 1e-6

Edges = set[tuple[int, int, int, int, int]]


def pymatgen_edges(positions, lattice, pbc, cutoff) -> Edges:
    from pymatgen.core import Lattice, Structure

    cell = Structure(
        Lattice(lattice, pbc=tuple(pbc.tolist())), ["H"] * len(positions), positions, coords_are_cartesian=True
    )
    centre, source, shift, _ = cell.get_neighbor_list(cutoff, numerical_tol=1e-9, exclude_self=True)
    return as_set(centre, source, shift)


def ase_edges(positions, lattice, pbc, cutoff) -> Edges:
    from ase.neighborlist import primitive_neighbor_list

    return as_set(*primitive_neighbor_list("ijS", pbc, lattice, positions, cutoff))


def matscipy_edges(positions, lattice, pbc, cutoff) -> Edges:
    from matscipy_neighbours import neighbour_list

    return as_set(*neighbour_list("ijS", cutoff=cutoff, positions=positions, cell=lattice, pbc=pbc))


def vesin_edges(positions, lattice, pbc, cutoff) -> Edges:
    from vesin import NeighborList

    calculator = NeighborList(cutoff=cutoff, full_list=True)
    return as_set(*calculator.compute(positions, lattice, periodic=pbc, quantities="ijS"))


def as_set(centre, source, shift) -> Edges:
    columns = np.column_stack([centre, source, np.rint(shift)]).astype(int)
    edges = {(i, j, x, y, z) for i, j, x, y, z in columns.tolist()}
    assert len(edges) == len(columns), "an edge is listed twice"
    return edges


def our_edges(cells: Flat, cutoff: float = CUTOFF) -> Edges:
    edges = neighbors.neighbor_list(*cells.arrays(), cutoff=cutoff)
    assert (np.abs(edges.edge_distance - cutoff) > CLEAR).all()
    centre = np.repeat(np.arange(len(cells.positions)), np.diff(edges.edge_offsets))
    return as_set(centre, edges.edge_source, edges.edge_shift)


PEERS = {"pymatgen": pymatgen_edges, "ase": ase_edges, "matscipy": matscipy_edges, "vesin": vesin_edges}

EMPTY = ("no crystals", "no atoms", "a mixed batch")
CELLS = {name: cells for name, cells in killers().items() if name not in EMPTY}
CELLS |= {f"random {seed}": random_cells(1, seed=100 + seed, atoms=(1, 30)) for seed in range(8)}
CELLS |= {f"skewed {seed}": random_cells(1, seed=200 + seed, atoms=(1, 12), skew=1.0) for seed in range(6)}

# pymatgen inverts the lattice, so it cannot take the zero vectors that slabs, wires and molecules come with.
NO_ZERO_VECTORS = {"slab", "wire", "molecule"}


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("name", CELLS)
def test_the_edges_are_those_that_peers_find(name, peer):
    cells = CELLS[name]
    arguments = cells.positions, cells.lattice[0], cells.pbc[0], CUTOFF
    if peer == "pymatgen" and name in NO_ZERO_VECTORS:
        with pytest.raises(np.linalg.LinAlgError):
            PEERS[peer](*arguments)
        return
    assert PEERS[peer](*arguments) == our_edges(cells)


def test_a_distance_equal_to_the_cutoff_is_outside():
    """ASE, matscipy and vesin are strict as we are; pymatgen takes what is within its tolerance beyond the cutoff."""
    cube = laid([([[0, 0, 0]], 4.0 * np.eye(3), (True, True, True))])
    found = {name: len(peer(cube.positions, cube.lattice[0], cube.pbc[0], 4.0)) for name, peer in PEERS.items()}
    assert found == {"pymatgen": 6, "ase": 0, "matscipy": 0, "vesin": 0}
    assert len(neighbors.neighbor_list(*cube.arrays(), cutoff=4.0).edge_source) == 0
