"""A model as a potential: crystals in, their energies, forces and stresses out, as NumPy arrays in float64."""

import copy
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from screening.arrays import Float64, Int64
from screening.crystals.batch import Crystals
from screening.graphs import graph_batches
from screening.inference import in_order, usable_device, work_alone
from screening.models.derivatives import energy_column, energy_forces_stress
from screening.models.graph_tensors import GraphTensors
from screening.models.model import CrystalModel
from screening.ops import core

# What derivatives keep in memory is several times what a prediction does.
MAX_EDGES, MAX_ATOMS = 60_000, 2_000
# Farther than this part of the cutoff an atom is next to nothing to another: the envelope is 0.016 there.
NEAR = 0.9


@dataclass(frozen=True, slots=True, eq=False)
class Surface:
    """Where crystals are on the potential: `energy` (crystals,) eV a cell, `forces` (atoms, 3) eV/angstrom.

    `stress` (crystals, 3, 3) is in eV/angstrom^3, tension positive, NaN unless a crystal is periodic in all directions.
    `lonely` (crystals,) is how many atoms have no neighbour as near as `NEAR` of the cutoff.
    """

    energy: Float64
    forces: Float64
    stress: Float64
    lonely: Int64


def _unlearning(model: CrystalModel) -> CrystalModel:
    """The same model on the same memory, whose weights want no gradient: only positions do, and nothing is in vain."""
    kept: dict[int, Any] = {id(one): nn.Parameter(one.detach(), requires_grad=False) for one in model.parameters()}
    return copy.deepcopy(model, kept | {id(one): one for one in model.buffers()})


class Potential:
    """A model of `screening train-forces`, on a device. On the CPU each of `threads` threads takes whole batches.

    A crystal has the same energy, forces and stress whatever else it is asked for with (on the CPU to the last bit).

    >>> with Potential(model) as potential:
    ...     forces = potential(crystals).forces
    """

    def __init__(
        self,
        model: CrystalModel,
        *,
        device: torch.device | str = "cpu",
        threads: int | None = None,
        max_atoms: int = MAX_ATOMS,
        max_edges: int = MAX_EDGES,
    ) -> None:
        self.energy_target = model.targets[energy_column(model)]
        self.device = usable_device(device)
        self.model = _unlearning(model.to(self.device)).eval()
        self._max_atoms, self._max_edges = max_atoms, max_edges
        self._threads = core.thread_count(threads) if self.device.type == "cpu" else 1
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="potential", initializer=work_alone)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def __call__(self, crystals: Crystals) -> Surface:
        """Evaluate crystals, any number of them."""
        share = -(-len(crystals.numbers) // self._threads)
        pieces = crystals.cut(max(1, min(share, self._max_atoms)))
        found = [part for parts in in_order(self._pool, self._parts, pieces, ahead=2 * self._threads) for part in parts]
        return _joined(found)

    def here(self, crystals: Crystals) -> Surface:
        """Evaluate crystals in this thread, which works alone, instead of those that belong to the potential."""
        return _joined(self._parts(crystals))

    def _parts(self, crystals: Crystals) -> list[Surface]:
        batches = graph_batches([crystals], self.model.neighbors, max_edges=self._max_edges, max_atoms=self._max_atoms)
        tensors = (GraphTensors.of(graphs, device=self.device, dtype=self.model.dtype) for graphs in batches)
        return [self._one(graph) for graph in tensors]

    def _one(self, graph: GraphTensors) -> Surface:
        found = energy_forces_stress(self.model, graph)
        energy, forces, stress = (column.double().cpu().numpy() for column in found)
        return Surface(energy, forces, stress, self._lonely(graph).cpu().numpy())

    def _lonely(self, graph: GraphTensors) -> Tensor:
        near = graph.edge_distance() < NEAR * self.model.neighbors.cutoff
        seen = torch.nn.functional.pad(near.cumsum(0), (1, 0))[graph.edge_graph.edge_offsets.long()].diff()
        return torch.bincount(graph.crystal_of_atom[seen == 0], minlength=graph.crystals)


def _joined(parts: Sequence[Surface]) -> Surface:
    return Surface(
        np.concatenate([np.empty(0), *(part.energy for part in parts)]),
        np.concatenate([np.empty((0, 3)), *(part.forces for part in parts)]),
        np.concatenate([np.empty((0, 3, 3)), *(part.stress for part in parts)]),
        np.concatenate([np.empty(0, np.int64), *(part.lonely for part in parts)]),
    )
