"""Message operators on a GPU against the CPU; tests/test_message_cuda_twin.py has the same without a GPU."""

from typing import Any

import pytest
import torch
from derivatives import assert_as_exact_as, assert_close, assert_same_bits, narrowed, orders
from edges_made import random_graph, random_terms

from screening.ops import message, reference_message
from screening.ops.message_graph import EdgeGraph

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module", autouse=True)
def usable() -> None:
    if not torch.cuda.is_available():
        pytest.skip("torch cannot use a CUDA device: torch.cuda.is_available() is False")


def there(tensors: Any, device: str = "cuda") -> list[torch.Tensor]:
    return [tensor.to(device) for tensor in tensors]


def graph_there(graph: EdgeGraph, device: str = "cuda") -> EdgeGraph:
    return EdgeGraph(*there(graph, device))


def conv(graph: EdgeGraph, operators: Any = message) -> Any:
    return lambda *terms: operators.edge_conv(*terms, graph)


def moments(graph: EdgeGraph, operators: Any = message) -> Any:
    return lambda *terms: operators.edge_moments(*terms, graph)


@pytest.mark.parametrize("span", [3, 4, 8])
@pytest.mark.parametrize("channels", [1, 5, 32, 64, 65, 200])
def test_values_and_derivatives_equal_the_cpu(channels: int, span: int) -> None:
    graph = random_graph(channels + span, crystals=40, atoms=20, degree=24)
    terms = random_terms(graph, 7, channels=channels, span=span, rows=48)
    assert_close(orders(conv(graph_there(graph)), there(terms)), orders(conv(graph), terms))
    found = orders(moments(graph_there(graph)), there(terms[:5]), second=False)
    assert_close(found, orders(moments(graph), terms[:5], second=False))


@pytest.mark.parametrize("sizes", [{"crystals": 0}, {"atoms": 0}, {"degree": 0}], ids=str)
def test_without_edges_sums_are_zero(sizes: dict[str, int]) -> None:
    graph = random_graph(3, **sizes)
    terms = random_terms(graph, 3, channels=3, span=4)
    assert_close(orders(conv(graph_there(graph)), there(terms)), orders(conv(graph), terms))
    found = orders(moments(graph_there(graph)), there(terms[:5]), second=False)
    assert_close(found, orders(moments(graph), terms[:5], second=False))


@pytest.mark.parametrize("fixed", [(3,), (5,), (3, 5)])
def test_derivatives_that_are_not_wanted_change_no_other(fixed: tuple[int, ...]) -> None:
    graph = random_graph(11)
    terms = random_terms(graph, 7, channels=4, span=4)
    found = orders(conv(graph_there(graph)), there(terms), fixed=fixed)
    assert_close(found, orders(conv(graph), terms, fixed=fixed))


def test_a_large_batch_equals_the_cpu() -> None:
    graph = random_graph(12, crystals=2000, atoms=40, degree=24)
    terms = random_terms(graph, 7, channels=8, span=8, rows=48)
    assert_close(orders(conv(graph_there(graph)), there(terms)), orders(conv(graph), terms))


@pytest.mark.parametrize(("size", "times"), [(0.1, 2), (1.0, 2), (10.0, 6)])
def test_float_errors_are_as_those_of_the_float_reference(size: float, times: float) -> None:
    graph = random_graph(5, crystals=30, atoms=12, degree=16)
    terms = there(random_terms(graph, 9, channels=32, span=4, size=size))
    graph = graph_there(graph)
    assert_as_exact_as(conv(graph, reference_message), conv(graph), terms, times=times)
    assert_as_exact_as(moments(graph, reference_message), moments(graph), terms[:5], times=times, second=False)


def test_runs_repeat_to_the_last_bit() -> None:
    graph = random_graph(6, crystals=500, atoms=20, degree=24)
    terms = there(narrowed(random_terms(graph, 3, channels=64, span=8)))
    runs = [
        orders(conv(graph_there(graph)), terms) + orders(moments(graph_there(graph)), terms[:5], second=False)
        for _ in range(4)
    ]
    for run in runs[1:]:
        assert_same_bits(run, runs[0])


def test_another_stream_and_work_in_flight_change_nothing() -> None:
    graph = random_graph(7, crystals=100, atoms=12, degree=16)
    terms = there(random_terms(graph, 3, channels=16, span=4))
    right = orders(conv(graph_there(graph)), terms)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        busy = torch.ones(4096, 4096, device="cuda")
        for _ in range(20):
            busy = (busy @ busy).clamp(max=1.0)
        # The centres exist only once the stream has come this far.
        found = orders(conv(graph_there(graph)), [terms[0] + 0.0 * busy[0, 0], *terms[1:]])
    stream.synchronize()
    assert_same_bits(found, right)


def test_segments_are_summed_in_order() -> None:
    offsets = torch.tensor([0, 3, 3, 4, 9], dtype=torch.int32)
    rows = torch.randn(9, 5)
    found = message.segment_sum(rows.cuda(), offsets.cuda())
    assert torch.equal(found.cpu(), message.segment_sum(rows, offsets))


def test_no_memory_is_kept_from_call_to_call() -> None:
    graph = random_graph(8, crystals=300, atoms=20, degree=24)
    terms = there(narrowed(random_terms(graph, 3, channels=64, span=8)))
    orders(conv(graph_there(graph)), terms)
    torch.cuda.synchronize()
    free = torch.cuda.mem_get_info()[0]
    for _ in range(10):
        orders(conv(graph_there(graph)), terms)
        torch.cuda.synchronize()
    assert free - torch.cuda.mem_get_info()[0] < 64 << 20


def test_compiled_functions_give_the_same() -> None:
    graph = graph_there(random_graph(9, crystals=20, atoms=8, degree=12))
    terms = there(random_terms(random_graph(9, crystals=20, atoms=8, degree=12), 3, channels=8, span=4))

    def summed(*given: torch.Tensor) -> torch.Tensor:
        return message.segment_sum(message.edge_conv(*given, graph), graph.atom_offsets)

    assert_close([torch.compile(summed)(*terms)], [summed(*terms)])
