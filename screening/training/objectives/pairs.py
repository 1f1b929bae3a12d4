"""Pairs of atoms and how many edges lead from the first to the second, without listing all N^2 of them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from screening.models.graph_tensors import GraphTensors

# 0, 1, 2, 3, 4, and 5 or more edges.
CLASSES = 6


def sampled_pairs(graph: GraphTensors, bonded: Sequence[Tensor], free: Sequence[Tensor]) -> dict[str, Tensor]:
    """Pair each atom once for each draw (atoms,) in [0, 1): with the source of one of its edges, or any atom around.

    Gives `centre` and `other`, atoms of the batch, and `edges`, how many edges of the centre come from the other, at
    most 5. A pair drawn as bonded for an atom without edges is drawn at random instead.
    """
    edges, offsets = graph.edge_graph, graph.edge_graph.edge_offsets.long()
    atoms = torch.arange(len(graph.numbers), device=graph.numbers.device)
    starts = edges.atom_offsets.long()
    first, size = starts[graph.crystal_of_atom], starts.diff()[graph.crystal_of_atom]
    begin, length = offsets[:-1], offsets.diff()
    # One more, so that a batch without edges has something to look up and leave.
    sources = torch.nn.functional.pad(edges.edge_source.long(), (0, 1))
    others = []
    for draw in bonded:
        edge = begin + _place(draw, length)
        others.append(torch.where(length > 0, sources[edge], first + _place(draw, size)))
    others += [first + _place(draw, size) for draw in free]
    centre, other = atoms.repeat(len(others)), torch.cat(others)
    return {"centre": centre, "other": other, "edges": edges_between(graph, centre, other).clamp(max=CLASSES - 1)}


def edges_between(graph: GraphTensors, centre: Tensor, other: Tensor) -> Tensor:
    """Count the edges of each centre that come from the other atom, (pairs,)."""
    offsets = graph.edge_graph.edge_offsets.long()
    length = offsets.diff()[centre]
    ends = length.cumsum(0)
    pair = torch.repeat_interleave(torch.arange(len(centre), device=centre.device), length)
    edge = torch.arange(len(pair), device=centre.device) + (offsets[centre] - ends + length)[pair]
    hits = (graph.edge_graph.edge_source[edge].long() == other[pair]).long()
    # Differences of a running sum: whole numbers, so exact, and no sum that depends on the order of threads.
    running = torch.nn.functional.pad(hits.cumsum(0), (1, 0))
    return running[ends] - running[ends - length]


def _place(draw: Tensor, size: Tensor) -> Tensor:
    return (draw * size).long().clamp(max=(size - 1).clamp(min=0))
