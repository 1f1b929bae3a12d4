"""Random terms of message passing: small graphs with empty rows, empty crystals and self edges among them."""

import torch
from torch import Tensor

from screening.ops.message_graph import EdgeGraph


def random_graph(seed: int, *, crystals: int = 5, atoms: int = 5, degree: int = 7) -> EdgeGraph:
    """Crystals of 0 to `atoms` atoms with 0 to `degree` edges each, from anywhere in the crystal."""
    draw = torch.Generator().manual_seed(seed)
    sizes = torch.randint(0, atoms + 1, (crystals,), generator=draw)
    atom_offsets = torch.cat([torch.zeros(1, dtype=torch.long), sizes.cumsum(0)])
    degrees = torch.randint(0, degree + 1, (int(sizes.sum()),), generator=draw)
    edge_offsets = torch.cat([torch.zeros(1, dtype=torch.long), degrees.cumsum(0)])
    home = torch.repeat_interleave(torch.repeat_interleave(torch.arange(crystals), sizes), degrees)
    source = atom_offsets[home] + (torch.rand(len(home), generator=draw) * sizes[home]).long()
    return EdgeGraph(edge_offsets.int(), source.int(), atom_offsets.int())


def random_terms(
    graph: EdgeGraph, seed: int, *, channels: int, span: int, rows: int = 12, scales: int = 1, size: float = 1.0
) -> list[Tensor]:
    """centre, source, table, weight, first, scale in float64."""
    draw = torch.Generator().manual_seed(seed)
    atoms, edges = len(graph.edge_offsets) - 1, len(graph.edge_source)

    def normal(*shape: int) -> Tensor:
        return size * torch.randn(*shape, generator=draw, dtype=torch.float64)

    first = torch.randint(0, rows - span + 1, (edges,), generator=draw).int()
    shapes = (atoms, 2 * channels), (atoms, 2 * channels), (rows, 2 * channels), (edges, span)
    centre, source, table, weight = (normal(*shape) for shape in shapes)
    return [centre, source, table, weight, first, normal(edges, scales)]
