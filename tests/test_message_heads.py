"""Attention with several heads against plain PyTorch: values, derivatives, levels, threads, batches, refusals."""

from collections.abc import Callable, Iterator

import pytest
import torch
from derivatives import assert_as_exact_as, assert_close, assert_same_bits, leaves, narrowed, orders
from edges_made import random_graph
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from screening.errors import InputError
from screening.ops import core, message_heads, reference_message
from screening.ops.message_graph import EdgeGraph

pytestmark = pytest.mark.native

Function = Callable[..., tuple[Tensor, Tensor]]


@pytest.fixture(params=core.simd_levels(), autouse=True)
def level(request: pytest.FixtureRequest) -> Iterator[str]:
    with core.forced_simd_level(request.param):
        yield request.param


def random_heads(graph: EdgeGraph, seed: int, *, heads: int, channels: int, size: float = 1.0) -> list[Tensor]:
    """atom, edge, to_centre, to_source, weight in float64."""
    draw = torch.Generator().manual_seed(seed)
    atoms, edges, columns = len(graph.edge_offsets) - 1, len(graph.edge_source), heads * channels
    shapes = (atoms, columns), (edges, columns), (heads, channels), (heads, channels), (edges, heads)
    return [size * torch.randn(*shape, generator=draw, dtype=torch.float64) for shape in shapes]


def ours(graph: EdgeGraph) -> Function:
    return lambda atom, edge, to_centre, to_source, weight: (
        message_heads.head_scores(atom, edge, to_centre, to_source, graph),
        message_heads.head_sum(atom, edge, weight, graph),
    )


def theirs(graph: EdgeGraph) -> Function:
    return lambda atom, edge, to_centre, to_source, weight: (
        reference_message.head_scores(atom, edge, to_centre, to_source, graph),
        reference_message.head_sum(atom, edge, weight, graph),
    )


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), heads=st.integers(1, 4), channels=st.integers(1, 20), degree=st.integers(0, 9))
def test_values_and_derivatives_equal_the_reference(seed: int, heads: int, channels: int, degree: int) -> None:
    graph = random_graph(seed, crystals=4, atoms=4, degree=degree)
    terms = random_heads(graph, seed, heads=heads, channels=channels)
    assert_close(orders(ours(graph), terms), orders(theirs(graph), terms))


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), shift=st.floats(-2, 2))
def test_without_softplus_in_the_way_sums_are_linear_in_weights(seed: int, shift: float) -> None:
    graph = random_graph(seed)
    atom, edge, _, _, weight = random_heads(graph, seed, heads=2, channels=3)
    once = message_heads.head_sum(atom, edge, weight, graph)
    torch.testing.assert_close(message_heads.head_sum(atom, edge, shift * weight, graph), shift * once)


def test_gradcheck_and_gradgradcheck() -> None:
    graph = random_graph(2, crystals=2, atoms=3, degree=3)
    terms = leaves(random_heads(graph, 3, heads=2, channels=3))
    assert torch.autograd.gradcheck(ours(graph), terms, fast_mode=True)
    assert torch.autograd.gradgradcheck(ours(graph), terms, fast_mode=True)


@pytest.mark.parametrize("size", [0.1, 1.0, 10.0])
def test_float_errors_are_as_those_of_the_float_reference(size: float) -> None:
    graph = random_graph(5, crystals=12, atoms=12, degree=16)
    assert_as_exact_as(theirs(graph), ours(graph), random_heads(graph, 9, heads=4, channels=32, size=size), times=4)


def test_without_edges_nothing_is_heard() -> None:
    for sizes in ({"crystals": 0}, {"atoms": 0}, {"degree": 0}):
        graph = random_graph(3, **sizes)
        terms = random_heads(graph, 3, heads=2, channels=4)
        assert_close(orders(ours(graph), terms), orders(theirs(graph), terms))


def test_threads_change_no_bit() -> None:
    graph = random_graph(6, crystals=60, atoms=10, degree=12)
    terms, runs = narrowed(random_heads(graph, 3, heads=4, channels=20)), []
    for threads in (1, 2, 5):
        with core.using_threads(threads):
            runs.append(orders(ours(graph), terms, second=False))
    for run in runs[1:]:
        assert_same_bits(run, runs[0])


def test_a_batch_gives_the_bits_of_its_crystals() -> None:
    graph = random_graph(8, crystals=12, atoms=9, degree=9)
    atom, edge, to_centre, to_source, weight = narrowed(random_heads(graph, 3, heads=2, channels=20))
    scores, sums = ours(graph)(atom, edge, to_centre, to_source, weight)
    for c in range(12):
        a, b = graph.atom_offsets[c : c + 2].tolist()
        e, f = graph.edge_offsets[[a, b]].tolist()
        ends = torch.tensor([0, b - a], dtype=torch.int32)
        alone = EdgeGraph(graph.edge_offsets[a : b + 1] - e, graph.edge_source[e:f] - a, ends)
        found = ours(alone)(atom[a:b], edge[e:f], to_centre, to_source, weight[e:f])
        assert_same_bits(found, (scores[e:f], sums[a:b]))


def test_the_operators_keep_their_word_to_torch() -> None:
    graph = random_graph(3, crystals=3)
    *terms, weight = leaves(random_heads(graph, 3, heads=2, channels=3))
    torch.library.opcheck(torch.ops.screening.head_scores.default, (*terms, *graph))
    torch.library.opcheck(torch.ops.screening.head_sum.default, (*terms[:2], weight, *graph))


BROKEN: dict[str, Callable[[list[Tensor], EdgeGraph], tuple[list[Tensor], EdgeGraph]]] = {
    "an edge leaves its crystal": lambda t, g: (t, g._replace(edge_source=g.edge_source + len(t[0]))),
    "divide into the heads": lambda t, g: ([*t[:2], t[2][:1].repeat(3, 1), t[3][:1].repeat(3, 1), t[4]], g),
    "a row an atom": lambda t, g: ([t[0], t[1][1:], *t[2:]], g),
    "a column a channel": lambda t, g: ([*t[:3], t[3][:, 1:], t[4]], g),
    "takes float32 or float64": lambda t, g: ([x.half() for x in t], g),
}


@pytest.mark.parametrize("why", BROKEN)
def test_what_does_not_fit_is_refused(why: str) -> None:
    graph = random_graph(3, crystals=4)
    terms, graph = BROKEN[why](random_heads(graph, 3, heads=2, channels=4), graph)
    with pytest.raises(InputError, match=why):
        ours(graph)(*terms)


def test_weights_that_belong_to_no_edge_are_refused() -> None:
    graph = random_graph(3, crystals=4)
    atom, edge, _, _, weight = random_heads(graph, 3, heads=2, channels=4)
    with pytest.raises(InputError, match="a row an edge and a column a head"):
        message_heads.head_sum(atom, edge, weight[1:], graph)
