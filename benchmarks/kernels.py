"""Every kernel that models are made of against plain PyTorch, on one thread of the CPU: forward, and each derivative.

Plain PyTorch is the definition that the kernel is tested against, in float32 on the same numbers; of line graphs, which
are defined by loops, an index computation. Contestants take turns, in memory that is kept. A second derivative is that
of a sum over the first ones along a direction, its pass alone.

    python benchmarks/kernels.py [--quick] [--json PATH]
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import timing
import torch
from derivatives import leaves, random_like
from made import PERIODIC_KINDS, made_crystals
from torch import Tensor

from screening.crystals.batch import Crystals
from screening.graphs import Neighbors, pack_graphs
from screening.models.angular import SOFTENING, harmonics
from screening.models.graph_tensors import GraphTensors
from screening.models.radial import SplineBasis
from screening.ops import (
    core,
    message,
    message_gates,
    message_heads,
    message_rows,
    message_vectors,
    reference_message,
    steady,
)
from screening.ops.message_graph import EdgeGraph
from screening.ops.steady_lengths import plain_sum_lengths, sum_lengths
from screening.ops.steady_normal import normal_silu

WIDTH, HEADS = 64, 4
EPSILON = 1e-5
# Atoms of a large batch: of few the calls themselves would be measured.
BATCH = 4096
CUTOFF = 5.0
Function = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel and its definition, what both are given, what time is divided by, and how often models derive it."""

    name: str
    both: tuple[Function, Function]
    given: Sequence[Tensor]
    count: int
    unit: str
    orders: int


