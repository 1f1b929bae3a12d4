"""GATGNN (Louis et al., Phys. Chem. Chem. Phys. 22, 18141, 2020, arXiv:2003.13379): attention to edges, then to atoms.

Layers and sizes are those of the authors' code (github.com/superlouis/GATGNN) with its default global attention, by
composition (GI-M1). What of its parameters that default leaves unused is left out. As in cgcnn.py a row holds the edges
that there are, and no filling.

An edge has numbers for every head and channel. Their product splits into terms of atoms and edges; the softplus of the
sum is worked out where it is used and never stored. The term of edges is: leaky ReLU lies before it. In evaluation it
exists for a block of crystals at a time; in training for the batch.
"""

import math
from collections.abc import Sequence
from typing import Annotated, ClassVar

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from screening.config import Settings
from screening.graphs import Neighbors
from screening.models.blocks import in_blocks, worth_cutting
from screening.models.element_features import ELEMENTS, published_features
from screening.models.graph_tensors import GraphTensors
from screening.models.layers import Heads, Linear, Moments, in_classifications, mean_of_atoms
from screening.models.model import CrystalModel, numbered
from screening.models.radial import GaussianBasis
from screening.ops import message, steady
from screening.ops.message_graph import EdgeGraph
from screening.ops.message_heads import head_scores, head_sum
from screening.ops.message_rows import row_softmax
from screening.predictions import Target

LAST_ELEMENT = 103  # of the composition that attention to atoms sees; heavier ones add nothing to it
ATTENTION_WIDTH = 32


class GATGNNSettings(Settings):
    """Sizes of the network; the defaults are those of the authors' code. `dropout` acts in heads of classifications."""

    width: PositiveInt = 64
    convolutions: PositiveInt = 3
    attention_heads: PositiveInt = 4
    hidden: PositiveInt = 64
    hidden_layers: PositiveInt = 2
    cutoff: PositiveFloat = 8.0
    max_neighbors: PositiveInt = 12
    gaussian_step: PositiveFloat = 0.2
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0


class Attention(nn.Module):
    """Augmented attention to edges (AGAT).

    With a = softplus([v_i | u] W) and b = softplus([v_j | u] W) of each head,
    v_i' = mean over heads of sum over edges of softmax(softplus(BN(softplus(p . a + q . b)))) b, plus a bias.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        bound = math.sqrt(6 / (2 * width + heads * width))
        self.of_atoms = nn.Parameter(torch.empty(heads * width, width).uniform_(-bound, bound))
        self.of_edges = nn.Parameter(torch.empty(heads * width, width).uniform_(-bound, bound))
        bound = math.sqrt(6 / (heads + 2 * width))
        self.to_centre = nn.Parameter(torch.empty(heads, width).uniform_(-bound, bound))
        self.to_source = nn.Parameter(torch.empty(heads, width).uniform_(-bound, bound))
        self.moments = Moments(heads)
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, atoms: Tensor, edges: Tensor, graph: EdgeGraph) -> Tensor:
        """Update each atom by its neighbours."""
        of_atoms = steady.linear(atoms, self.of_atoms).to(atoms.dtype)
        of_edges = steady.linear(edges, self.of_edges).to(atoms.dtype)
        scores = head_scores(of_atoms, of_edges, self.to_centre, self.to_source, graph)
        scores = steady.softplus(self.moments(steady.softplus(scores)))
        weights = row_softmax(scores, graph.edge_offsets) / self.heads
        return head_sum(of_atoms, of_edges, weights, graph) + self.bias


class Round(nn.Module):
    """softplus(BN(attention))."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.moments = Moments(width)

    def forward(self, atoms: Tensor, edges: Tensor, graph: EdgeGraph) -> Tensor:
        """Update each atom by its neighbours."""
        return steady.softplus(self.moments(self.attention(atoms, edges, graph)))


class CompositionAttention(nn.Module):
    """How much of a crystal each atom is: softmax over its atoms of a perceptron of the atom and the composition."""

    def __init__(self, width: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(width + LAST_ELEMENT)
        self.of_atom = nn.Parameter(torch.empty(ATTENTION_WIDTH, width).uniform_(-bound, bound))
        self.of_element = nn.Parameter(torch.empty(LAST_ELEMENT, ATTENTION_WIDTH).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(ATTENTION_WIDTH).uniform_(-bound, bound))
        self.score = Linear(ATTENTION_WIDTH, 1)

    def forward(self, atoms: Tensor, graph: GraphTensors) -> Tensor:
        """Weigh atoms, (atoms, 1); the weights of a crystal add up to 1."""
        offsets = graph.edge_graph.atom_offsets
        # The product with fractions of elements is the mean of the elements' rows.
        rows = nn.functional.pad(self.of_element, (0, 0, 1, ELEMENTS - LAST_ELEMENT))
        composition = mean_of_atoms(rows[graph.numbers], graph.edge_graph)
        hidden = steady.linear(atoms, self.of_atom, self.bias).to(atoms.dtype)
        hidden = steady.softplus(hidden + message.segment_rows(composition, offsets, len(atoms)))
        return row_softmax(self.score(hidden).to(atoms.dtype), offsets)


class GATGNN(CrystalModel):
    """The global attention network."""

    architecture: ClassVar[str] = "gatgnn"
    settings_type: ClassVar[type[Settings]] = GATGNNSettings
    settings: GATGNNSettings
    element_features: Tensor

    def __init__(self, settings: GATGNNSettings, targets: Sequence[Target]) -> None:
        super().__init__(settings, targets)
        features = published_features()
        step = settings.gaussian_step
        self.basis = GaussianBasis(stop=settings.cutoff, step=step, width=step)
        self.register_buffer("element_features", features)
        self.embedding = Linear(features.shape[1], settings.width)
        self.edge_embedding = Linear(self.basis.rows, settings.width)
        self.rounds = nn.ModuleList(
            Round(settings.width, settings.attention_heads) for _ in range(settings.convolutions)
        )
        self.attention = CompositionAttention(settings.width)
        self.heads = Heads(
            settings.width,
            hidden=settings.hidden,
            layers=settings.hidden_layers,
            dropout=in_classifications(settings.dropout, targets),
            bare=True,
        )

    @property
    def neighbors(self) -> Neighbors:
        return Neighbors(self.settings.cutoff, self.settings.max_neighbors, exact=True)

    @property
    def width(self) -> int:
        return self.settings.width

    @property
    def stages(self) -> tuple[tuple[str, ...], ...]:
        """The embedding, then each convolution."""
        return (("element_features", "embedding", "edge_embedding"), *numbered("rounds", self.rounds))

    def encode(self, graph: GraphTensors) -> Tensor:
        if not worth_cutting(self.training):
            return self._encode(graph)
        ends = graph.edge_graph.edge_offsets[graph.edge_graph.atom_offsets.long()]
        return in_blocks(graph, ends.diff() * self.settings.attention_heads * self.width, self._encode)

    def _encode(self, graph: GraphTensors) -> Tensor:
        edges = self.edge_embedding(self.basis.expand(graph.edge_distance()))
        edges = nn.functional.leaky_relu(edges, 0.2)
        atoms: Tensor = self.embedding(self.element_features)[graph.numbers]
        for update in self.rounds:
            atoms = update(atoms, edges, graph.edge_graph)
        return atoms

    def readout(self, atoms: Tensor, graph: GraphTensors) -> Tensor:
        weighed = message.segment_sum(atoms * self.attention(atoms, graph), graph.edge_graph.atom_offsets)
        outputs: Tensor = self.heads(weighed)
        return outputs
