"""Message passing on a GPU: the convolution of CGCNN, 64 wide with 12 neighbours, against the same in eager PyTorch.

Inference and a training step in atoms per second, and the kernel alone in bytes per second against a copy: each term,
coefficient and sum is counted once, which is the least that a kernel can move. Both convolutions have the same weights
and their results are compared first. No rows without a GPU.

    python benchmarks/message_gpu.py [--quick] [--json PATH]
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import gpu
import timing
import torch
from batches import random_cells
from torch import Tensor, nn

from screening.models.radial import GaussianBasis, RadialTerms
from screening.ops import message, neighbors
from screening.ops.message_graph import EdgeGraph

WIDTH, NEIGHBORS, CUTOFF = 64, 12, 8.0
BASIS = GaussianBasis(stop=CUTOFF, step=0.2, width=0.2)
CALLS = 20
COPIED_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Batch:
    """Crystals as both take them: coefficients and offsets; neighbours (atoms, 12) and Gaussians (atoms, 12, rows)."""

    name: str
    features: Tensor
    radial: RadialTerms
    graph: EdgeGraph
    neighbors: Tensor
    gaussians: Tensor

    @property
    def atoms(self) -> int:
        """How many atoms it has."""
        return len(self.features)


class Eager(nn.Module):
    """The messages of the published code: a row of 2 x 64 + 41 values an edge, one product, one normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.full = nn.Linear(2 * WIDTH + BASIS.rows, 2 * WIDTH)
        self.norm = nn.BatchNorm1d(2 * WIDTH)

    def forward(self, features: Tensor, batch: Batch) -> Tensor:
        """Sum the messages into each atom."""
        around = features[batch.neighbors]
        rows = torch.cat([features[:, None].expand_as(around), around, batch.gaussians], dim=2)
        rows = self.norm(self.full(rows).flatten(0, 1)).unflatten(0, around.shape[:2])
        gate, core_rows = rows.chunk(2, dim=2)
        summed: Tensor = (torch.sigmoid(gate) * nn.functional.softplus(core_rows)).sum(dim=1)
        return summed


