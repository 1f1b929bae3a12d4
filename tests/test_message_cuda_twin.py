"""The CUDA twins of the message kernels, run on the host in lockstep, against the CPU twins and plain PyTorch."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from derivatives import assert_as_exact_as, assert_close, assert_same_bits, narrowed, orders
from edges_made import random_graph, random_terms
from emulation import FAILURES, assert_every_failure_is_reported, built, on_twin
from hypothesis import given, settings
from hypothesis import strategies as st

from screening.ops import message, reference_message
from screening.ops.message_graph import EdgeGraph

pytestmark = pytest.mark.native


@pytest.fixture(scope="module")
def module(root: Path) -> Any:
    return built(root)


def conv(operators: Any, graph: EdgeGraph) -> Any:
    return lambda *terms: operators.edge_conv(*terms, graph)


def moments(operators: Any, graph: EdgeGraph) -> Any:
    return lambda *terms: operators.edge_moments(*terms, graph)


def assert_conv_right(module: Any, graph: EdgeGraph, terms: list[torch.Tensor], fixed: tuple[int, ...] = ()) -> None:
    with on_twin(module):
        found = orders(conv(message, graph), terms, fixed=fixed)
    assert_close(found, orders(conv(reference_message, graph), terms, fixed=fixed))
    assert_close(found, orders(conv(message, graph), terms, fixed=fixed))


def assert_moments_right(module: Any, graph: EdgeGraph, terms: list[torch.Tensor]) -> None:
    with on_twin(module):
        found = orders(moments(message, graph), terms[:5], second=False)
    assert_close(found, orders(moments(reference_message, graph), terms[:5], second=False))
    assert_close(found, orders(moments(message, graph), terms[:5], second=False))


# 32 channels fill a warp, 64 a walk along a row.
@pytest.mark.parametrize(("span", "scales"), [(3, 1), (4, 9), (8, 1), (8, 2)])
@pytest.mark.parametrize("channels", [1, 5, 32, 33, 70])
def test_values_and_derivatives_are_right(module: Any, channels: int, span: int, scales: int) -> None:
    graph = random_graph(channels + span)
    terms = random_terms(graph, 7, channels=channels, span=span, scales=scales)
    assert_conv_right(module, graph, terms)
    assert_moments_right(module, graph, terms)


@settings(max_examples=15)
@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 9), st.integers(1, 10), st.integers(0, 20))
def test_any_graph_is_right(module: Any, seed: int, channels: int, span: int, scales: int, degree: int) -> None:
    graph = random_graph(seed, crystals=4, atoms=6, degree=degree)
    terms = random_terms(graph, seed, channels=channels, span=span, scales=scales)
    assert_conv_right(module, graph, terms)
    assert_moments_right(module, graph, terms)


@pytest.mark.parametrize("sizes", [{"crystals": 0}, {"atoms": 0}, {"degree": 0}], ids=str)
def test_without_edges_sums_are_zero(module: Any, sizes: dict[str, int]) -> None:
    graph = random_graph(3, **sizes)
    terms = random_terms(graph, 3, channels=3, span=4)
    assert_conv_right(module, graph, terms)
    assert_moments_right(module, graph, terms)


# Terms by number: the weights are 3, the scale is 5.
@pytest.mark.parametrize("fixed", [(3,), (5,), (3, 5)])
@pytest.mark.parametrize("span", [3, 8])
def test_derivatives_that_are_not_wanted_change_no_other(module: Any, fixed: tuple[int, ...], span: int) -> None:
    graph = random_graph(11)
    assert_conv_right(module, graph, random_terms(graph, 7, channels=4, span=span), fixed)


def test_many_parts_are_summed_in_a_tree(module: Any) -> None:
    graph = random_graph(12, crystals=140, atoms=16, degree=16)
    assert len(graph.edge_source) > 32 * 256, "one level of the tree is enough for these"
    terms = random_terms(graph, 7, channels=2, span=4)
    with on_twin(module):
        found = orders(conv(message, graph), terms, fixed=(3, 5), second=False)
    assert_close(found, orders(conv(reference_message, graph), terms, fixed=(3, 5), second=False))
    assert_moments_right(module, graph, terms)


# Rounding a large pre-activation is the largest error of large terms: few edges make it, so luck has a part.
@pytest.mark.parametrize(("size", "times"), [(0.1, 2), (1.0, 2), (10.0, 6), (60.0, 6)])
def test_float_errors_are_as_those_of_the_float_reference(module: Any, size: float, times: float) -> None:
    graph = random_graph(5, crystals=6, atoms=12, degree=16)
    terms = random_terms(graph, 9, channels=8, span=4, size=size)
    with on_twin(module):
        assert_as_exact_as(conv(reference_message, graph), conv(message, graph), terms, times=times)


def test_float_moments_are_as_exact_as_the_float_reference(module: Any) -> None:
    graph = random_graph(5, crystals=6, atoms=12, degree=16)
    terms = random_terms(graph, 9, channels=8, span=8)[:5]
    with on_twin(module):
        assert_as_exact_as(moments(reference_message, graph), moments(message, graph), terms, second=False)


def test_the_variance_survives_a_large_mean(module: Any) -> None:
    graph = random_graph(5, crystals=6, atoms=12, degree=16)
    terms = random_terms(graph, 9, channels=3, span=4, size=0.1)
    terms[0] += 1e4
    narrow = narrowed(terms[:5])
    with on_twin(module):
        mean, variance = message.edge_moments(*narrow, graph)
    exact_mean, exact = reference_message.edge_moments(
        *[t.double() if t.is_floating_point() else t for t in narrow], graph
    )
    torch.testing.assert_close(mean.double(), exact_mean, rtol=1e-7, atol=0)
    torch.testing.assert_close(variance.double(), exact, rtol=0.1, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [1e4, -1e4, 3e38, -3e38])
def test_gates_stay_finite_far_out(module: Any, value: float, dtype: torch.dtype) -> None:
    graph = EdgeGraph(*(torch.tensor(t, dtype=torch.int32) for t in ([0, 1], [0], [0, 1])))
    shapes = (1, 2), (1, 2), (4, 2), (1, 4)
    for column in (0, 1):
        centre, source, table, weight = (torch.zeros(shape, dtype=dtype) for shape in shapes)
        centre[0, column] = value
        terms = [centre, source, table, weight, torch.zeros(1, dtype=torch.int32), torch.ones(1, 1, dtype=dtype)]
        with on_twin(module):
            found = orders(conv(message, graph), terms, second=False)
        for one, other in zip(found, orders(conv(reference_message, graph), terms, second=False), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-30)


def test_a_nan_stays_in_its_columns(module: Any) -> None:
    graph = random_graph(4, crystals=6, atoms=6, degree=5)
    terms = narrowed(random_terms(graph, 3, channels=5, span=4))
    source = terms[1].clone()
    source[int(graph.edge_source[0]), [2, 5 + 2]] = float("nan")
    with on_twin(module):
        clean = message.edge_conv(*terms, graph)
        found = message.edge_conv(terms[0], source, *terms[2:], graph)
        mean, variance = message.edge_moments(terms[0], source, *terms[2:5], graph)
    assert found[:, 0, 2].isnan().any()
    kept = ~found.isnan()
    assert kept[:, :, [0, 1, 3, 4]].all()
    assert torch.equal(found[kept], clean[kept])
    assert mean.isnan().nonzero().flatten().tolist() == variance.isnan().nonzero().flatten().tolist() == [2, 7]


@pytest.mark.parametrize("scales", [1, 9])
def test_the_order_of_lanes_and_blocks_changes_no_bit(module: Any, scales: int) -> None:
    graph = random_graph(6, crystals=20, atoms=8, degree=9)
    terms = narrowed(random_terms(graph, 3, channels=6, span=8, scales=scales))
    runs = []
    for order in range(3):
        with on_twin(module, order=order):
            runs.append(orders(conv(message, graph), terms) + orders(moments(message, graph), terms[:5], second=False))
    for run in runs[1:]:
        assert_same_bits(run, runs[0])


def test_a_batch_gives_the_bits_of_its_crystals(module: Any) -> None:
    graph = random_graph(8, crystals=5, atoms=9, degree=9)
    centre, source, table, weight, first, scale = narrowed(random_terms(graph, 3, channels=20, span=4))
    with on_twin(module):
        whole = message.edge_conv(centre, source, table, weight, first, scale, graph)
        for c in range(5):
            a, b = graph.atom_offsets[c : c + 2].tolist()
            e, f = int(graph.edge_offsets[a]), int(graph.edge_offsets[b])
            ends = torch.tensor([0, b - a], dtype=torch.int32)
            alone = EdgeGraph(graph.edge_offsets[a : b + 1] - e, graph.edge_source[e:f] - a, ends)
            found = message.edge_conv(centre[a:b], source[a:b], table, weight[e:f], first[e:f], scale[e:f], alone)
            assert torch.equal(found, whole[a:b])


@pytest.mark.parametrize("columns", [1, 3, 300])
def test_segments_are_summed_in_order(module: Any, columns: int) -> None:
    offsets = torch.tensor([0, 3, 3, 4, 9], dtype=torch.int32)
    rows = torch.randn(9, columns)
    with on_twin(module):
        found = message.segment_sum(rows, offsets)
        none = message.segment_sum(rows[:0], torch.zeros(1, dtype=torch.int32))
    assert torch.equal(found, message.segment_sum(rows, offsets))
    assert none.shape == (0, columns)


def every_operator(graph: EdgeGraph, terms: list[torch.Tensor]) -> None:
    orders(conv(message, graph), terms)
    orders(moments(message, graph), terms[:5], second=False)
    message.segment_sum(terms[0], graph.atom_offsets)


def test_nothing_waits_for_the_stream(module: Any) -> None:
    graph = random_graph(11)
    with on_twin(module):
        every_operator(graph, random_terms(graph, 7, channels=4, span=4))
        assert module.counted() | {"waits": 0} == module.counted()


def test_values_take_no_scratch(module: Any) -> None:
    graph = random_graph(11)
    with on_twin(module):
        message.edge_conv(*random_terms(graph, 7, channels=4, span=4), graph)
        assert module.counted() | {"bytes": 0, "launches": 1} == module.counted()


@FAILURES
def test_whatever_call_fails_is_reported_and_frees_everything(
    module: Any, error: int, raised: type[Exception], words: str
) -> None:
    graph = random_graph(11, crystals=2, atoms=3, degree=2)
    run = partial(every_operator, graph, random_terms(graph, 7, channels=2, span=4))
    assert_every_failure_is_reported(module, run, error, raised, words)
