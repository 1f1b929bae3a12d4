"""What neighbour lists refuse, in words: settings, arrays, crystals, rows of other crystals, too little memory."""

import re

import numpy as np
import pytest
from batches import Flat, assert_same_bits, laid, random_cells

from screening import machine
from screening.errors import InputError, ResourceError
from screening.ops import core, neighbors
from screening.ops.edges import EdgeRows

pytestmark = pytest.mark.native

WHOLE = (True, True, True)


@pytest.fixture(params=core.simd_levels(), autouse=True)
def level(request):
    with core.forced_simd_level(request.param):
        yield request.param


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"cutoff": 0.0}, "cutoff must lie in"),
        ({"cutoff": float("nan")}, "cutoff must lie in"),
        ({"cutoff": "5"}, "cutoff must be a number, got '5'"),
        ({"cutoff": None}, "cutoff must be a number, got None"),
        ({"max_neighbors": 0}, "max_neighbors must be at least 1"),
        ({"max_neighbors": 12.0}, "max_neighbors must be at least 1, an integer below 2^31, or None for all, got 12.0"),
        ({"max_neighbors": 2**31}, "an integer below 2^31, or None for all, got 2147483648"),
        ({"exact": True}, "exact=True needs max_neighbors"),
        ({"threads": 0}, "threads must be at least 1"),
        ({"shell_tolerance": -1.0, "max_neighbors": 3}, "shell_tolerance must lie in"),
        ({"shell_tolerance": [1e-3]}, "shell_tolerance must be a number, got [0.001]"),
    ],
)
def test_wrong_settings_are_named(change, sentence):
    with pytest.raises(InputError, match=re.escape(sentence)):
        neighbors.neighbor_list(*random_cells(1, seed=0).arrays(), **{"cutoff": 5.0, **change})


def test_a_cutoff_to_fill_with_that_is_no_number_is_named():
    cells = random_cells(1, seed=0).arrays()
    rows = neighbors.count_edges(*cells, cutoff=5.0)
    with pytest.raises(InputError, match=re.escape("cutoff must be a number, got '5'")):
        neighbors.fill_edges(*cells, rows, cutoff="5")


def bad_cells() -> dict[str, tuple[Flat, str]]:
    cube, good = 3 * np.eye(3), [[0, 0, 0]]
    flat = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0]])
    endless = np.full((3, 3), np.inf)
    return {
        "nan": (laid([(good, cube, WHOLE), ([[0, np.nan, 0]], cube, WHOLE)]), "crystal 1: the position of atom 0"),
        "far": (laid([([[1e12, 0, 0]], cube, WHOLE)]), "crystal 0: the position of atom 0"),
        "flat": (laid([(good, flat, WHOLE)]), "crystal 0: the periodic lattice vectors enclose no volume"),
        "infinite": (laid([(good, endless, WHOLE)]), "crystal 0: a periodic lattice vector is not finite"),
    }


@pytest.mark.parametrize("name", bad_cells())
def test_unusable_crystals_are_named(name):
    cells, sentence = bad_cells()[name]
    with pytest.raises(InputError, match=re.escape(sentence)):
        neighbors.neighbor_list(*cells.arrays(), cutoff=4.0)


@pytest.mark.parametrize(("height", "cutoff"), [(0.012, 6.0), (0.02, 9.0), (4.0, 1e4)])
def test_too_many_images_are_refused_before_they_are_laid(height, cutoff):
    cells = laid([([[0, 0, 0]], 1e5 * np.eye(3), WHOLE), ([[0, 0, 0]], height * np.eye(3), WHOLE)])
    with pytest.raises(InputError, match="no neighbour list: crystal 1: the cutoff reaches too many images"):
        neighbors.count_edges(*cells.arrays(), cutoff=cutoff)


def test_wrong_arrays_are_named():
    positions, lattice, pbc, offsets = random_cells(2, seed=1).arrays()
    wrong = {
        "positions: wrong dtype": (positions.astype(np.float32), lattice, pbc, offsets),
        "positions: expected shape": (positions[:, :2].copy(), lattice, pbc, offsets),
        "positions: the array must be contiguous": (np.asfortranarray(positions), lattice, pbc, offsets),
        "pbc must have a row": (positions, lattice, pbc[:1], offsets),
        "atom_offsets must run from 0": (positions[:-1], lattice, pbc, offsets),
        "atom_offsets: wrong dtype": (positions, lattice, pbc, offsets.astype(np.int64)),
        "lattice: expected an array": (positions, lattice.tolist(), pbc, offsets),
    }
    for sentence, arrays in wrong.items():
        with pytest.raises(InputError, match=re.escape(sentence)):
            neighbors.neighbor_list(*arrays, cutoff=4.0)


