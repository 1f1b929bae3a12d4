"""ALIGNN (Choudhary and DeCost, npj Comput. Mater. 7, 185, 2021, arXiv:2106.01829): a graph and its line graph.

Edges are atoms of the line graph, and pairs of edges that share an atom its edges, which know the angle between them.
Layers and sizes are those of the authors' code (github.com/usnistgov/alignn); what it holds but never uses, the
normalisation of edges in the last layers, is left out. Each atom hears its 12 nearest within the cutoff, whole
shells; that code then adds the reverse of each edge that lacks one, and reaches further where atoms are few.

Atoms, edges and pairs each have `width` numbers that every layer changes, so those of edges and pairs exist; to work
the pairs' out anew in each layer would take 2.5 times the products. In evaluation they exist for a block of crystals
at a time, in training for the batch. What pairs know at first is a function of the angle alone: on the CPU a table.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from screening.config import Settings
from screening.graphs import Neighbors
from screening.models import tabulated
from screening.models.blocks import in_blocks, worth_cutting
from screening.models.element_features import one_hot_features, published_features
from screening.models.graph_tensors import GraphTensors
from screening.models.layers import Linear, Moments, SiLU, mean_of_atoms
from screening.models.model import CrystalModel, numbered
from screening.models.radial import GaussianBasis
from screening.ops import message
from screening.ops.message_gates import gated_mean, line_graph
from screening.ops.message_graph import EdgeGraph
from screening.predictions import Target


class ALIGNNSettings(Settings):
    """Sizes of the network; the defaults are those of the authors' code.

    `convolutions` is how many layers see the line graph, `graph_convolutions` how many then see the graph alone;
    `embedding` is the width between a basis and `width`, `distances` and `angles` are the functions of the bases.
    """

    width: PositiveInt = 256
    convolutions: NonNegativeInt = 4
    graph_convolutions: PositiveInt = 4
    embedding: PositiveInt = 64
    distances: Annotated[int, Field(ge=2)] = 80
    angles: Annotated[int, Field(ge=2)] = 40
    elements: Literal["published", "one_hot"] = "published"
    cutoff: PositiveFloat = 8.0
    max_neighbors: PositiveInt = 12


class GatedConvolution(nn.Module):
    """Edge-gated convolution (arXiv:1711.07553) with residual sums, on a graph or a line graph.

    m = A v_i + B v_j + C u; v' = v + silu(BN(W v + sum sigmoid(m) V v_j / (sum sigmoid(m) + 1e-6)));
    u' = u + silu(BN(m)), unless nobody asks for u' (`last`).
    """

    def __init__(self, width: int, *, last: bool) -> None:
        super().__init__()
        self.centre_gate, self.source_gate, self.edge_gate = (Linear(width, width) for _ in range(3))
        self.own, self.value = Linear(width, width), Linear(width, width)
        self.moments = Moments(width)
        self.edge_moments = None if last else Moments(width)

    def forward(
        self, nodes: Tensor, edges: Tensor, graph: EdgeGraph, gates: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Update what nodes and edges know; edges stay as they are if `last`. `gates` is C u where it is known."""
        kept = self.edge_moments is not None
        products = (layer(nodes).to(nodes.dtype) for layer in (self.centre_gate, self.source_gate, self.value))
        centre, source, value = products
        of_edges = self.edge_gate(edges).to(nodes.dtype) if gates is None else gates
        heard, opened = gated_mean(centre, source, value, of_edges, graph, keep_gates=kept)
        updated = self.moments.silu(self.own(nodes).to(nodes.dtype) + heard, nodes)
        if self.edge_moments is None:
            return updated, edges
        return updated, self.edge_moments.silu(opened, edges)


