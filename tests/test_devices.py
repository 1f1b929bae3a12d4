"""Kernels refuse arrays of different devices in words: an address of a GPU would end a process that reads it."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from batches import random_cells
from claimed import Claimed
from edges_made import random_graph, random_terms
from torch import Tensor

from screening.ops import (
    core,
    message,
    message_gates,
    message_heads,
    message_rows,
    message_vectors,
    neighbors,
    steady,
    steady_lengths,
    steady_normal,
    steady_windows,
)

pytestmark = pytest.mark.native


class OneElsewhere:
    """The native core, which whenever it is asked is first asked with each array in turn on a GPU."""

    def __init__(self, native: Any) -> None:
        self.native = native
        self.asked: set[str] = set()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        kernel = getattr(self.native, name)

        def ask(*arrays: Any, **named: Any) -> Any:
            for places, others in elsewhere((arrays, named)):
                with pytest.raises(ValueError, match=r"arrays on one device|on the same device|arrays on the CPU"):
                    kernel(*places, **others)
                self.asked.add(name)
            return kernel(*arrays, **named)

        return ask


def elsewhere(value: Any) -> Iterator[Any]:
    """The value with each array in it on a GPU, one at a time; an array without rows is never read, and stays."""
    if isinstance(value, tuple):
        for place, one in enumerate(value):
            for changed in elsewhere(one):
                yield (*value[:place], changed, *value[place + 1 :])
    elif isinstance(value, dict):
        for name, one in value.items():
            for changed in elsewhere(one):
                yield value | {name: changed}
    elif isinstance(value, np.ndarray | Tensor) and len(value):
        yield Claimed(np.asarray(value))


@pytest.fixture
def native(monkeypatch: pytest.MonkeyPatch) -> OneElsewhere:
    asking = OneElsewhere(core.native)
    monkeypatch.setattr(core, "native", asking)
    return asking


def numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


GRAPH = random_graph(5)
ATOMS, EDGES = len(GRAPH.edge_offsets) - 1, len(GRAPH.edge_source)
FIRST = random_terms(GRAPH, 1, channels=2, span=3)[4]
EACH, MANY = (ATOMS, 4), (EDGES, 4)
OPERATORS: dict[str, tuple[Callable[..., Any], list[tuple[int, ...]]]] = {
    "edge_conv": (
        lambda c, s, t, w, k: message.edge_conv(c, s, t, w, FIRST, k, GRAPH),
        [EACH, EACH, (12, 4), (EDGES, 3), (EDGES, 2)],
    ),
    "edge_moments": (
        lambda c, s, t, w: message.edge_moments(c, s, t, w, FIRST, GRAPH),
        [EACH, EACH, (12, 4), (EDGES, 3)],
    ),
    "segment_sum": (lambda rows: message.segment_sum(rows, GRAPH.edge_offsets), [MANY]),
    "row_softmax": (lambda scores: message_rows.row_softmax(scores, GRAPH.edge_offsets), [MANY]),
    "gated_mean": (lambda *terms: message_gates.gated_mean(*terms, GRAPH), [EACH, EACH, EACH, MANY]),
    "head_scores": (lambda *terms: message_heads.head_scores(*terms, GRAPH), [EACH, MANY, (2, 2), (2, 2)]),
    "head_sum": (lambda *terms: message_heads.head_sum(*terms, GRAPH), [EACH, MANY, (EDGES, 2)]),
    "vector_attention": (
        lambda q, k, v, x, t, w, s: message_vectors.vector_attention(q, k, v, x, t, w, FIRST, s, GRAPH, heads=2),
        [EACH, EACH, (ATOMS, 3, 4), (ATOMS, 3, 4), (12, 16), (EDGES, 3), (EDGES, 4)],
    ),
    "linear": (steady.linear, [EACH, (5, 4), (5,)]),
    "softplus": (steady.softplus, [EACH]),
    "silu": (steady.silu, [EACH]),
    "sum_lengths": (lambda sums: steady_lengths.sum_lengths(sums, 1e-3), [(ATOMS, 9, 4)]),
    "normal_silu": (
        lambda rows, weight, bias, onto: steady_normal.normal_silu(
            rows, weight, bias, *steady_normal.column_moments(rows), onto, epsilon=1e-5, of_batch=True
        ),
        [EACH, (4,), (4,), EACH],
    ),
    "normal_silu_second": (
        lambda rows, weight, bias: steady_normal.normal_silu(
            rows, weight, bias, numbers(4), numbers(4).square(), epsilon=1e-5, of_batch=False
        ),
        [EACH, (4,), (4,)],
    ),
    "window_rows": (lambda table: steady_windows.window_rows(table, numbers(EDGES, 3), FIRST), [(12, 4)]),
}


def ask_twice_differentiated(name: str) -> None:
    run, shapes = OPERATORS[name]
    terms = [numbers(*shape).requires_grad_() for shape in shapes]
    found = run(*terms)
    total = sum((one**2).sum() for one in (found if isinstance(found, tuple) else (found,)) if one.requires_grad)
    slopes = torch.autograd.grad(total, terms, create_graph=name != "edge_moments", allow_unused=True)
    if name != "edge_moments":  # which is differentiated once
        torch.autograd.grad(sum((slope**2).sum() for slope in slopes if slope is not None), terms, allow_unused=True)


@pytest.mark.parametrize("name", OPERATORS)
def test_an_array_on_another_device_is_refused(native: OneElsewhere, name: str) -> None:
    ask_twice_differentiated(name)
    assert f"{name}_f64" in native.asked


def test_every_kernel_of_arrays_is_among_them(native: OneElsewhere) -> None:
    for name in OPERATORS:
        ask_twice_differentiated(name)
    assert native.asked == {name for name in dir(native.native) if name.endswith("_f64")}


def test_a_line_graph_has_one_device(native: OneElsewhere) -> None:
    message_gates.line_graph(GRAPH)
    assert native.asked == {"line_graph"}


def test_a_neighbour_list_has_one_device(native: OneElsewhere) -> None:
    neighbors.neighbor_list(*random_cells(3, seed=0).arrays(), cutoff=3.0)
    assert native.asked == {"neighbor_count", "neighbor_fill", "unusable_crystal"}