def run(*, quick: bool = False) -> list[timing.Row]:
    """Measure each kernel and each order that a model asks of it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    timing.keep_memory()
    with core.using_threads(1):
        rows = [row for kernel in _kernels(8 if quick else 64) for row in _rows(kernel, 3 if quick else 15)]
    torch.set_num_threads(before)
    return rows


def _kernels(crystals: int) -> list[Kernel]:
    """Attention over vectors and smooth convolutions hear all within the cutoff, the others the 12 nearest."""
    made = Crystals.of(made_crystals(crystals, seed=1, max_atoms=24, kinds=PERIODIC_KINDS))
    graphs = [
        GraphTensors.of(pack_graphs(made, neighbors), device="cpu", dtype=torch.float32)
        for neighbors in (Neighbors(CUTOFF, None), Neighbors(8.0, 12))
    ]
    return [*_smooth(graphs[0]), *_of_students(graphs[1]), *_of_atoms(BATCH if crystals > 8 else 100)]


def _of_atoms(atoms: int) -> list[Kernel]:
    """What is done to each atom between convolutions."""
    (sums,) = _drawn((atoms, 9, WIDTH))
    rows, *columns = _drawn((atoms, 3 * WIDTH), *4 * [(3 * WIDTH,)])
    mean, variance = columns[2], columns[3].square()

    def normalised(rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return normal_silu(rows, weight, bias, mean, variance, epsilon=EPSILON, of_batch=False)

    def by_torch(rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        by = torch.nn.functional.batch_norm
        return torch.nn.functional.silu(by(rows, mean, variance, weight, bias, training=False, eps=EPSILON))

    lengths = partial(sum_lengths, softening=SOFTENING), partial(plain_sum_lengths, softening=SOFTENING)
    return [
        Kernel("sum_lengths, 9 harmonics", lengths, [sums], atoms, "atom", 3),
        Kernel("normal_silu", (normalised, by_torch), [rows, *columns[:2]], atoms, "atom", 3),
        Kernel("silu", (steady.silu, torch.nn.functional.silu), [rows], atoms, "atom", 3),
    ]


def _smooth(graph: GraphTensors) -> list[Kernel]:
    edges, atoms = graph.edge_graph, len(graph.numbers)
    distance = graph.edge_distance()
    basis = SplineBasis(CUTOFF)
    radial = basis.terms(distance)
    ways = [radial.scale * harmonics(graph.edge_vector, distance, degree) for degree in (1, 2)]
    of_edges = (radial.weight, radial.first)
    of_atoms = _drawn((atoms, WIDTH), (atoms, WIDTH), (atoms, 3, WIDTH), (atoms, 3, WIDTH), (basis.rows, 4 * WIDTH))
    terms = _drawn((atoms, 2 * WIDTH), (atoms, 2 * WIDTH), (basis.rows, 2 * WIDTH))
    count = len(distance)

    def with_graph(function: Function, **more: object) -> Function:
        return lambda *given: function(*given, edges, **more)

    attention = (
        with_graph(message_vectors.vector_attention, heads=HEADS),
        with_graph(reference_message.vector_attention, heads=HEADS),
    )
    return [
        Kernel(
            "edge_conv, 9 harmonics",
            (with_graph(message.edge_conv), with_graph(reference_message.edge_conv)),
            [*terms, *of_edges, ways[1]],
            count,
            "edge",
            3,
        ),
        Kernel(
            "vector_attention, 4 heads",
            attention,
            [*of_atoms, *of_edges, ways[0]],
            count,
            "edge",
            3,
        ),
    ]


def _of_students(graph: GraphTensors) -> list[Kernel]:
    edges, atoms, count = graph.edge_graph, len(graph.numbers), len(graph.edge_vector)
    line = message_gates.line_graph(edges)
    pairs = len(line.edge_source)

    def means(of: EdgeGraph) -> tuple[Function, Function]:
        def first(function: Function) -> Function:
            return lambda *given: function(*given, of)[0]

        return first(message_gates.gated_mean), first(reference_message.gated_mean)

    def heads(function: Function) -> Function:
        return lambda *given: function(*given, edges)

    wide = HEADS * WIDTH
    lines = (partial(message_gates.line_graph, edges), partial(_paired, edges))
    scores = (heads(message_heads.head_scores), heads(reference_message.head_scores))
    sums = (heads(message_heads.head_sum), heads(reference_message.head_sum))
    softmax = (
        lambda given: message_rows.row_softmax(given, edges.edge_offsets),
        lambda given: reference_message.row_softmax(given, edges.edge_offsets),
    )
    return [
        Kernel("line_graph", lines, [], pairs, "pair", 1),
        Kernel("gated_mean of atoms", means(edges), _mean_terms(atoms, count), count, "edge", 2),
        Kernel("gated_mean of edges", means(line), _mean_terms(count, pairs), pairs, "pair", 2),
        Kernel("row_softmax, 4 heads", softmax, _drawn((count, HEADS)), count, "edge", 2),
        Kernel(
            "head_scores, 4 heads",
            scores,
            _drawn((atoms, wide), (count, wide), (HEADS, WIDTH), (HEADS, WIDTH)),
            count,
            "edge",
            2,
        ),
        Kernel("head_sum, 4 heads", sums, _drawn((atoms, wide), (count, wide), (count, HEADS)), count, "edge", 2),
    ]


def _mean_terms(atoms: int, edges: int) -> list[Tensor]:
    return _drawn(*[(atoms, WIDTH)] * 3, (edges, WIDTH))


def _drawn(*shapes: tuple[int, ...]) -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=draw) for shape in shapes]


def _paired(graph: EdgeGraph) -> EdgeGraph:
    """The line graph by indices alone, without a loop."""
    offsets, sources = graph.edge_offsets.long(), graph.edge_source.long()
    counts = offsets.diff()[sources]
    ends = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    first = torch.repeat_interleave(offsets[sources] - ends[:-1], counts)
    paired = first + torch.arange(int(ends[-1]))
    return EdgeGraph(ends.int(), paired.int(), graph.edge_offsets[graph.atom_offsets.long()])


def _rows(kernel: Kernel, rounds: int) -> list[timing.Row]:
    passes = {name: _passes(function, kernel) for name, function in zip(("ours", "torch"), kernel.both, strict=True)}
    rows = []
    for order, what in enumerate(("forward", "first derivatives", "second derivatives")[: kernel.orders]):
        seconds = timing.interleaved({name: calls[order] for name, calls in passes.items()}, rounds)
        each = {name: 1e9 * median(times) / kernel.count for name, times in seconds.items()}
        rows.append(
            timing.Row(
                f"{kernel.name}, {what}",
                f"ns/{kernel.unit}",
                each["ours"],
                "PyTorch",
                each["torch"],
                timing.paired_ratio(seconds["torch"], seconds["ours"]),
            )
        )
    return rows


def _passes(function: Function, kernel: Kernel) -> list[Callable[[], object]]:
    """The forward pass, and that of each order of derivatives by itself."""
    calls: list[Callable[[], object]] = [lambda: _without_graph(function, kernel.given)]
    if kernel.orders > 1:
        terms = leaves(kernel.given)
        moving = [term for term in terms if term.requires_grad]
        output = function(*terms)
        (along,) = leaves(random_like([output], 1))
        calls.append(partial(torch.autograd.grad, [output], moving, [along.detach()], retain_graph=True))
    if kernel.orders > 2:
        first = torch.autograd.grad([output], moving, [along], create_graph=True)
        options: Mapping[str, Any] = {"retain_graph": True, "allow_unused": True}
        calls.append(partial(torch.autograd.grad, first, [*moving, along], random_like(first, 2), **options))
    return calls


@torch.no_grad()
def _without_graph(function: Function, given: Sequence[Tensor]) -> object:
    return function(*given)


if __name__ == "__main__":
    timing.main(run)
