"""The kernels on rows of edges on a GPU against the CPU; tests/test_rows_cuda_twin.py has the same without a GPU."""

import pytest
import torch
from derivatives import assert_close, assert_same_bits, narrowed, orders
from edges_made import random_graph
from test_message_gates import ours, random_gates
from test_message_gpu import graph_there, there
from test_message_heads import ours as our_heads
from test_message_heads import random_heads
from test_message_rows import random_rows

from screening.ops import message_gates, message_rows
from screening.ops.message_graph import EdgeGraph

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module", autouse=True)
def usable() -> None:
    if not torch.cuda.is_available():
        pytest.skip("torch cannot use a CUDA device: torch.cuda.is_available() is False")


def graph_of(degree: int) -> EdgeGraph:
    return random_graph(degree, crystals=30, atoms=12, degree=degree)


@pytest.mark.parametrize(("degree", "heads"), [(0, 1), (7, 3), (300, 4), (40, 70)])
def test_softmax_equals_the_cpu(degree: int, heads: int) -> None:
    scores, offsets = random_rows(3, rows=60, degree=degree, heads=heads, size=3.0)
    (on_gpu,) = there([offsets])
    found = orders(lambda s: message_rows.row_softmax(s, on_gpu), there([scores]))
    assert_close(found, orders(lambda s: message_rows.row_softmax(s, offsets), [scores]))


@pytest.mark.parametrize("degree", [0, 5, 24])
def test_line_graphs_and_means_over_them_equal_the_cpu(degree: int) -> None:
    graph = graph_of(degree)
    line, on_gpu = message_gates.line_graph(graph), message_gates.line_graph(graph_there(graph))
    assert_same_bits([tensor.cpu() for tensor in on_gpu], line)
    for here, gpu in ((graph, graph_there(graph)), (line, on_gpu)):
        terms = random_gates(here, 5, channels=33)
        for keep_gates in (True, False):
            found = orders(ours(gpu, keep_gates=keep_gates), there(terms))
            assert_close(found, orders(ours(here, keep_gates=keep_gates), terms))


@pytest.mark.parametrize(("heads", "channels"), [(1, 1), (4, 64), (3, 70)])
def test_heads_equal_the_cpu(heads: int, channels: int) -> None:
    graph = graph_of(12)
    terms = random_heads(graph, 3, heads=heads, channels=channels)
    assert_close(orders(our_heads(graph_there(graph)), there(terms)), orders(our_heads(graph), terms))


def test_bits_repeat() -> None:
    graph = graph_there(graph_of(12))
    terms = there(narrowed(random_gates(graph_there(graph, "cpu"), 3, channels=33)))
    assert_same_bits(orders(ours(graph), terms), orders(ours(graph), terms))
