"""Neighbour lists on a GPU: edges per second and bytes written per second, against the CPU twin with all threads.

The first row is the published yardstick: 512 cells of 64 atoms, 5 angstrom, 913 thousand edges in 0.22 ms on an H100
(a published figure). Ours counts, allocates and fills exactly, through the Python interface. No rows without a GPU.

    python benchmarks/neighbor_lists_gpu.py [--quick] [--json PATH]
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import gpu
import timing
from batches import Flat, assert_same_bits, random_cells

from screening.ops import core, neighbors
from screening.ops.edges import BYTES_PER_EDGE, EdgeArrays

YARDSTICK_MS = 0.22
YARDSTICK_DENSITY = 0.0532  # gives the 28 edges an atom of the published figure
CALLS = 20


@dataclass(frozen=True, slots=True)
class Load:
    """A batch, and the list that is wanted of it."""

    name: str
    cells: Flat
    cutoff: float
    max_neighbors: int | None = None


def run(*, quick: bool = False) -> list[timing.Row]:
    """Measure the yardstick, batches as a screen has them, graphs of 12 neighbours and large cells."""
    absence = gpu.absence()
    if absence:
        print(f"neighbor_lists_gpu: nothing measured, {absence}", file=sys.stderr)
        return []
    rounds = 3 if quick else 7
    return [row for load in loads(quick=quick) for row in measured(load, rounds)]


def loads(*, quick: bool) -> list[Load]:
    """What is measured; the yardstick first."""
    count, atoms = (2000, 20_000) if quick else (20_000, 200_000)
    many = random_cells(count, seed=1, atoms=(4, 40), density=0.058)
    return [
        Load(
            "512 x 64 atoms, 5 A", random_cells(512, seed=0, atoms=(64, 64), skew=0.2, density=YARDSTICK_DENSITY), 5.0
        ),
        Load(f"{count} crystals of 22 atoms, 6 A", many, 6.0),
        Load(f"{count} crystals of 22 atoms, 12 neighbours", many, 8.0, 12),
        Load(f"one cell of {atoms} atoms, 5 A", random_cells(1, seed=2, atoms=(atoms, atoms), density=0.058), 5.0),
    ]


def measured(load: Load, rounds: int) -> list[timing.Row]:
    """Rates on the GPU and beside the CPU twin; their edges are compared first."""
    import torch

    on_device = [torch.from_numpy(array).cuda() for array in load.cells.arrays()]
    limits: dict[str, Any] = {"cutoff": load.cutoff, "max_neighbors": load.max_neighbors}
    found: EdgeArrays = neighbors.neighbor_list(*load.cells.arrays(), **limits)
    ours: EdgeArrays = neighbors.neighbor_list(*on_device, **limits)
    assert_same_bits(EdgeArrays(*(array.cpu().numpy() for array in ours)), found)
    edges = len(found.edge_source)
    threads = core.threads()
    contestants: dict[str, Callable[[], object]] = {
        "GPU": partial(finished, partial(neighbors.neighbor_list, *on_device, **limits)),
        f"CPU twin, {threads} threads": partial(neighbors.neighbor_list, *load.cells.arrays(), **limits),
    }
    seconds = timing.interleaved(contestants, rounds)
    seconds["GPU"] = [total / CALLS for total in seconds["GPU"]]
    rows = [timing.versus_fastest(f"{load.name}, GPU", seconds, ours="GPU", count=edges, unit="edges/s")]
    milliseconds = 1e3 * median(seconds["GPU"])
    rows.append(timing.Row(f"{load.name}, written", "GB/s", edges * BYTES_PER_EDGE / milliseconds / 1e6))
    if load.name.startswith("512"):
        ratio = YARDSTICK_MS / milliseconds
        rows.append(
            timing.Row(load.name, "ms", milliseconds, "published, H100", YARDSTICK_MS, ratio=ratio, at_least=1.0)
        )
    return rows


def finished(call: Callable[[], object]) -> None:
    """Call some times and wait for the device, so that waiting is not what is measured."""
    import torch

    for _ in range(CALLS):
        call()
    torch.cuda.synchronize()


if __name__ == "__main__":
    timing.main(run)
