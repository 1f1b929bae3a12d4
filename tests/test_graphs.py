"""Graphs of crystals, and batches by budget: order, budgets, independence of the batch."""

import itertools

import numpy as np
import pytest
from batches import assert_same_bits
from hypothesis import given
from hypothesis import strategies as st
from made import made_crystals

import screening
from screening.crystals.batch import Crystals
from screening.errors import InputError
from screening.graphs import Neighbors, graph_batches, neighbor_list, pack_graphs
from screening.ops.edges import EdgeArrays

CRYSTALS = Crystals.of(made_crystals(40, seed=5, max_atoms=12))
NEIGHBORS = Neighbors(cutoff=4.5)
LIMITED = Neighbors(cutoff=5.0, max_neighbors=8, exact=True)


def rejoined(batches: list) -> EdgeArrays:
    """The edges of consecutive batches as one batch would have them."""
    counts = np.concatenate([np.diff(b.edges.edge_offsets) for b in batches])
    atoms = np.cumsum([0] + [len(b.crystals.numbers) for b in batches])
    return EdgeArrays(
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int32),
        np.concatenate([b.edges.edge_source + np.int32(a) for a, b in zip(atoms, batches, strict=False)]),
        *(np.concatenate([b.edges[k] for b in batches]) for k in (2, 3, 4)),
    )


def test_a_crystal_without_a_list_is_named_by_its_id():
    crystals = made_crystals(3, seed=5, max_atoms=3)
    crystals[1].positions[0] = np.nan
    batch, words = Crystals.of(crystals), f"^{crystals[1].id}: no neighbour list: the position of atom 0 is not finite"
    with pytest.raises(InputError, match=words):
        pack_graphs(batch, NEIGHBORS)
    with pytest.raises(InputError, match=words):
        list(graph_batches([batch], NEIGHBORS, max_edges=100, max_atoms=100))


def test_graphs_are_the_neighbour_list_of_their_crystals():
    graphs = pack_graphs(CRYSTALS, LIMITED)
    edges = neighbor_list(CRYSTALS, cutoff=5.0, max_neighbors=8, exact=True)
    assert_same_bits(graphs.edges, edges)
    assert len(graphs) == 40
    assert graphs.edge_counts.sum() == len(edges.edge_source)


def test_single_crystals_may_come_as_a_list_or_an_iterator():
    listed = [CRYSTALS[c] for c in range(3)]
    right = neighbor_list(CRYSTALS[:3], cutoff=4.0)
    assert_same_bits(neighbor_list(listed, cutoff=4.0), right)
    assert_same_bits(screening.neighbor_list(iter(listed), cutoff=4.0), right)


@given(
    st.integers(1, 400),
    st.integers(1, 60),
    st.lists(st.integers(0, 40), max_size=4),
    st.sampled_from([NEIGHBORS, LIMITED]),
)
def test_batches_keep_order_and_budget_and_every_bit(max_edges, max_atoms, cuts, neighbors):
    bounds = [0, *sorted(cuts), 40]
    stream = [CRYSTALS[a:b] for a, b in itertools.pairwise(bounds)]
    batches = list(graph_batches(stream, neighbors, max_edges=max_edges, max_atoms=max_atoms))
    assert [i for b in batches for i in b.crystals.ids] == list(CRYSTALS.ids)
    assert_same_bits(rejoined(batches), pack_graphs(CRYSTALS, neighbors).edges)
    for batch in batches:
        within = len(batch.edges.edge_source) <= max_edges and len(batch.crystals.numbers) <= max_atoms
        assert within or len(batch) == 1
    # No batch ends while the next crystal would have fitted.
    for batch, following in itertools.pairwise(batches):
        edges = len(batch.edges.edge_source) + int(following.edge_counts[0])
        atoms = len(batch.crystals.numbers) + int(following.crystals.atom_counts[0])
        assert edges > max_edges or atoms > max_atoms


def test_how_a_stream_is_cut_does_not_move_a_batch():
    whole = graph_batches([CRYSTALS], NEIGHBORS, max_edges=900, max_atoms=50)
    pieces = graph_batches([CRYSTALS[c : c + 1] for c in range(40)], NEIGHBORS, max_edges=900, max_atoms=50)
    assert [b.crystals.ids for b in whole] == [list(b.crystals.ids) for b in pieces]


def test_an_empty_stream_has_no_batches():
    assert list(graph_batches([], NEIGHBORS, max_edges=10, max_atoms=10)) == []
    assert list(graph_batches([CRYSTALS[:0]], NEIGHBORS, max_edges=10, max_atoms=10)) == []
    assert len(pack_graphs([], NEIGHBORS)) == 0


def test_wrong_arguments_are_named():
    with pytest.raises(InputError, match="write \\[crystal\\]"):
        neighbor_list(CRYSTALS[0], cutoff=4.0)
    with pytest.raises(InputError, match="crystal 1 is a dict; convert it first"):
        neighbor_list([CRYSTALS[0], {}], cutoff=4.0)
    with pytest.raises(InputError, match="at least 1 edge and 1 atom, got 0 and 5"):
        list(graph_batches([CRYSTALS], NEIGHBORS, max_edges=0, max_atoms=5))


def test_a_device_that_is_not_there_is_named():
    from screening.ops import core

    if core.cuda_compiled() and core.cuda_device_count():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(InputError, match="device 'cuda' was asked for, but no CUDA device can be used"):
        neighbor_list(CRYSTALS, cutoff=4.0, device="cuda")
