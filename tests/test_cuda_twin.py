"""The CUDA twin of the neighbour list, run on the host in lockstep, against the CPU twin: bit for bit."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from batches import Flat, assert_same_bits, distant, killers, laid, random_cells
from claimed import Claimed
from emulation import LAUNCH_FAILURE, NO_DEVICE, OUT_OF_MEMORY, Twin, built
from hypothesis import given, settings
from hypothesis import strategies as st

from screening.errors import InputError
from screening.ops import core, neighbors
from screening.ops.edges import EdgeRows

pytestmark = pytest.mark.native

WHOLE = (True, True, True)
LIMITS: list[dict[str, Any]] = [
    {},
    {"max_neighbors": 1},
    {"max_neighbors": 12},
    {"max_neighbors": 12, "exact": True},
    {"max_neighbors": 4, "exact": True, "shell_tolerance": 0.1},
    {"max_neighbors": 40, "shell_tolerance": 0.0},
]


@pytest.fixture(scope="module")
def twin(root: Path) -> Twin:
    return Twin(built(root))


@pytest.fixture(autouse=True)
def afresh(twin: Twin) -> None:
    twin.module.reset()


def assert_same_as_cpu(twin: Twin, cells: Flat, cutoff: float, limits: dict[str, Any]) -> None:
    rows = twin.count(cells, cutoff=cutoff, **limits)
    right = neighbors.count_edges(*cells.arrays(), cutoff=cutoff, **limits)
    np.testing.assert_array_equal(rows.edge_count, right.edge_count, strict=True)
    assert rows.row_cut.tobytes() == right.row_cut.tobytes()
    edges = twin.fill(cells, rows, cutoff=cutoff)
    assert_same_bits(edges, neighbors.fill_edges(*cells.arrays(), right, cutoff=cutoff))
    assert twin.module.counted()["live"] == 0


def cube_of(spacing: float, side: int) -> Flat:
    """A simple cubic crystal as a supercell: every distance comes many times."""
    points = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    return laid([(spacing * points, spacing * side * np.eye(3), WHOLE)])


def joined(*batches: Flat) -> Flat:
    single = [batch.single(c) for batch in batches for c in range(len(batch.lattice))]
    return laid([(cell.positions, cell.lattice[0], cell.pbc[0]) for cell in single])


def large_cells() -> dict[str, Flat]:
    """Crystals whose rows look into bins at the cutoffs used with them."""
    rng = np.random.default_rng(4)
    return {
        "periodic": random_cells(1, seed=3, atoms=(1000, 1000), skew=0.3, density=0.07),
        "slab": laid([(rng.uniform(0, 1, (9, 3)) * [4, 4, 12], np.diag([4.0, 4, 0]), (True, True, False))]),
        "molecule": laid([(rng.uniform(0, 99, (4200, 3)) * [1, 0.3, 0.1], np.zeros((3, 3)), (False, False, False))]),
        "a few atoms and many images": random_cells(1, seed=5, atoms=(3, 3), skew=0.4),
        "ties everywhere": cube_of(1.5, 5),
        "between others": joined(
            random_cells(3, seed=6), laid([(np.empty((0, 3)), np.eye(3), WHOLE)]), cube_of(1.2, 3), killers()["slab"]
        ),
    }


@pytest.mark.parametrize("cutoff", [1.0, 3.0, 5.3])
@pytest.mark.parametrize("name", killers())
def test_killers_equal_the_cpu(twin: Twin, name: str, cutoff: float) -> None:
    for limits in LIMITS:
        assert_same_as_cpu(twin, killers()[name], cutoff, limits)


@pytest.mark.parametrize("name", distant())
def test_atoms_far_from_the_others_equal_the_cpu(twin: Twin, name: str) -> None:
    for limits in LIMITS:
        assert_same_as_cpu(twin, distant()[name], 5.0, limits)


@pytest.mark.parametrize(("seed", "atoms", "skew"), [(0, (1, 12), 0.5), (1, (2, 8), 1.5), (2, (30, 60), 0.4)])
@pytest.mark.parametrize("limits", LIMITS, ids=str)
def test_random_cells_equal_the_cpu(
    twin: Twin, seed: int, atoms: tuple[int, int], skew: float, limits: dict[str, Any]
) -> None:
    assert_same_as_cpu(twin, random_cells(6, seed=seed, atoms=atoms, skew=skew), 6.0, limits)


@settings(max_examples=25)
@given(
    st.integers(0, 2**31),
    st.integers(1, 9),
    st.sampled_from([0.0, 0.5, 1.5]),
    st.floats(0.5, 7.0),
    st.sampled_from(LIMITS),
    st.integers(0, 9),
)
def test_any_cells_equal_the_cpu(
    twin: Twin, seed: int, atoms: int, skew: float, cutoff: float, limits: dict[str, Any], order: int
) -> None:
    twin.module.reset(order=order)
    assert_same_as_cpu(twin, random_cells(3, seed=seed, atoms=(1, atoms), skew=skew), cutoff, limits)


LARGE_CUTOFFS = {"periodic": 6.0, "slab": 50.0, "molecule": 3.0, "a few atoms and many images": 30.0}


@pytest.mark.parametrize("limits", [LIMITS[0], LIMITS[3]], ids=str)
@pytest.mark.parametrize("name", large_cells())
def test_the_bins_of_large_cells_equal_the_cpu(twin: Twin, name: str, limits: dict[str, Any]) -> None:
    assert_same_as_cpu(twin, large_cells()[name], LARGE_CUTOFFS.get(name, 11.0), limits)


@pytest.mark.parametrize("name", large_cells())
def test_large_cells_are_binned(twin: Twin, name: str) -> None:
    twin.count(random_cells(3, seed=0), cutoff=3.0)
    launches_without_bins = twin.module.counted()["launches"]
    twin.module.reset()
    twin.count(large_cells()[name], cutoff=LARGE_CUTOFFS.get(name, 11.0))
    assert twin.module.counted()["launches"] > launches_without_bins


def test_an_exact_number_inside_shells_of_binned_rows(twin: Twin) -> None:
    cells = cube_of(1.0, 3)
    limits: dict[str, Any] = {"max_neighbors": 4000, "exact": True}
    assert_same_as_cpu(twin, cells, 12.0, limits)
    rows = twin.count(cells, cutoff=12.0, **limits)
    assert np.isfinite(rows.row_cut).all()
    twin.module.reset()
    twin.fill(cells, rows, cutoff=12.0)
    assert twin.module.counted()["waits"] == 3, "rows were not binned"


@pytest.mark.parametrize("noise", [0.0, 1e-9, 1e-4])
@pytest.mark.parametrize("limits", LIMITS, ids=str)
def test_shells_blurred_by_noise_equal_the_cpu(twin: Twin, noise: float, limits: dict[str, Any]) -> None:
    sites = np.array([[0, 0, 0], [1, 1, 1], [0, 1, 1], [1, 0, 1], [1, 1, 0]]) / 2
    sites = sites + np.random.default_rng(0).normal(0, noise, (5, 3))
    assert_same_as_cpu(twin, laid([(4.0 * sites, 4.0 * np.eye(3), WHOLE)]), 7.0, limits)


@pytest.mark.parametrize("limits", LIMITS[:4], ids=str)
def test_the_order_of_lanes_and_blocks_changes_no_bit(twin: Twin, limits: dict[str, Any]) -> None:
    cells = joined(random_cells(5, seed=8), cube_of(1.2, 3), killers()["molecule"])
    for order in range(3):
        twin.module.reset(order=order)
        assert_same_as_cpu(twin, cells, 11.0, limits)


def test_neighbours_beyond_an_empty_space_take_more_rounds(twin: Twin) -> None:
    apart = laid([([[0, 0, 0], [14, 0, 0], [15, 0, 0], [0, 16, 0]], np.zeros((3, 3)), (False, False, False))])
    assert_same_as_cpu(twin, apart, 40.0, {"max_neighbors": 3})
    twin.module.reset()
    twin.count(apart, cutoff=40.0, max_neighbors=3)
    assert twin.module.counted()["waits"] > 3


def test_the_stream_is_waited_for_as_often_as_documented(twin: Twin) -> None:
    cells = random_cells(8, seed=9)
    rows = twin.count(cells, cutoff=4.0)
    assert twin.module.counted()["waits"] == 1
    twin.fill(cells, rows, cutoff=4.0)
    assert twin.module.counted()["waits"] == 1 + 2
    twin.module.reset()
    twin.count(cells, cutoff=4.0, max_neighbors=2)
    assert twin.module.counted()["waits"] == 3


# What goes wrong


@pytest.mark.parametrize(
    ("error", "raised", "words"),
    [
        (OUT_OF_MEMORY, MemoryError, "bad_alloc"),
        (LAUNCH_FAILURE, RuntimeError, "CUDA could not .*: a fault"),
        (NO_DEVICE, RuntimeError, "CUDA could not .*: no device; check that nvidia-smi lists a device"),
    ],
)
@pytest.mark.parametrize("limits", [{}, {"max_neighbors": 5, "exact": True}], ids=str)
def test_whatever_call_fails_is_reported_and_frees_everything(
    twin: Twin, error: int, raised: type[Exception], words: str, limits: dict[str, Any]
) -> None:
    cells = joined(cube_of(1.1, 2), random_cells(2, seed=1))
    twin.fill(cells, twin.count(cells, cutoff=11.0, **limits), cutoff=11.0)
    calls = twin.module.counted()["calls"]
    for call in range(calls):
        twin.module.reset(failing_call=call, error=error)
        with pytest.raises(raised, match=words):
            twin.fill(cells, twin.count(cells, cutoff=11.0, **limits), cutoff=11.0)
        assert twin.module.counted()["live"] == 0, f"call {call} of {calls} leaks when it fails"


def test_no_device_is_counted_without_raising(twin: Twin) -> None:
    assert twin.module.device_count() == 1
    twin.module.reset(failing_call=0, error=NO_DEVICE)
    assert twin.module.device_count() == 0


def broken() -> dict[str, Flat]:
    def cells(**changed: Any) -> Flat:
        good = random_cells(3, seed=2, atoms=(3, 5))
        return Flat(**{name: changed.get(name, getattr(good, name)) for name in Flat.__slots__})

    good = cells()
    lattice, singular, positions, far = (a.copy() for a in (good.lattice, good.lattice, good.positions, good.positions))
    lattice[1, 0, 0] = np.nan
    singular[2, 1] = singular[2, 0]
    positions[-2, 1] = np.inf
    far[1, 0] = -1e10
    return {
        "lattice": cells(lattice=lattice),
        "no volume": cells(lattice=singular),
        "position": cells(positions=positions),
        "far away": cells(positions=far),
        "ends": cells(atom_offsets=good.atom_offsets + 1),
        "order": cells(atom_offsets=good.atom_offsets[[0, 2, 1, 3]]),
        "two faults, the first is told": cells(lattice=singular, positions=far),
    }


@pytest.mark.parametrize("name", broken())
def test_unusable_crystals_are_told_as_by_the_cpu(twin: Twin, name: str) -> None:
    cells = broken()[name]
    words = core.native.unusable_crystal(*cells.arrays())
    assert words
    for order in range(3):
        twin.module.reset(order=order)
        with pytest.raises(ValueError, match="no neighbour list: ") as told:
            twin.count(cells, cutoff=3.0)
        assert str(told.value) == f"no neighbour list: {words}"


def test_a_cutoff_of_too_many_images_is_refused(twin: Twin) -> None:
    cells = joined(random_cells(1, seed=0), laid([([[0, 0, 0]], 0.02 * np.eye(3), WHOLE)]))
    with pytest.raises(ValueError, match=r"crystal 1: the cutoff reaches too many images of the cell") as told:
        twin.count(cells, cutoff=9.0)
    with pytest.raises(InputError, match=re.escape(str(told.value))):
        neighbors.count_edges(*cells.arrays(), cutoff=9.0)
    assert twin.module.counted()["live"] == 0


@pytest.mark.parametrize(("cutoff", "waits"), [(4.0, 2), (16.0, 3)])
@pytest.mark.parametrize("limits", [{}, {"max_neighbors": 6000, "exact": True}], ids=str)
def test_rows_of_other_crystals_are_refused(twin: Twin, limits: dict[str, Any], cutoff: float, waits: int) -> None:
    cells = cube_of(1.1, 2)
    rows = twin.count(cells, cutoff=cutoff, **limits)
    rows.row_cut[:, :2] *= 0.95
    twin.module.reset()
    with pytest.raises(ValueError, match="counted for other crystals or another cutoff"):
        twin.fill(cells, rows, cutoff=cutoff)
    assert twin.module.counted() | {"waits": waits, "live": 0} == twin.module.counted()


@pytest.mark.parametrize("cutoff", [4.0, 16.0])
@pytest.mark.parametrize("limits", [{}, {"max_neighbors": 60, "exact": True}], ids=str)
def test_rows_that_lack_an_edge_are_refused(twin: Twin, limits: dict[str, Any], cutoff: float) -> None:
    cells = cube_of(1.1, 2)
    rows = twin.count(cells, cutoff=cutoff, **limits)
    for lacking in (1, rows.edge_count[5]):
        counts = rows.edge_count.copy()
        counts[5] -= lacking
        with pytest.raises(ValueError, match="counted for other crystals or another cutoff"):
            twin.fill(cells, EdgeRows(counts, rows.row_cut), cutoff=cutoff)
        assert twin.module.counted()["live"] == 0


@pytest.mark.parametrize("changed", [{3: -2}, {0: -1}, {8: 1}], ids=str)
def test_rows_outside_the_edges_are_refused(twin: Twin, changed: dict[int, int]) -> None:
    cells = cube_of(1.1, 2)
    rows = twin.count(cells, cutoff=2.0)
    offsets = np.concatenate([[0], np.cumsum(rows.edge_count)]).astype(np.int32)
    edges = int(offsets[-1])
    for place, change in changed.items():
        offsets[place] = offsets[place] + change * rows.edge_count[0]
    with pytest.raises(ValueError, match="edge_offsets must ascend from 0 to the number of edges"):
        twin.module.neighbor_fill(
            *cells.arrays(),
            cutoff=2.0,
            edge_offsets=offsets,
            row_cut=rows.row_cut,
            edge_source=np.empty(edges, np.int32),
            edge_shift=np.empty((edges, 3), np.int32),
            edge_vector=np.empty((edges, 3)),
            edge_distance=np.empty(edges),
        )


# The pieces


@pytest.mark.parametrize("length", [0, 1, 31, 255, 4095, 4096, 4097, 20000])
def test_scanning_sums_what_comes_before(twin: Twin, length: int) -> None:
    counts = np.random.default_rng(length).integers(0, 2**31 - 1, length).astype(np.int32)
    sums = np.empty(length + 1, np.int64)
    twin.module.scan(counts, sums)
    np.testing.assert_array_equal(sums, np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]))


@given(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=300), st.integers(0, 5))
def test_sorting_by_a_warp_sorts(twin: Twin, values: list[int], order: int) -> None:
    twin.module.reset(order=order)
    array = np.array(values, np.int32)
    twin.module.sort(array)
    np.testing.assert_array_equal(array, np.sort(np.array(values, np.int32)))


def test_lanes_that_part_are_found(twin: Twin) -> None:
    nothing = np.zeros(32, np.int32)
    with pytest.raises(RuntimeError, match="the lanes of a warp part: thread 16 has ended"):
        twin.module.break_rule("ballot", nothing)
    with pytest.raises(RuntimeError, match="some threads of a block have ended, others wait at"):
        twin.module.break_rule("barrier", nothing)


def test_a_missing_barrier_shows_in_another_order(twin: Twin) -> None:
    results = []
    for order in (0, 1):
        twin.module.reset(order=order)
        values = np.arange(32, dtype=np.int32)
        twin.module.break_rule("race", values)
        results.append(values)
    assert not np.array_equal(*results)


# Without a device


def test_atoms_of_no_crystal_are_refused_before_a_device_is_asked() -> None:
    cells = np.zeros((2, 3)), np.zeros((0, 3, 3)), np.zeros((0, 3), bool), np.zeros(1, np.int32)
    out = {"edge_count": Claimed(np.empty(2, np.int32)), "row_cut": Claimed(np.empty((2, 3)))}
    rule = {"cutoff": 3.0, "max_neighbors": 0, "whole_shells": True, "shell_tolerance": 1e-3}
    with pytest.raises(ValueError, match="2 atoms belong to no crystal"):
        core.native.neighbor_count(*map(Claimed, cells), **rule, **out, threads=1, stream=0)


def test_arrays_on_a_device_that_is_not_there_are_refused_in_words() -> None:
    if core.cuda_device_count() > 0:
        pytest.skip("there is a CUDA device here, which would read host memory")
    cells = random_cells(2, seed=0)
    atoms = len(cells.positions)
    out = {"edge_count": Claimed(np.empty(atoms, np.int32)), "row_cut": Claimed(np.empty((atoms, 3)))}
    compiled = "CUDA could not .*; check that nvidia-smi lists a device here, or pass arrays on the CPU"
    words = compiled if core.cuda_compiled() else "this build has no CUDA kernels: put nvcc on PATH and rebuild"
    with pytest.raises(RuntimeError, match=words):
        core.native.neighbor_count(
            *[Claimed(array) for array in cells.arrays()],
            cutoff=3.0,
            max_neighbors=0,
            whole_shells=True,
            shell_tolerance=1e-3,
            threads=1,
            stream=0,
            **out,
        )
