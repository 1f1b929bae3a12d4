"""Attention with vectors against plain PyTorch: values, derivatives, levels, threads, batches, refusals."""

import pytest
import torch
from derivatives import assert_as_exact_as, assert_close, assert_same_bits, leaves, narrowed, orders
from edges_made import random_graph, random_terms
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from screening.errors import InputError
from screening.ops import core, message_vectors, reference_message
from screening.ops.message_graph import EdgeGraph

pytestmark = pytest.mark.native


@pytest.fixture(params=core.simd_levels(), autouse=True)
def level(request):
    with core.forced_simd_level(request.param):
        yield request.param


def random_attention(
    graph: EdgeGraph, seed: int, *, channels: int, span: int, rows: int = 9, size: float = 1.0
) -> list[Tensor]:
    """query, key, value, vectors, table, weight, first, scale in float64."""
    draw = torch.Generator().manual_seed(seed)
    atoms = len(graph.edge_offsets) - 1

    def normal(*shape: int) -> Tensor:
        return size * torch.randn(*shape, generator=draw, dtype=torch.float64)

    table = normal(rows, 4 * channels)
    _, _, _, weight, first, scale = random_terms(graph, seed, channels=1, span=span, rows=rows, scales=4, size=size)
    shapes = (channels,), (channels,), (3, channels), (3, channels)
    return [*(normal(atoms, *shape) for shape in shapes), table, weight, first, scale]


def ours(graph: EdgeGraph, heads: int):
    return lambda *terms: message_vectors.vector_attention(*terms, graph, heads=heads)


def theirs(graph: EdgeGraph, heads: int):
    return lambda *terms: reference_message.vector_attention(*terms, graph, heads=heads)


@given(
    seed=st.integers(0, 10**6),
    heads=st.integers(1, 3),
    width=st.integers(1, 20),
    span=st.integers(1, 9),
    degree=st.integers(0, 9),
)
def test_values_and_derivatives_equal_the_reference(seed, heads, width, span, degree):
    graph = random_graph(seed, crystals=4, atoms=4, degree=degree)
    terms = random_attention(graph, seed, channels=heads * width, span=span)
    assert_close(orders(ours(graph, heads), terms), orders(theirs(graph, heads), terms))


@pytest.mark.parametrize("fixed", [(5, 7), (4,), (0, 1, 2, 3, 4)])
def test_derivatives_that_are_not_wanted_change_no_other(fixed):
    graph = random_graph(11)
    terms = random_attention(graph, 7, channels=8, span=4)
    second = fixed != (5, 7)
    found = orders(ours(graph, 2), terms, fixed=fixed, second=second)
    assert_close(found, orders(theirs(graph, 2), terms, fixed=fixed, second=second))


def test_gradcheck_and_gradgradcheck():
    graph = random_graph(2, crystals=2, atoms=3, degree=3)
    terms = leaves(random_attention(graph, 3, channels=4, span=2, rows=4))
    assert torch.autograd.gradcheck(ours(graph, 2), terms, fast_mode=True)
    assert torch.autograd.gradgradcheck(ours(graph, 2), terms, fast_mode=True)


@pytest.mark.parametrize("size", [0.1, 1.0, 3.0])
def test_float_errors_are_as_those_of_the_float_reference(size):
    graph = random_graph(5, crystals=12, atoms=12, degree=16)
    terms = random_attention(graph, 9, channels=32, span=4, size=size)
    assert_as_exact_as(theirs(graph, 2), ours(graph, 2), terms, times=4)


def test_without_edges_nothing_is_heard():
    for sizes in ({"crystals": 0}, {"atoms": 0}, {"degree": 0}):
        graph = random_graph(3, **sizes)
        terms = random_attention(graph, 3, channels=4, span=4)
        assert_close(orders(ours(graph, 2), terms), orders(theirs(graph, 2), terms))


def test_threads_change_no_bit():
    graph = random_graph(6, crystals=60, atoms=10, degree=12)
    terms, runs = narrowed(random_attention(graph, 3, channels=32, span=4)), []
    try:
        for threads in (1, 2, 5):
            core.set_threads(threads)
            runs.append(orders(ours(graph, 2), terms))
    finally:
        core.set_threads(None)
    for run in runs[1:]:
        assert_same_bits(run, runs[0])


def test_a_batch_gives_the_bits_of_its_crystals():
    graph = random_graph(8, crystals=12, atoms=9, degree=9)
    *of_atoms, table, weight, first, scale = narrowed(random_attention(graph, 3, channels=20, span=4))
    together = message_vectors.vector_attention(*of_atoms, table, weight, first, scale, graph, heads=2)
    for c in range(12):
        a, b = graph.atom_offsets[c : c + 2].tolist()
        e, f = graph.edge_offsets[[a, b]].tolist()
        ends = torch.tensor([0, b - a], dtype=torch.int32)
        alone = EdgeGraph(graph.edge_offsets[a : b + 1] - e, graph.edge_source[e:f] - a, ends)
        terms = [*(term[a:b] for term in of_atoms), table, weight[e:f], first[e:f], scale[e:f]]
        assert torch.equal(message_vectors.vector_attention(*terms, alone, heads=2), together[a:b])


def test_vectors_turn_with_directions():
    graph = random_graph(4)
    *of_atoms, vectors, table, weight, first, scale = random_attention(graph, 7, channels=6, span=3)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64))[0]
    before = message_vectors.vector_attention(*of_atoms, vectors, table, weight, first, scale, graph, heads=2)
    turned = torch.cat([scale[:, :1], scale[:, 1:] @ turn], dim=1)
    vectors = torch.einsum("nic,ij->njc", vectors, turn)
    after = message_vectors.vector_attention(*of_atoms, vectors, table, weight, first, turned, graph, heads=2)
    torch.testing.assert_close(after[:, 0], before[:, 0])
    torch.testing.assert_close(after[:, 1:], torch.einsum("nic,ij->njc", before[:, 1:], turn))


def test_the_operator_keeps_its_word_to_torch():
    graph = random_graph(3, crystals=3)
    query, key, value, vectors, table, weight, first, scale = random_attention(graph, 3, channels=4, span=2)
    terms = leaves([query, key, value.flatten(1), vectors.flatten(1), table, weight, scale])
    torch.library.opcheck(torch.ops.screening.vector_attention.default, (terms, first, *graph, 2))


BROKEN = {
    "an edge leaves its crystal": lambda t, g: (t, g._replace(edge_source=g.edge_source + len(t[0])), 2),
    "divide into the heads": lambda t, g: (t, g, 3),
    "a row an atom": lambda t, g: ([x[1:] for x in t[:4]] + t[4:], g, 2),
    "three times the columns": lambda t, g: ([*t[:4], t[4][:, :-1], *t[5:]], g, 2),
    "a row an edge": lambda t, g: ([*t[:5], t[5][1:], *t[6:]], g, 2),
    "leave room": lambda t, g: ([*t[:6], t[6] + 100, t[7]], g, 2),
    "takes float32 or float64": lambda t, g: ([x.half() if x.is_floating_point() else x for x in t], g, 2),
}


@pytest.mark.parametrize("why", BROKEN)
def test_what_does_not_fit_is_refused(why):
    graph = random_graph(3, crystals=4)
    terms, graph, heads = BROKEN[why](random_attention(graph, 3, channels=4, span=3), graph)
    with pytest.raises(InputError, match=why):
        message_vectors.vector_attention(*terms, graph, heads=heads)
