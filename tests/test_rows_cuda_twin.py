"""The CUDA twins of the kernels on rows of edges, run on the host in lockstep, against the CPU twins and PyTorch."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from derivatives import assert_as_exact_as, assert_close, assert_same_bits, narrowed, orders
from edges_made import random_graph
from emulation import FAILURES, assert_every_failure_is_reported, built, on_twin
from hypothesis import given, settings
from hypothesis import strategies as st
from test_message_gates import ours, random_gates, theirs
from test_message_heads import ours as our_heads
from test_message_heads import random_heads
from test_message_heads import theirs as their_heads
from test_message_rows import random_rows

from screening.ops import message_gates, message_rows, reference_message
from screening.ops.message_graph import EdgeGraph

pytestmark = pytest.mark.native


@pytest.fixture(scope="module")
def module(root: Path) -> Any:
    return built(root)


@settings(max_examples=15)
@given(st.integers(0, 10**6), st.integers(0, 20), st.integers(0, 40), st.integers(1, 9))
def test_softmax_is_right(module: Any, seed: int, rows: int, degree: int, heads: int) -> None:
    scores, offsets = random_rows(seed, rows=rows, degree=degree, heads=heads, size=3.0)
    with on_twin(module):
        found = orders(lambda s: message_rows.row_softmax(s, offsets), [scores])
    assert_close(found, orders(lambda s: reference_message.row_softmax(s, offsets), [scores]))
    assert_close(found, orders(lambda s: message_rows.row_softmax(s, offsets), [scores]))


@settings(max_examples=15)
@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(0, 12), st.booleans())
def test_means_are_right(module: Any, seed: int, channels: int, degree: int, keep_gates: bool) -> None:
    graph = random_graph(seed, crystals=4, atoms=5, degree=degree)
    terms = random_gates(graph, seed, channels=channels)
    with on_twin(module):
        found = orders(ours(graph, keep_gates=keep_gates), terms)
    assert_close(found, orders(theirs(graph, keep_gates=keep_gates), terms))
    assert_close(found, orders(ours(graph, keep_gates=keep_gates), terms))


@settings(max_examples=15)
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 40), st.integers(0, 12))
def test_heads_are_right(module: Any, seed: int, heads: int, channels: int, degree: int) -> None:
    graph = random_graph(seed, crystals=4, atoms=5, degree=degree)
    terms = random_heads(graph, seed, heads=heads, channels=channels)
    with on_twin(module):
        found = orders(our_heads(graph), terms)
    assert_close(found, orders(their_heads(graph), terms))
    assert_close(found, orders(our_heads(graph), terms))


@settings(max_examples=15)
@given(st.integers(0, 10**6), st.integers(0, 6), st.integers(0, 40))
def test_line_graphs_are_right(module: Any, seed: int, atoms: int, degree: int) -> None:
    graph = random_graph(seed, crystals=4, atoms=atoms, degree=degree)
    with on_twin(module):
        found = message_gates.line_graph(graph)
    assert_same_bits(found, reference_message.line_graph(graph))


@pytest.mark.parametrize(("size", "times"), [(0.1, 4), (10.0, 6)])
def test_float_errors_are_as_those_of_the_float_reference(module: Any, size: float, times: float) -> None:
    graph = random_graph(5, crystals=6, atoms=12, degree=16)
    with on_twin(module):
        assert_as_exact_as(theirs(graph), ours(graph), random_gates(graph, 9, channels=8, size=size), times=times)


def every_operator(graph: EdgeGraph) -> list[torch.Tensor]:
    """All values and derivatives."""
    line = message_gates.line_graph(graph)
    found = [*orders(ours(line), narrowed(random_gates(line, 3, channels=3))), *line]
    found += orders(our_heads(graph), narrowed(random_heads(graph, 3, heads=2, channels=3)), second=False)
    scores, offsets = random_rows(3)
    return [*found, *orders(lambda s: message_rows.row_softmax(s, offsets), narrowed([scores]))]


def test_the_order_of_lanes_and_blocks_changes_no_bit(module: Any) -> None:
    graph, runs = random_graph(6, crystals=6, atoms=6, degree=6), []
    for order in range(3):
        with on_twin(module, order=order):
            runs.append(every_operator(graph))
    for run in runs[1:]:
        assert_same_bits(run, runs[0])


def test_nothing_waits_for_the_stream_and_values_take_no_scratch(module: Any) -> None:
    graph = random_graph(11)
    with on_twin(module):
        every_operator(graph)
        assert module.counted()["waits"] == 0
    with on_twin(module):
        message_gates.gated_mean(*random_gates(graph, 7, channels=4), graph)
        assert module.counted() | {"bytes": 0, "launches": 1} == module.counted()


@FAILURES
def test_whatever_call_fails_is_reported_and_frees_everything(
    module: Any, error: int, raised: type[Exception], words: str
) -> None:
    run = partial(every_operator, random_graph(11, crystals=2, atoms=3, degree=2))
    assert_every_failure_is_reported(module, run, error, raised, words)