class LineConvolution(nn.Module):
    """A convolution on the graph, then one on the line graph, whose nodes are the edges as the first leaves them."""

    def __init__(self, width: int, *, last: bool) -> None:
        super().__init__()
        self.on_graph = GatedConvolution(width, last=False)
        self.on_line = GatedConvolution(width, last=last)

    def forward(
        self, atoms: Tensor, edges: Tensor, pairs: Tensor, graph: EdgeGraph, line: EdgeGraph, gates: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Update what atoms, edges and pairs of edges know."""
        atoms, edges = self.on_graph(atoms, edges, graph)
        edges, pairs = self.on_line(edges, pairs, line, gates)
        return atoms, edges, pairs


class Layer(nn.Sequential):
    """silu(BN(W x + b))."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__(Linear(before, after), Moments(after), SiLU())

    def forward(self, rows: Tensor, *, counts: Tensor | None = None) -> Tensor:
        """Map each row; with `counts` each stands for so many of a batch."""
        linear, moments = self[0], self[1]
        assert isinstance(moments, Moments)
        return moments.silu(linear(rows).to(rows.dtype), counts=counts)


class ALIGNN(CrystalModel):
    """The atomistic line graph neural network."""

    architecture: ClassVar[str] = "alignn"
    settings_type: ClassVar[type[Settings]] = ALIGNNSettings
    settings: ALIGNNSettings
    element_features: Tensor

    def __init__(self, settings: ALIGNNSettings, targets: Sequence[Target]) -> None:
        super().__init__(settings, targets)
        features = published_features() if settings.elements == "published" else one_hot_features()
        self.register_buffer("element_features", features)
        width, lines, graphs = settings.width, settings.convolutions, settings.graph_convolutions
        self.distances = _basis(0.0, settings.cutoff, settings.distances)
        self.angles = _basis(-1.0, 1.0, settings.angles)
        self.atom_embedding = Layer(features.shape[1], width)
        self.edge_embedding = _embedding(settings.distances, settings.embedding, width)
        self.pair_embedding = _embedding(settings.angles, settings.embedding, width) if lines else None
        self.lines = nn.ModuleList(LineConvolution(width, last=n == lines - 1) for n in range(lines))
        self.convolutions = nn.ModuleList(GatedConvolution(width, last=n == graphs - 1) for n in range(graphs))
        self.heads = Linear(width, len(targets))

    @property
    def neighbors(self) -> Neighbors:
        return Neighbors(self.settings.cutoff, self.settings.max_neighbors)

    @property
    def width(self) -> int:
        return self.settings.width

    def prepared(self, graph: GraphTensors) -> GraphTensors:
        """Add the line graph."""
        if graph.line is not None or self.pair_embedding is None:
            return graph
        return replace(graph, line=line_graph(graph.edge_graph))

    @property
    def stages(self) -> tuple[tuple[str, ...], ...]:
        """The embedding, then each convolution."""
        first = ("element_features", "atom_embedding", "edge_embedding", "pair_embedding")
        return (first, *numbered("lines", self.lines), *numbered("convolutions", self.convolutions))

    def encode(self, graph: GraphTensors) -> Tensor:
        if not worth_cutting(self.training):
            return self._encode(graph)
        table = self._table(None) if tabulated.serves(graph.edge_vector) and self.pair_embedding is not None else None
        return in_blocks(graph, _pair_counts(graph.edge_graph) * self.width, partial(self._encode, table=table))

    def _encode(self, graph: GraphTensors, table: tuple[Tensor, Tensor] | None = None) -> Tensor:
        distance = graph.edge_distance()
        # Embedded atom by atom, for normalisation counts each atom of a batch.
        atoms: Tensor = self.atom_embedding(self.element_features[graph.numbers])
        edges: Tensor = self.edge_embedding(self.distances.expand(distance))
        if self.pair_embedding is not None:
            line = line_graph(graph.edge_graph) if graph.line is None else graph.line
            pairs, gates = self._pairs(cosines(graph.edge_vector, distance, line), table)
            for layer in self.lines:
                atoms, edges, pairs = layer(atoms, edges, pairs, graph.edge_graph, line, gates)
                gates = None
        for layer in self.convolutions:
            atoms, edges = layer(atoms, edges, graph.edge_graph)
        return atoms

    def _pairs(self, cosine: Tensor, table: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor | None]:
        """What pairs know at first, and what that adds to the first gates where it comes from a table."""
        assert self.pair_embedding is not None
        if not tabulated.serves(cosine) or (self.training and len(cosine) < tabulated.KNOTS):
            return self.pair_embedding(self.angles.expand(cosine)), None
        places = tabulated.places(cosine, -1.0, 1.0)
        rows, gates = self._table(places.counts() if self.training else None) if table is None else table
        return tabulated.read(rows, places), tabulated.read(gates, places)

    def _table(self, counts: Tensor | None) -> tuple[Tensor, Tensor]:
        """What a pair knows at first and what its first gate adds up of that, for cosines on a grid.

        In training the moments of a batch are those of the grid, whose points count as often as pairs ask for them.
        """
        assert self.pair_embedding is not None
        first = self.lines[0]
        assert isinstance(first, LineConvolution)
        gate = first.on_line.edge_gate
        rows = self.angles.expand(tabulated.knots(-1.0, 1.0, gate.weight))
        for layer in self.pair_embedding:
            rows = layer(rows, counts=counts)
        return rows, gate(rows)

    def readout(self, atoms: Tensor, graph: GraphTensors) -> Tensor:
        outputs: Tensor = self.heads(mean_of_atoms(atoms, graph.edge_graph))
        return outputs


def cosines(vector: Tensor, distance: Tensor, line: EdgeGraph) -> Tensor:
    """Cosine of the angle at the atom that two edges share, (pairs,): of a -> b and b -> c that at b from a to c."""
    x, y, z = (component / distance for component in vector.unbind(1))
    into = line.edge_source.long()
    each = (one[into] * message.segment_rows(one[:, None], line.edge_offsets, len(into))[:, 0] for one in (x, y, z))
    # Vectors go from the atom that hears: b - a's is a - b, c's is b - c.
    xx, yy, zz = each
    return -(xx + yy + zz)


def _pair_counts(graph: EdgeGraph) -> Tensor:
    """Pairs of edges in each crystal, (crystals,), or edges where these are more."""
    into = graph.edge_offsets.diff().long()[graph.edge_source.long()]
    ends = graph.edge_offsets[graph.atom_offsets.long()].long()
    pairs = nn.functional.pad(into.cumsum(0), (1, 0))[ends]
    return pairs.diff().maximum(ends.diff())


def _basis(start: float, stop: float, number: int) -> GaussianBasis:
    """Gaussians exp(-(x - c)^2 / step), whose squared width is the step, as the authors have it."""
    step = (stop - start) / (number - 1)
    return GaussianBasis(start=start, stop=stop, step=step, width=math.sqrt(step))


def _embedding(rows: int, between: int, width: int) -> nn.Sequential:
    return nn.Sequential(Layer(rows, between), Layer(between, width))
