"""Attention with vectors on a GPU against the CPU; tests/test_vectors_cuda_twin.py has the same without a GPU."""

import pytest
import torch
from derivatives import assert_as_exact_as, assert_close, assert_same_bits, narrowed, orders
from edges_made import random_graph
from test_message_gpu import graph_there, there
from test_message_vectors import ours, random_attention, theirs

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module", autouse=True)
def usable() -> None:
    if not torch.cuda.is_available():
        pytest.skip("torch cannot use a CUDA device: torch.cuda.is_available() is False")


@pytest.mark.parametrize("span", [3, 4])
@pytest.mark.parametrize(("heads", "width"), [(1, 1), (4, 16), (8, 16), (2, 70)])
def test_values_and_derivatives_equal_the_cpu(heads: int, width: int, span: int) -> None:
    graph = random_graph(width + span, crystals=40, atoms=20, degree=24)
    terms = random_attention(graph, 7, channels=heads * width, span=span, rows=27)
    assert_close(orders(ours(graph_there(graph), heads), there(terms)), orders(ours(graph, heads), terms))


@pytest.mark.parametrize("sizes", [{"crystals": 0}, {"atoms": 0}, {"degree": 0}], ids=str)
def test_without_edges_sums_are_zero(sizes: dict[str, int]) -> None:
    graph = random_graph(3, **sizes)
    terms = random_attention(graph, 3, channels=4, span=4)
    assert_close(orders(ours(graph_there(graph), 2), there(terms)), orders(ours(graph, 2), terms))


def test_float_errors_are_as_those_of_the_float_reference_and_repeat_to_the_bit() -> None:
    graph = graph_there(random_graph(5, crystals=40, atoms=20, degree=24))
    terms = there(random_attention(graph_there(graph, "cpu"), 9, channels=64, span=4))
    assert_as_exact_as(theirs(graph, 4), ours(graph, 4), terms, times=4)
    narrow = narrowed(terms)
    assert_same_bits(orders(ours(graph, 4), narrow), orders(ours(graph, 4), narrow))
