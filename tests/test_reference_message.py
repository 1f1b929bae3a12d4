"""The definition of message passing against a loop over single edges, and its derivatives."""

import math
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from screening.ops.message_graph import EdgeGraph
from screening.ops.reference_message import edge_conv, edge_moments, segment_sum

CHANNELS, ROWS, WIDTH, SCALES = 3, 7, 2, 2


def random_case(edge_counts: list[int], *, seed: int = 0) -> tuple[list[torch.Tensor], EdgeGraph]:
    """Arguments of `edge_conv` in its order, in float64, for atoms with so many edges, and their graph."""
    made = torch.Generator().manual_seed(seed)
    atoms, edges = len(edge_counts), sum(edge_counts)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=made, dtype=torch.float64)

    source = torch.randint(0, max(atoms, 1), (edges,), generator=made, dtype=torch.int32)
    first = torch.randint(0, ROWS - WIDTH + 1, (edges,), generator=made, dtype=torch.int32)
    ends = torch.tensor([0, *edge_counts]).cumsum(0).to(torch.int32)
    graph = EdgeGraph(ends, source, torch.tensor([0, atoms], dtype=torch.int32))
    terms = [normal(atoms, 2 * CHANNELS), normal(atoms, 2 * CHANNELS), normal(ROWS, 2 * CHANNELS)]
    return [*terms, normal(edges, WIDTH), first, normal(edges, SCALES)], graph


def looped(arguments: list[torch.Tensor], graph: EdgeGraph) -> tuple[list[list[float]], list[list[float]]]:
    """Messages summed per atom, and the pre-activation of each edge, one number at a time."""
    centre, source_term, table, weight, first, scale = (a.tolist() for a in arguments)
    offsets, sources = graph.edge_offsets.tolist(), graph.edge_source.tolist()
    out = [[0.0] * CHANNELS * SCALES for _ in centre]
    rows = []
    for i in range(len(centre)):
        for e in range(offsets[i], offsets[i + 1]):
            a = [centre[i][c] + source_term[sources[e]][c] for c in range(2 * CHANNELS)]
            for c in range(2 * CHANNELS):
                a[c] += sum(weight[e][m] * table[first[e] + m][c] for m in range(WIDTH))
            rows.append(a)
            for k, c in product(range(SCALES), range(CHANNELS)):
                message = math.log1p(math.exp(a[CHANNELS + c])) / (1 + math.exp(-a[c]))
                out[i][k * CHANNELS + c] += scale[e][k] * message
    return out, rows


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 4), max_size=5), st.integers(0, 2**31))
def test_edge_conv_and_moments_are_the_loop(edge_counts: list[int], seed: int) -> None:
    arguments, graph = random_case(edge_counts, seed=seed)
    out, rows = looped(arguments, graph)
    expected = torch.tensor(out, dtype=torch.float64).reshape(-1, SCALES, CHANNELS)
    torch.testing.assert_close(edge_conv(*arguments, graph), expected)
    mean, variance = edge_moments(*arguments[:5], graph)
    columns = torch.tensor(rows, dtype=torch.float64).reshape(-1, 2 * CHANNELS)
    if len(rows):
        torch.testing.assert_close(mean, columns.mean(0))
        torch.testing.assert_close(variance, columns.var(0, correction=0))
    else:
        assert not mean.any()
        assert not variance.any()


def test_segment_sum_is_the_sum_of_slices() -> None:
    rows = torch.randn(6, 3, dtype=torch.float64)
    offsets = torch.tensor([0, 2, 2, 6], dtype=torch.int32)
    expected = torch.stack([rows[:2].sum(0), torch.zeros(3, dtype=torch.float64), rows[2:].sum(0)])
    torch.testing.assert_close(segment_sum(rows, offsets), expected)


@pytest.mark.parametrize("name", ["edge_conv", "edge_moments"])
def test_first_and_second_derivatives_are_right(name: str) -> None:
    arguments, graph = random_case([2, 0, 3])
    floating = [a.requires_grad_() for a in arguments if a.is_floating_point()]

    def conv(*terms: torch.Tensor) -> torch.Tensor:
        return edge_conv(*terms[:4], arguments[4], terms[4], graph)

    def moments(*terms: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return edge_moments(*terms[:4], arguments[4], graph)

    function = conv if name == "edge_conv" else moments
    inputs = floating if name == "edge_conv" else floating[:4]
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)
