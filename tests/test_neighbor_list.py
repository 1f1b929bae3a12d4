"""The native neighbour list against the reference, at every SIMD level, and against what geometry demands."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from batches import Flat, assert_same_bits, assert_same_edges, distant, killers, laid, random_cells
from hypothesis import given
from hypothesis import strategies as st

from screening.errors import InputError
from screening.ops import core, neighbors, reference
from screening.ops.edges import EdgeArrays

pytestmark = pytest.mark.native

WHOLE = (True, True, True)
# Far above rounding, far below the distance between unrelated random numbers.
ROUNDING = 1e-8


@pytest.fixture(params=core.simd_levels(), autouse=True)
def level(request):
    with core.forced_simd_level(request.param):
        yield request.param


@pytest.mark.parametrize("cutoff", [1.0, 3.0, 5.3])
@pytest.mark.parametrize("name", killers())
def test_killers_equal_the_reference(name, cutoff):
    cells = killers()[name].arrays()
    assert_same_edges(neighbors.neighbor_list(*cells, cutoff=cutoff), reference.neighbor_list(*cells, cutoff=cutoff))


@pytest.mark.parametrize(("seed", "atoms", "skew"), [(0, (1, 12), 0.5), (1, (2, 8), 1.5), (2, (30, 60), 0.4)])
@pytest.mark.parametrize("cutoff", [2.0, 5.0, 8.0])
def test_random_cells_equal_the_reference(seed, atoms, skew, cutoff):
    cells = random_cells(6, seed=seed, atoms=atoms, skew=skew).arrays()
    assert_same_edges(neighbors.neighbor_list(*cells, cutoff=cutoff), reference.neighbor_list(*cells, cutoff=cutoff))


@pytest.mark.parametrize("limits", [{}, {"max_neighbors": 12}], ids=str)
@pytest.mark.parametrize("name", distant())
def test_an_atom_far_from_the_others_costs_nothing(name, limits):
    cells, limits = distant()[name].arrays(), {"cutoff": 5.0, **limits}
    ours, right = neighbors.neighbor_list(*cells, **limits), reference.neighbor_list(*cells, **limits)
    assert_same_edges(ours, right, tolerance=1e-6)  # coordinates of 10^9 are known to 10^-7


@pytest.mark.parametrize("skew", [0.1, 0.8])
@pytest.mark.parametrize("limits", [{}, {"max_neighbors": 12}, {"max_neighbors": 12, "exact": True}])
def test_the_grid_of_large_cells_equals_the_reference_on_a_sample(skew, limits):
    cells = random_cells(1, seed=3, atoms=(2000, 2000), skew=skew, density=0.07).arrays()
    ours = neighbors.neighbor_list(*cells, cutoff=4.5, **limits)
    sample = np.arange(0, 2000, 190)
    right = reference.neighbor_list(*cells, cutoff=4.5, only=frozenset(sample.tolist()), **limits)
    assert_same_edges(rows_of(ours, sample), rows_of(right, sample))


def rows_of(edges: EdgeArrays, atoms: np.ndarray) -> EdgeArrays:
    """The edges of some atoms alone."""
    counts = np.diff(edges.edge_offsets)[atoms]
    chosen = np.concatenate([np.arange(edges.edge_offsets[i], edges.edge_offsets[i + 1]) for i in atoms])
    return EdgeArrays(np.concatenate([[0], np.cumsum(counts)]), *(column[chosen] for column in edges[1:]))


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("max_neighbors", [1, 4, 12, 40])
def test_truncation_equals_the_reference(max_neighbors, exact):
    for cells in [random_cells(12, seed=4), random_cells(2, seed=5, atoms=(60, 80)), *killers().values()]:
        limits = {"cutoff": 5.0, "max_neighbors": max_neighbors, "exact": exact}
        assert_same_edges(
            neighbors.neighbor_list(*cells.arrays(), **limits), reference.neighbor_list(*cells.arrays(), **limits)
        )


def test_levels_give_the_same_bits(level):
    cells = random_cells(20, seed=7).arrays()
    for limits in ({}, {"max_neighbors": 12}, {"max_neighbors": 12, "exact": True}):
        ours = neighbors.neighbor_list(*cells, cutoff=6.0, **limits)
        with core.forced_simd_level("baseline"):
            assert_same_bits(ours, neighbors.neighbor_list(*cells, cutoff=6.0, **limits))


@pytest.mark.parametrize("limits", [{}, {"max_neighbors": 9}])
def test_threads_change_no_bit(limits):
    crystals = random_cells(40, seed=8)
    large = random_cells(1, seed=9, atoms=(1600, 1600))
    for cells in (crystals.arrays(), large.arrays()):
        one = neighbors.neighbor_list(*cells, cutoff=5.0, threads=1, **limits)
        for threads in (2, 5):
            assert_same_bits(neighbors.neighbor_list(*cells, cutoff=5.0, threads=threads, **limits), one)


@pytest.mark.parametrize("limits", [{}, {"max_neighbors": 6}, {"max_neighbors": 6, "exact": True}])
def test_a_batch_equals_its_singles_bit_for_bit(limits):
    cells = random_cells(15, seed=10)
    batch = neighbors.neighbor_list(*cells.arrays(), cutoff=5.0, **limits)
    for c in range(len(cells.lattice)):
        single = neighbors.neighbor_list(*cells.single(c).arrays(), cutoff=5.0, **limits)
        atoms = slice(cells.atom_offsets[c], cells.atom_offsets[c + 1] + 1)
        ends = batch.edge_offsets[atoms]
        edges = slice(ends[0], ends[-1])
        part = EdgeArrays(
            ends - ends[0],
            batch.edge_source[edges] - cells.atom_offsets[c],
            batch.edge_shift[edges],
            batch.edge_vector[edges],
            batch.edge_distance[edges],
        )
        assert_same_bits(part, single)


# Properties


def cells_of(seed: int, atoms: int, skew: float) -> Flat:
    return random_cells(1, seed=seed, atoms=(atoms, atoms), skew=skew)


def distances(edges: EdgeArrays) -> list[np.ndarray]:
    return [np.sort(row) for row in np.split(edges.edge_distance, edges.edge_offsets[1:-1])]


def away_from(cutoff: float, edges: EdgeArrays) -> bool:
    """Whether no distance is so close to the cutoff that rounding could decide."""
    return bool((np.abs(edges.edge_distance - cutoff) > ROUNDING).all())


def assert_same_distances(ours: list[np.ndarray], right: list[np.ndarray]) -> None:
    assert len(ours) == len(right)
    for one, other in zip(ours, right, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=ROUNDING)


shapes = st.tuples(st.integers(0, 2**31), st.integers(1, 9), st.sampled_from([0.0, 0.5, 1.2]))
cutoffs = st.sampled_from([1.7, 4.1, 6.3])


@given(shapes, cutoffs)
def test_every_edge_has_its_exact_reverse(shape, cutoff):
    cells = cells_of(*shape)
    edges = neighbors.neighbor_list(*cells.arrays(), cutoff=cutoff)
    assert_reversible(edges)


@given(st.integers(2, 4), st.integers(0, 2**31))
def test_edges_that_tie_with_the_cutoff_have_their_reverse(spacing, seed):
    rng = np.random.default_rng(seed)
    length = spacing * rng.uniform(0.9, 1.1)
    cells = laid([(rng.integers(0, 3, (4, 3)) * length / 3, length * np.eye(3), WHOLE)])
    assert_reversible(neighbors.neighbor_list(*cells.arrays(), cutoff=length))


def assert_reversible(edges: EdgeArrays) -> None:
    centre = np.repeat(np.arange(len(edges.edge_offsets) - 1), np.diff(edges.edge_offsets))
    forward = np.column_stack([centre, edges.edge_source, edges.edge_shift])
    backward = np.column_stack([edges.edge_source, centre, -edges.edge_shift])
    there, back = np.lexsort(forward.T), np.lexsort(backward.T)
    np.testing.assert_array_equal(forward[there], backward[back])
    np.testing.assert_array_equal(edges.edge_vector[there], -edges.edge_vector[back])


@given(shapes, cutoffs)
def test_vectors_follow_the_convention(shape, cutoff):
    cells = cells_of(*shape)
    edges = neighbors.neighbor_list(*cells.arrays(), cutoff=cutoff)
    centre = np.repeat(np.arange(len(cells.positions)), np.diff(edges.edge_offsets))
    r = cells.positions
    vectors = r[edges.edge_source] - r[centre] + edges.edge_shift @ cells.lattice[0]
    np.testing.assert_allclose(edges.edge_vector, vectors, rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(edges.edge_distance, np.linalg.norm(vectors, axis=1), rtol=0, atol=ROUNDING)
    assert (edges.edge_distance < cutoff).all()


@given(shapes, cutoffs, st.tuples(*[st.integers(-3, 3)] * 3))
def test_moving_one_atom_by_a_lattice_vector_changes_shifts_only(shape, cutoff, cells_away):
    cells = cells_of(*shape)
    edges = neighbors.neighbor_list(*cells.arrays(), cutoff=cutoff)
    moved = cells.positions.copy()
    moved[0] += np.array(cells_away) @ cells.lattice[0]
    again = neighbors.neighbor_list(moved, *cells.arrays()[1:], cutoff=cutoff)
    if away_from(cutoff, edges):
        np.testing.assert_array_equal(again.edge_offsets, edges.edge_offsets)
        assert_same_distances(distances(again), distances(edges))


@given(shapes, cutoffs, st.booleans(), st.randoms(use_true_random=False))
def test_atom_order_does_not_matter(shape, cutoff, limited, random):
    cells = cells_of(*shape)
    order = list(range(len(cells.positions)))
    random.shuffle(order)
    limits = {"cutoff": cutoff, "max_neighbors": 5 if limited else None}
    edges = neighbors.neighbor_list(*cells.arrays(), **limits)
    again = neighbors.neighbor_list(cells.positions[order], *cells.arrays()[1:], **limits)
    rows, again_rows = distances(edges), distances(again)
    assert_same_distances(again_rows, [rows[i] for i in order])


@given(shapes, cutoffs)
def test_rotation_turns_vectors_and_keeps_distances(shape, cutoff):
    cells = cells_of(*shape)
    rotation = np.linalg.qr(np.random.default_rng(shape[0]).normal(size=(3, 3)))[0]
    edges = neighbors.neighbor_list(*cells.arrays(), cutoff=cutoff)
    turned = neighbors.neighbor_list(
        cells.positions @ rotation, cells.lattice @ rotation, cells.pbc, cells.atom_offsets, cutoff=cutoff
    )
    if away_from(cutoff, edges):
        np.testing.assert_array_equal(turned.edge_source, edges.edge_source)
        np.testing.assert_allclose(turned.edge_vector, edges.edge_vector @ rotation, rtol=0, atol=ROUNDING)


UNIMODULAR = ([[1, 1, 0], [0, 1, 0], [0, 0, 1]], [[0, 1, 0], [1, 0, 0], [0, 0, 1]], [[1, 0, 2], [-1, 1, 0], [0, 0, -1]])


@given(shapes, cutoffs, st.sampled_from(UNIMODULAR))
def test_another_cell_of_the_same_lattice_keeps_distances(shape, cutoff, change):
    cells = cells_of(*shape)
    edges = neighbors.neighbor_list(*cells.arrays(), cutoff=cutoff)
    other = neighbors.neighbor_list(
        cells.positions, np.array(change) @ cells.lattice, cells.pbc, cells.atom_offsets, cutoff=cutoff
    )
    if away_from(cutoff, edges):
        np.testing.assert_array_equal(other.edge_offsets, edges.edge_offsets)
        assert_same_distances(distances(other), distances(edges))


@given(shapes, cutoffs, st.tuples(*[st.integers(1, 2)] * 3), st.booleans())
def test_a_supercell_repeats_every_row(shape, cutoff, repeats, limited):
    cells = cells_of(*shape)
    limits = {"cutoff": cutoff, "max_neighbors": 6 if limited else None}
    edges = neighbors.neighbor_list(*cells.arrays(), **limits)
    shifts = np.stack(np.meshgrid(*map(np.arange, repeats), indexing="ij"), -1).reshape(-1, 3) @ cells.lattice[0]
    positions = (shifts[:, None] + cells.positions[None]).reshape(-1, 3)
    bigger = laid([(positions, np.array(repeats)[:, None] * cells.lattice[0], WHOLE)])
    again = neighbors.neighbor_list(*bigger.arrays(), **limits)
    if away_from(cutoff, edges):
        assert_same_distances(distances(again), distances(edges) * len(shifts))


@given(shapes, cutoffs, st.floats(0.3, 0.99))
def test_a_shorter_cutoff_gives_a_subset(shape, cutoff, fraction):
    cells = cells_of(*shape)
    edges = neighbors.neighbor_list(*cells.arrays(), cutoff=cutoff)
    fewer = neighbors.neighbor_list(*cells.arrays(), cutoff=cutoff * fraction)
    kept = edges.edge_distance < cutoff * fraction
    np.testing.assert_array_equal(fewer.edge_source, edges.edge_source[kept])
    np.testing.assert_array_equal(fewer.edge_shift, edges.edge_shift[kept])
    np.testing.assert_array_equal(fewer.edge_vector, edges.edge_vector[kept])


# Golden cases, by hand


def test_rock_salt_shells():
    a = 5.64
    sites = np.array([[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]]) / 2
    cells = laid([(a * sites, a * np.eye(3), WHOLE)]).arrays()
    # 6 of the other kind at a/2, 12 of the same at a/sqrt(2), 8 at a sqrt(3)/2, 6 at a.
    for cutoff, count in ((0.51 * a, 6), (0.72 * a, 18), (0.9 * a, 26), (1.01 * a, 32), (a, 26)):
        edges = neighbors.neighbor_list(*cells, cutoff=cutoff)
        assert np.diff(edges.edge_offsets).tolist() == [count] * 8, cutoff


def test_one_atom_sees_its_images():
    edges = neighbors.neighbor_list(*laid([([[0.7, 0, 0]], 2.0 * np.eye(3), WHOLE)]).arrays(), cutoff=2.1)
    assert edges.edge_shift.tolist() == [[-1, 0, 0], [0, -1, 0], [0, 0, -1], [0, 0, 1], [0, 1, 0], [1, 0, 0]]
    np.testing.assert_array_equal(edges.edge_vector, 2.0 * edges.edge_shift)


def test_shifts_count_from_the_positions_given():
    cells = laid([([[0.5, 0, 0], [9.5, 0, 0]], np.diag([3.0, 30, 30]), WHOLE)]).arrays()
    edges = neighbors.neighbor_list(*cells, cutoff=1e-3)
    assert (edges.edge_source.tolist(), edges.edge_shift.tolist()) == ([1, 0], [[-3, 0, 0], [3, 0, 0]])


# Shells


def perovskite(noise: float, seed: int = 0) -> Flat:
    rng = np.random.default_rng(seed)
    sites = np.array([[0, 0, 0], [1, 1, 1], [0, 1, 1], [1, 0, 1], [1, 1, 0]]) / 2 + rng.normal(0, noise, (5, 3))
    return laid([(4.0 * sites, 4.0 * np.eye(3), WHOLE)])


@pytest.mark.parametrize("noise", [0.0, 1e-9, 1e-6])
def test_a_shell_is_kept_whole_under_rounding(noise):
    ours = neighbors.neighbor_list(*perovskite(noise).arrays(), cutoff=8.0, max_neighbors=8)
    # Corner and centre: 8 then 6 next; oxygen: 2, then 8 of both kinds at one distance.
    assert np.diff(ours.edge_offsets).tolist()[:2] == [12, 14]
    right = neighbors.neighbor_list(*perovskite(0.0).arrays(), cutoff=8.0, max_neighbors=8)
    np.testing.assert_array_equal(ours.edge_source, right.edge_source)
    np.testing.assert_array_equal(ours.edge_shift, right.edge_shift)


@pytest.mark.parametrize("noise", [0.0, 1e-9, 1e-6])
def test_exact_takes_the_first_of_the_last_shell_under_rounding(noise):
    ours = neighbors.neighbor_list(*perovskite(noise).arrays(), cutoff=8.0, max_neighbors=8, exact=True)
    right = reference.neighbor_list(*perovskite(0.0).arrays(), cutoff=8.0, max_neighbors=8, exact=True)
    assert set(np.diff(ours.edge_offsets)) == {8}
    np.testing.assert_array_equal(ours.edge_source, right.edge_source)
    np.testing.assert_array_equal(ours.edge_shift, right.edge_shift)


@given(shapes, st.integers(1, 20))
def test_truncation_is_a_prefix_of_shells(shape, max_neighbors):
    cells = cells_of(*shape).arrays()
    full = distances(neighbors.neighbor_list(*cells, cutoff=6.0))
    cut = neighbors.neighbor_list(*cells, cutoff=6.0, max_neighbors=max_neighbors)
    for kept, row in zip(distances(cut), full, strict=True):
        assert len(kept) >= min(max_neighbors, len(row))
        np.testing.assert_array_equal(kept, row[: len(kept)])
        if len(kept) < len(row):
            assert row[len(kept)] > kept[-1] * 1.001
        # No shorter whole-shell prefix would do.
        if len(kept) > max_neighbors:
            tail = kept[max_neighbors - 1 :]
            assert (tail[1:] <= tail[:-1] * 1.001 * (1 + 1e-15)).all()


# Levels and threads


def test_an_unknown_level_is_named():
    with (
        pytest.raises(InputError, match="SIMD level 'neon' is not available here; choose one of:"),
        core.forced_simd_level("neon"),
    ):
        pass


def test_one_setting_of_threads():
    before = core.threads()
    try:
        core.set_threads(3)
        assert core.threads() == 3
        with pytest.raises(InputError, match="threads must be at least 1"):
            core.set_threads(0)
    finally:
        core.set_threads(None)
    assert core.threads() == before


def test_callers_at_the_same_time_do_not_disturb_each_other():
    batches = [random_cells(40, seed=seed, atoms=(1, 12), skew=0.5).arrays() for seed in range(8)]
    alone = [neighbors.neighbor_list(*batch, cutoff=4.0, threads=1) for batch in batches]
    with ThreadPoolExecutor(4) as callers:
        for _ in range(5):
            found = callers.map(lambda batch: neighbors.neighbor_list(*batch, cutoff=4.0, threads=3), batches)
            for one, other in zip(found, alone, strict=True):
                assert_same_bits(one, other)


def test_a_forked_child_has_threads_of_its_own():
    script = """
import os
import numpy as np
from screening.ops import core, neighbors
arrays = np.random.default_rng(0).random((40, 3)), np.eye(3)[None].repeat(20, 0), np.ones((20, 3), bool)
offsets = np.arange(0, 42, 2, dtype=np.int32)
edges = lambda: neighbors.neighbor_list(*arrays, offsets, cutoff=2.0, threads=4).edge_distance.tobytes()
before = edges()
child = os.fork()
if child == 0:
    os._exit(0 if edges() == before else 1)
assert os.waitpid(child, 0)[1] == 0
assert edges() == before
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, timeout=60)
