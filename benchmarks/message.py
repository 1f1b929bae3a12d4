"""Message passing on one thread of the CPU: nanoseconds an edge, and how near that is to what the processor can do.

The bound counts vector operations of one edge and channel, as the AVX-512 code has them, at the rate at which a product
of matrices gets its multiply-adds through here. It is no hard one: operations that are no multiply-adds have execution
units besides.

    python benchmarks/message.py [--quick] [--json PATH]
"""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import timing
import torch
from made import PERIODIC_KINDS, made_crystals
from torch import Tensor

from screening.crystals.batch import Crystals
from screening.graphs import Neighbors, pack_graphs
from screening.models.angular import harmonics
from screening.models.graph_tensors import GraphTensors
from screening.models.radial import GaussianBasis, RadialBasis, SplineBasis
from screening.ops import core, message

CHANNELS = 64
SIDE = 1024
COPIED_BYTES = 1 << 28
# Vector operations of an edge and channel besides a multiply-add for each row of the table, twice (gate and core), and
# for each scale: two sums of centre and source, and the gate, of which two exponentials are 24. Backward, its slopes.
FORWARD, BACKWARD = 2 + 46, 2 + 59
BASES: dict[str, tuple[RadialBasis, int]] = {
    "8 Gaussians": (GaussianBasis(), 0),
    "4 splines": (SplineBasis(8.0), 0),
    "4 splines, 9 harmonics": (SplineBasis(8.0), 2),
}


def run(*, quick: bool = False) -> list[timing.Row]:
    """Measure the bounds first, then the convolution forward and backward for each basis."""
    rounds = 5 if quick else 40
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with core.using_threads(1):
        adds = SIDE**3 / _seconds(_product(), rounds)
        copied = torch.empty(COPIED_BYTES, dtype=torch.uint8)
        bandwidth = 2 * COPIED_BYTES / _seconds(partial(copied.clone().copy_, copied), rounds)
        rows = [
            timing.Row("multiply-adds of a product of matrices", "1e9/s", adds / 1e9),
            timing.Row("copying memory, read and written", "GB/s", bandwidth / 1e9),
        ]
        for name, (basis, degree) in BASES.items():
            rows += _convolution(name, basis, degree, adds, rounds)
    torch.set_num_threads(before)
    return rows


def _product() -> Callable[[], object]:
    one, other, result = (torch.rand(SIDE, SIDE) for _ in range(3))
    return partial(torch.mm, one, other, out=result)


def _convolution(name: str, basis: RadialBasis, degree: int, adds: float, rounds: int) -> list[timing.Row]:
    crystals = Crystals.of(made_crystals(256, seed=1, max_atoms=24, kinds=PERIODIC_KINDS))
    graph = GraphTensors.of(pack_graphs(crystals, Neighbors(8.0, 12)), device="cpu", dtype=torch.float32)
    distance = graph.edge_distance()
    radial = basis.terms(distance)
    scale = radial.scale * harmonics(graph.edge_vector, distance, degree)
    shapes = [(len(graph.numbers), 2 * CHANNELS)] * 2 + [(basis.rows, 2 * CHANNELS)]
    terms = [torch.randn(shape, generator=torch.Generator().manual_seed(0)) for shape in shapes]

    def forward(terms: list[Tensor]) -> Tensor:
        centre, source, table = terms
        return message.edge_conv(centre, source, table, radial.weight, radial.first, scale, graph.edge_graph)

    learned = [term.clone().requires_grad_() for term in terms]
    result = forward(learned)
    upstream = torch.ones_like(result)

    def backward() -> None:
        torch.autograd.grad(result, learned, upstream, retain_graph=True)

    edges, window = len(distance), radial.weight.shape[1]
    found = []
    ways: dict[str, tuple[Callable[[], object], int, int]] = {
        "forward": (partial(forward, terms), FORWARD, 1),
        "backward": (backward, BACKWARD, 2),
    }
    for what, (call, fixed, tables) in ways.items():
        nanoseconds = 1e9 * _seconds(call, rounds) / edges
        operations = CHANNELS * (fixed + 2 * window * tables + scale.shape[1])
        bound = 1e9 * operations / adds
        found += [
            timing.Row(f"{name}, {what}", "ns/edge", nanoseconds),
            timing.Row(f"{name}, {what}: operations over what was possible in that time", "1", bound / nanoseconds),
        ]
    return found


def _seconds(call: Callable[[], object], rounds: int) -> float:
    return median(timing.interleaved({"it": call}, rounds)["it"])


if __name__ == "__main__":
    timing.main(run)
