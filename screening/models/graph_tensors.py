"""A batch of graphs as torch tensors on one device: what every model takes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from screening.crystals.volume import volumes_of
from screening.graphs import Graphs
from screening.ops.message_graph import EdgeGraph


@dataclass(frozen=True, slots=True, eq=False)
class GraphTensors:
    """Atoms and edges of `crystals` crystals, end to end.

    `numbers` (atoms,) int64 atomic numbers; `edge_vector` (edges, 3) of the model's floating type, angstrom, from the
    centre to the neighbour, which may require a gradient; `edge_graph` the topology; `crystal_of_atom` (atoms,) int64;
    `volume` (crystals,) angstrom^3 in the vectors' type, NaN for a crystal that is not periodic in all directions, is
    for stress alone; `line` is the topology of the line graph, where a model has prepared it.
    """

    numbers: Tensor
    edge_vector: Tensor
    edge_graph: EdgeGraph
    crystals: int
    crystal_of_atom: Tensor
    volume: Tensor | None = None
    line: EdgeGraph | None = None

    @classmethod
    def of(cls, graphs: Graphs, *, device: torch.device | str, dtype: torch.dtype) -> "GraphTensors":
        """Move graphs to a device, vectors in this floating type."""
        edges, crystals = graphs.edges, graphs.crystals
        return cls.of_arrays(
            numbers=crystals.numbers,
            atom_offsets=crystals.atom_offsets,
            edge_offsets=edges.edge_offsets,
            edge_source=edges.edge_source,
            edge_vector=edges.edge_vector,
            volume=volumes_of(crystals.lattice, crystals.pbc),
            device=device,
            dtype=dtype,
        )

    @classmethod
    def of_arrays(
        cls,
        *,
        numbers: Any,
        atom_offsets: Any,
        edge_offsets: Any,
        edge_source: Any,
        edge_vector: Any,
        device: torch.device | str,
        dtype: torch.dtype,
        volume: Any = None,
    ) -> "GraphTensors":
        """Move NumPy arrays or tensors that are named as in docs/conventions.md to a device."""
        offsets = _tensor(atom_offsets, device, torch.int32)
        atom_numbers = _tensor(numbers, device, torch.int64)
        crystals = len(offsets) - 1
        crystal_of_atom = torch.repeat_interleave(
            torch.arange(crystals, device=offsets.device), offsets.diff().long(), output_size=len(atom_numbers)
        )
        graph = EdgeGraph(
            _tensor(edge_offsets, device, torch.int32), _tensor(edge_source, device, torch.int32), offsets
        )
        sizes = None if volume is None else _tensor(volume, device, dtype)
        return cls(atom_numbers, _tensor(edge_vector, device, dtype), graph, crystals, crystal_of_atom, sizes)

    def cut(self, ends: Sequence[int]) -> Iterator["GraphTensors"]:
        """Divide the batch before the crystals that `ends` lists, ascending, into batches of whole crystals."""
        graph = self.edge_graph
        atom_ends = graph.atom_offsets[[0, *ends, self.crystals]].tolist()
        edge_ends = graph.edge_offsets[atom_ends].tolist()
        places = pairwise([0, *ends, self.crystals])
        for (a, b), (i, j), (e, f) in zip(places, pairwise(atom_ends), pairwise(edge_ends), strict=True):
            yield GraphTensors(
                self.numbers[i:j],
                self.edge_vector[e:f],
                EdgeGraph(
                    graph.edge_offsets[i : j + 1] - e, graph.edge_source[e:f] - i, graph.atom_offsets[a : b + 1] - i
                ),
                b - a,
                self.crystal_of_atom[i:j] - a,
                None if self.volume is None else self.volume[a:b],
            )

    def edge_distance(self) -> Tensor:
        """Measure the vectors, (edges,)."""
        # Term by term: a sum over columns may round an edge otherwise at the end of a batch than within.
        x, y, z = self.edge_vector.unbind(1)
        return torch.sqrt(x * x + y * y + z * z)


def _tensor(array: Any, device: torch.device | str, dtype: torch.dtype) -> Tensor:
    if isinstance(array, Tensor):
        return array.to(device=device, dtype=dtype)
    given = np.ascontiguousarray(array)
    # torch takes no read-only memory, which packed files are mapped as.
    return torch.from_numpy(given if given.flags.writeable else given.copy()).to(device=device, dtype=dtype)
