"""The CUDA twin of attention with vectors, run on the host in lockstep, against the CPU twin and PyTorch."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from derivatives import assert_as_exact_as, assert_close, assert_same_bits, narrowed, orders
from edges_made import random_graph
from emulation import LAUNCH_FAILURE, OUT_OF_MEMORY, built
from hypothesis import given, settings
from hypothesis import strategies as st
from test_message_cuda_twin import on_twin
from test_message_vectors import ours, random_attention, theirs

from screening.errors import ResourceError
from screening.ops import message_vectors

pytestmark = pytest.mark.native


@pytest.fixture(scope="module")
def module(root: Path) -> Any:
    return built(root)


# A head of 40 channels takes more than one walk of a warp.
@settings(max_examples=12)
@given(st.integers(0, 10**6), st.integers(1, 3), st.sampled_from([1, 3, 16, 40]), st.integers(1, 5), st.integers(0, 9))
def test_values_and_derivatives_are_right(
    module: Any, seed: int, heads: int, width: int, span: int, degree: int
) -> None:
    graph = random_graph(seed, crystals=3, atoms=4, degree=degree)
    terms = random_attention(graph, seed, channels=heads * width, span=span)
    with on_twin(module):
        found = orders(ours(graph, heads), terms)
    assert_close(found, orders(theirs(graph, heads), terms))
    assert_close(found, orders(ours(graph, heads), terms))


def test_many_parts_have_tables_of_their_own(module: Any) -> None:
    graph = random_graph(3, crystals=40, atoms=10, degree=12)
    assert len(graph.edge_source) > 2 * 512
    terms = random_attention(graph, 3, channels=2, span=4)
    with on_twin(module):
        found = orders(ours(graph, 1), terms)
    assert_close(found, orders(theirs(graph, 1), terms))


@pytest.mark.parametrize("sizes", [{"crystals": 0}, {"atoms": 0}, {"degree": 0}], ids=str)
def test_without_edges_sums_are_zero(module: Any, sizes: dict[str, int]) -> None:
    graph = random_graph(3, **sizes)
    terms = random_attention(graph, 3, channels=4, span=4)
    with on_twin(module):
        found = orders(ours(graph, 2), terms)
    assert_close(found, orders(theirs(graph, 2), terms))


def test_derivatives_that_are_not_wanted_change_no_other(module: Any) -> None:
    graph = random_graph(11)
    terms = random_attention(graph, 7, channels=4, span=4)
    with on_twin(module):
        found = orders(ours(graph, 2), terms, fixed=(5, 7), second=False)
    assert_close(found, orders(theirs(graph, 2), terms, fixed=(5, 7), second=False))


def test_float_errors_are_as_those_of_the_float_reference(module: Any) -> None:
    graph = random_graph(5, crystals=5, atoms=10, degree=12)
    with on_twin(module):
        assert_as_exact_as(theirs(graph, 2), ours(graph, 2), random_attention(graph, 9, channels=8, span=4), times=4)


def test_the_order_of_lanes_and_blocks_changes_no_bit_and_nothing_waits(module: Any) -> None:
    graph, runs = random_graph(6, crystals=5, atoms=5, degree=6), []
    terms = narrowed(random_attention(graph, 3, channels=6, span=3))
    for order in range(3):
        with on_twin(module, order=order):
            runs.append(orders(ours(graph, 2), terms))
            assert module.counted()["waits"] == 0
    for run in runs[1:]:
        assert_same_bits(run, runs[0])


@pytest.mark.parametrize(
    ("error", "raised", "words"),
    [
        (OUT_OF_MEMORY, ResourceError, "out of memory in the native core; use smaller batches"),
        (LAUNCH_FAILURE, RuntimeError, "CUDA could not .*: a fault"),
    ],
)
def test_whatever_call_fails_is_reported_and_frees_everything(
    module: Any, error: int, raised: type[Exception], words: str
) -> None:
    graph = random_graph(11, crystals=2, atoms=3, degree=2)
    terms = narrowed(random_attention(graph, 3, channels=4, span=2))
    run = partial(orders, partial(message_vectors.vector_attention, graph=graph, heads=2), terms)
    with on_twin(module):
        run()
        calls = module.counted()["calls"]
    for call in range(calls):
        with on_twin(module, failing_call=call, error=error), pytest.raises(raised, match=words):
            run()
