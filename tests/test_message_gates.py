"""Line graphs and gated means against plain PyTorch: values, derivatives, levels, threads, batches, refusals."""

import pytest
import torch
from derivatives import assert_as_exact_as, assert_close, assert_same_bits, leaves, narrowed, orders
from edges_made import random_graph
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from screening.errors import InputError
from screening.ops import core, message_gates, reference_message
from screening.ops.message_graph import EdgeGraph

pytestmark = pytest.mark.native


@pytest.fixture(params=core.simd_levels(), autouse=True)
def level(request):
    with core.forced_simd_level(request.param):
        yield request.param


def random_gates(graph: EdgeGraph, seed: int, *, channels: int, size: float = 1.0) -> list[Tensor]:
    """centre, source, value, edge in float64."""
    draw = torch.Generator().manual_seed(seed)
    atoms, edges = len(graph.edge_offsets) - 1, len(graph.edge_source)
    return [size * torch.randn(n, channels, generator=draw, dtype=torch.float64) for n in (*[atoms] * 3, edges)]


def ours(graph: EdgeGraph, *, keep_gates: bool = True):
    return lambda *terms: message_gates.gated_mean(*terms, graph, keep_gates=keep_gates)[: 2 if keep_gates else 1]


def theirs(graph: EdgeGraph, *, keep_gates: bool = True):
    return lambda *terms: reference_message.gated_mean(*terms, graph)[: 2 if keep_gates else 1]


@given(
    seed=st.integers(0, 10**6),
    channels=st.integers(1, 40),
    degree=st.integers(0, 12),
    keep_gates=st.booleans(),
)
def test_means_and_their_derivatives_equal_the_reference(seed, channels, degree, keep_gates):
    graph = random_graph(seed, crystals=4, atoms=5, degree=degree)
    terms = random_gates(graph, seed, channels=channels)
    assert_close(orders(ours(graph, keep_gates=keep_gates), terms), orders(theirs(graph, keep_gates=keep_gates), terms))


@given(seed=st.integers(0, 10**6), atoms=st.integers(0, 6), degree=st.integers(0, 8))
def test_line_graphs_equal_the_reference(seed, atoms, degree):
    graph = random_graph(seed, crystals=4, atoms=atoms, degree=degree)
    assert_same_bits(message_gates.line_graph(graph), reference_message.line_graph(graph))


def test_means_over_a_line_graph():
    line = message_gates.line_graph(random_graph(4))
    terms = random_gates(line, 7, channels=5)
    assert_close(orders(ours(line), terms), orders(theirs(line), terms))


def test_gradcheck_and_gradgradcheck():
    graph = random_graph(2, crystals=3, atoms=3, degree=4)
    terms = leaves(random_gates(graph, 3, channels=2))
    assert torch.autograd.gradcheck(ours(graph), terms)
    assert torch.autograd.gradgradcheck(ours(graph), terms)


@pytest.mark.parametrize("size", [0.1, 1.0, 10.0])
def test_float_errors_are_as_those_of_the_float_reference(size):
    graph = random_graph(5, crystals=30, atoms=12, degree=16)
    assert_as_exact_as(theirs(graph), ours(graph), random_gates(graph, 9, channels=20, size=size), times=4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [1e4, -1e4, 3e38, -3e38])
def test_means_and_derivatives_stay_finite_far_out(value, dtype):
    graph = EdgeGraph(*(torch.tensor(t, dtype=torch.int32) for t in ([0, 1], [0], [0, 1])))
    terms = [torch.full((1, 3), fill, dtype=dtype) for fill in (value, 0.0, 2.0, 0.0)]
    assert all(term.isfinite().all() for term in orders(ours(graph), terms))


def test_a_nan_stays_with_the_atoms_that_hear_it():
    graph = random_graph(4, crystals=6, atoms=6, degree=5)
    terms = narrowed(random_gates(graph, 3, channels=20))
    clean = message_gates.gated_mean(*terms, graph)[0]
    atom = int(graph.edge_source[0])
    terms[2][atom] = float("nan")
    found = message_gates.gated_mean(*terms, graph)[0]
    rows = torch.repeat_interleave(torch.arange(len(clean)), graph.edge_offsets.diff().long())
    hears = torch.zeros(len(clean), dtype=torch.bool)
    hears[rows[graph.edge_source == atom]] = True
    assert found[hears].isnan().all()
    assert torch.equal(found[~hears], clean[~hears])


def test_threads_change_no_bit():
    graph = random_graph(6, crystals=60, atoms=12, degree=14)
    terms, runs = narrowed(random_gates(graph, 3, channels=24)), []
    try:
        for threads in (1, 2, 5):
            core.set_threads(threads)
            runs.append([*orders(ours(graph), terms), *message_gates.line_graph(graph)])
    finally:
        core.set_threads(None)
    for run in runs[1:]:
        assert_same_bits(run, runs[0])


def test_a_batch_gives_the_bits_of_its_crystals():
    graph = random_graph(8, crystals=20, atoms=9, degree=9)
    centre, source, value, edge = narrowed(random_gates(graph, 3, channels=20))
    mean, gates = message_gates.gated_mean(centre, source, value, edge, graph)
    for c in range(20):
        a, b = graph.atom_offsets[c : c + 2].tolist()
        e, f = graph.edge_offsets[[a, b]].tolist()
        ends = torch.tensor([0, b - a], dtype=torch.int32)
        alone = EdgeGraph(graph.edge_offsets[a : b + 1] - e, graph.edge_source[e:f] - a, ends)
        found = message_gates.gated_mean(centre[a:b], source[a:b], value[a:b], edge[e:f], alone)
        assert_same_bits(found, [mean[a:b], gates[e:f]])


def test_operators_keep_their_word_to_torch():
    graph = random_graph(3, crystals=3)
    terms = leaves(random_gates(graph, 3, channels=3))
    torch.library.opcheck(torch.ops.screening.gated_mean.default, (*terms, *graph, True))
    line = message_gates.line_graph(graph)
    torch.library.opcheck(torch.ops.screening.line_source.default, (line.edge_offsets, *graph))


BROKEN = {
    "an edge leaves its crystal": lambda t, g: (t, g._replace(edge_source=g.edge_source + len(t[0]))),
    "must have one shape": lambda t, g: ([t[0], t[1][:, :2], *t[2:]], g),
    "a row an atom": lambda t, g: ([x[1:] for x in t[:3]] + t[3:], g),
    "a row an edge": lambda t, g: ([*t[:3], t[3][1:]], g),
    "takes float32 or float64": lambda t, g: ([x.half() for x in t], g),
}


@pytest.mark.parametrize("why", BROKEN)
def test_what_does_not_fit_is_refused(why):
    graph = random_graph(3, crystals=4)
    terms, graph = BROKEN[why](random_gates(graph, 3, channels=3), graph)
    with pytest.raises(InputError, match=why):
        message_gates.gated_mean(*terms, graph)


def test_offsets_that_do_not_count_pairs_are_refused():
    graph = random_graph(3, crystals=4)
    line = message_gates.line_graph(graph)
    with pytest.raises(InputError, match="count the edges into the source"):
        torch.ops.screening.line_source(line.edge_offsets.flip(0), *graph)