class Fused(nn.Module):
    """The same with the product split by what it depends on, on the native kernels."""

    def __init__(self, eager: Eager) -> None:
        super().__init__()
        self.full, self.norm = eager.full, eager.norm

    def terms(self, features: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Give the normalised terms of centres, sources and distances."""
        weight = self.full.weight
        centre = nn.functional.linear(features, weight[:, :WIDTH], self.full.bias)
        source = nn.functional.linear(features, weight[:, WIDTH : 2 * WIDTH])
        table = weight[:, 2 * WIDTH :].T.contiguous()
        mean, variance = self.norm.running_mean, self.norm.running_var
        assert mean is not None
        assert variance is not None
        if self.training:
            mean, variance = message.edge_moments(
                centre, source, table, batch.radial.weight, batch.radial.first, batch.graph
            )
        factor = self.norm.weight * torch.rsqrt(variance + self.norm.eps)
        return centre * factor + (self.norm.bias - mean * factor), source * factor, table * factor

    def forward(self, features: Tensor, batch: Batch) -> Tensor:
        """Sum the messages into each atom."""
        return message.edge_conv(
            *self.terms(features, batch), batch.radial.weight, batch.radial.first, batch.radial.scale, batch.graph
        )


def run(*, quick: bool = False) -> list[timing.Row]:
    """Measure batches as a screen and as a training have them."""
    absence = gpu.absence()
    if absence:
        print(f"message_gpu: nothing measured, {absence}", file=sys.stderr)
        return []
    rounds = 3 if quick else 7
    sizes = (256, 1000) if quick else (256, 5000)
    return [row for crystals in sizes for row in measured(made(crystals, "cuda"), rounds)]


def made(crystals: int, device: str) -> Batch:
    """Random crystals of 22 atoms on average with the 12 nearest neighbours of each atom, and random features."""
    cells = random_cells(crystals, seed=1, atoms=(4, 40), density=0.058)
    edges = neighbors.neighbor_list(*cells.arrays(), cutoff=CUTOFF, max_neighbors=NEIGHBORS, exact=True)
    atoms = len(cells.positions)
    if len(edges.edge_source) != NEIGHBORS * atoms:
        raise RuntimeError(f"some atoms have less than {NEIGHBORS} neighbours, so rows would have to be padded")
    distance = torch.from_numpy(edges.edge_distance).float().to(device)
    offsets, source, atom_offsets = (
        torch.from_numpy(array).to(device) for array in (edges.edge_offsets, edges.edge_source, cells.atom_offsets)
    )
    grid = BASIS.start + BASIS.step * torch.arange(BASIS.rows, device=device)
    return Batch(
        name=f"{crystals} crystals, {atoms} atoms",
        features=torch.randn(atoms, WIDTH, generator=torch.Generator().manual_seed(0)).to(device),
        radial=BASIS.terms(distance),
        graph=EdgeGraph(offsets, source, atom_offsets),
        neighbors=source.long().view(atoms, NEIGHBORS),
        gaussians=torch.exp(-(((distance[:, None] - grid) / BASIS.width) ** 2)).view(atoms, NEIGHBORS, BASIS.rows),
    )


def measured(batch: Batch, rounds: int) -> list[timing.Row]:
    """Rates of inference, of the kernel and of a training step."""
    torch.manual_seed(0)
    eager = Eager().to(batch.features.device)
    fused = Fused(eager)
    both: dict[str, nn.Module] = {"fused": fused, "eager PyTorch": eager}
    rows = []
    for name, training, step in (("inference", False, infer), ("training step", True, train)):
        for convolution in both.values():
            convolution.train(training)
        torch.testing.assert_close(fused(batch.features, batch), eager(batch.features, batch), rtol=1e-3, atol=1e-3)
        seconds = timed({who: partial(step, convolution, batch) for who, convolution in both.items()}, rounds)
        rows.append(
            timing.versus_fastest(f"{batch.name}, {name}", seconds, ours="fused", count=batch.atoms, unit="atoms/s")
        )
    return [*rows, bandwidth(fused.eval(), batch, rounds)]


def infer(convolution: nn.Module, batch: Batch) -> None:
    """Convolve once."""
    with torch.inference_mode():
        convolution(batch.features, batch)


def train(convolution: nn.Module, batch: Batch) -> None:
    """Convolve and derive with respect to the features and all weights."""
    features = batch.features.detach().requires_grad_()
    torch.autograd.grad(convolution(features, batch).square().mean(), [features, *convolution.parameters()])


def bandwidth(fused: Fused, batch: Batch, rounds: int) -> timing.Row:
    """What the kernel alone moves in a second, beside a copy within the device's memory."""
    with torch.inference_mode():
        terms, radial, graph = fused.terms(batch.features, batch), batch.radial, batch.graph
        edge_values = (radial.weight, radial.first, radial.scale, graph.edge_source)
        # The sums are as large as the features.
        moved = sum(array.nbytes for array in (*terms, *edge_values, graph.edge_offsets, batch.features))
        origin = torch.zeros(COPIED_BYTES // 2, dtype=torch.uint8, device=batch.features.device)
        copy = torch.empty_like(origin)
        calls: dict[str, Callable[[], Any]] = {
            "kernel": lambda: message.edge_conv(*terms, radial.weight, radial.first, radial.scale, graph),
            "copy": partial(copy.copy_, origin),
        }
        seconds = timed(calls, rounds)
    ours, theirs = moved / median(seconds["kernel"]) / 1e9, COPIED_BYTES / median(seconds["copy"]) / 1e9
    return timing.Row(f"{batch.name}, kernel", "GB/s", ours, "copy", theirs, ratio=ours / theirs)


def timed(calls: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of a call, of several that are waited for together."""
    seconds = timing.interleaved({name: partial(repeated, call) for name, call in calls.items()}, rounds)
    return {name: [total / CALLS for total in totals] for name, totals in seconds.items()}


def repeated(call: Callable[[], Any]) -> None:
    """Call some times and wait for the device, so that waiting is not what is measured."""
    for _ in range(CALLS):
        call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    timing.main(run)