def test_read_only_crystals_are_fine():
    cells = random_cells(2, seed=1).arrays()
    right = neighbors.neighbor_list(*cells, cutoff=4.0)
    for array in cells:
        array.flags.writeable = False
    assert_same_bits(neighbors.neighbor_list(*cells, cutoff=4.0), right)


def test_rows_of_other_crystals_are_refused():
    dense, sparse = random_cells(1, seed=1, atoms=(9, 9)), random_cells(1, seed=2, atoms=(9, 9), density=0.01)
    rows = neighbors.count_edges(*dense.arrays(), cutoff=5.0)
    with pytest.raises(InputError, match="counted for other crystals"):
        neighbors.fill_edges(*sparse.arrays(), rows, cutoff=5.0)


@pytest.mark.parametrize("atoms", [5, 60])
@pytest.mark.parametrize("limits", [{}, {"max_neighbors": 9}, {"max_neighbors": 9, "exact": True}], ids=str)
def test_rows_that_lack_an_edge_are_refused(limits, atoms):
    cells = random_cells(2, seed=1, atoms=(atoms, atoms)).arrays()
    rows = neighbors.count_edges(*cells, cutoff=5.0, **limits)
    for row in (0, len(cells[0]) - 1):
        for lacking in (1, rows.edge_count[row]):
            counts = rows.edge_count.copy()
            counts[row] -= lacking
            with pytest.raises(InputError, match="counted for other crystals"):
                neighbors.fill_edges(*cells, EdgeRows(counts, rows.row_cut), cutoff=5.0)


@pytest.mark.parametrize("name", bad_cells())
def test_unusable_crystals_are_named_when_rows_are_filled(name):
    cells, sentence = bad_cells()[name]
    atoms = len(cells.positions)
    with pytest.raises(InputError, match=re.escape(sentence)):
        neighbors.fill_edges(*cells.arrays(), EdgeRows(np.ones(atoms, np.int32), np.ones((atoms, 3))), cutoff=4.0)


def test_filling_rows_looks_where_atoms_and_rows_lie():
    *crystal, offsets = random_cells(1, seed=1, atoms=(9, 9)).arrays()
    rows = neighbors.count_edges(*crystal, offsets, cutoff=5.0)
    for ends in ([0, 50_000_000], [-10_000_000, 9]):
        with pytest.raises(InputError, match="atom_offsets must run from 0 to the number of atoms, 9"):
            neighbors.fill_edges(*crystal, np.array(ends, np.int32), rows, cutoff=5.0)
    counts = rows.edge_count.copy()
    counts[3], counts[4] = -counts[3], counts[4] + 2 * counts[3]
    with pytest.raises(InputError, match="edge_offsets must ascend from 0 to the number of edges"):
        neighbors.fill_edges(*crystal, offsets, EdgeRows(counts, rows.row_cut), cutoff=5.0)


def test_too_little_memory_is_said_before_it_is_taken(monkeypatch):
    rows = neighbors.count_edges(*random_cells(1, seed=1).arrays(), cutoff=5.0)
    huge = EdgeRows(np.full(9, 2**27, np.int32), rows.row_cut)
    tiny = machine.Memory(2**30, 2**20, "a test")
    monkeypatch.setattr(machine, "memory", lambda: tiny)
    with pytest.raises(ResourceError, match=r"1207959552 edges need 54\.0 GiB, 0\.0 GiB are free"):
        neighbors.fill_edges(*random_cells(1, seed=1).arrays(), huge, cutoff=5.0)
    more = EdgeRows(np.full(20, 2**27, np.int32), rows.row_cut)
    with pytest.raises(ResourceError, match=r"at most 2\^31 - 1 edges"):
        neighbors.fill_edges(*random_cells(1, seed=1).arrays(), more, cutoff=5.0)
