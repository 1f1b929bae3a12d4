"""The equivariant transformer of TorchMD-Net (Thölke and De Fabritiis, ICLR 2022, arXiv:2202.02541).

An atom is described by numbers, which no rotation changes, and by as many vectors, which turn with the crystal. A layer
attends along the atom's edges: a head's weight is silu of query times key times a filter of the distance (eq. 8), and
messages carry numbers, the neighbour's vectors and the direction to it (eq. 9 to 11).

What differs from the authors' code (github.com/torchmd/torchmd-net), and why: filters are cubic splines of the distance
themselves, not silu of a product of 50 functions, so that no tensor of edges x channels exists; the envelope multiplies
all of a message, vectors too, so that forces are continuous at the cutoff; a layer takes products of vectors after it
has heard, so that the first layer's are not zero; the surroundings of an atom enter its first description by a gated
convolution; lengths of the last vectors are part of the description; and outputs are means over atoms, with a term for
each element, which times the atoms of a crystal is an energy.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal, Self

import torch
from pydantic import PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

from screening.config import Settings
from screening.graphs import Neighbors
from screening.models.angular import harmonics, lengths
from screening.models.composition import best_guess
from screening.models.element_features import ELEMENTS, one_hot_features, published_features
from screening.models.graph_tensors import GraphTensors
from screening.models.layers import GatedConv, Heads, Linear, mean_of_atoms
from screening.models.model import CrystalModel, numbered
from screening.models.radial import RadialTerms, SplineBasis
from screening.ops.message_graph import EdgeGraph
from screening.ops.message_vectors import vector_attention
from screening.predictions import Target

FILTERS = 4


class EquivariantTransformerSettings(Settings):
    """Sizes of the network; a head has `width` / `attention_heads` channels, best a multiple of 16.

    With `max_neighbors = "all"` an atom hears all others within the cutoff, which makes the model smooth.
    """

    width: PositiveInt = 64
    convolutions: PositiveInt = 3
    attention_heads: PositiveInt = 4
    hidden: PositiveInt = 64
    hidden_layers: PositiveInt = 1
    cutoff: PositiveFloat = 5.0
    max_neighbors: PositiveInt | Literal["all"] = "all"
    intervals: PositiveInt = 24

    @model_validator(mode="after")
    def _whole_heads(self) -> Self:
        if self.width % self.attention_heads:
            raise ValueError(f"width must be a multiple of attention_heads = {self.attention_heads}")
        return self


class Layer(nn.Module):
    """Attention along edges, then numbers and vectors update each other (eq. 12 and 13)."""

    def __init__(self, width: int, heads: int, radial_rows: int) -> None:
        super().__init__()
        self.heads = heads
        self.before = nn.LayerNorm(width)
        self.query, self.key = Linear(width, width), Linear(width, width)
        self.value = Linear(width, 3 * width)
        self.filters = nn.Parameter(torch.empty(radial_rows, FILTERS * width).uniform_(-1, 1))
        self.mix = Linear(width, 3 * width, bias=False)
        self.output = Linear(width, 3 * width)

    def forward(self, atoms: Tensor, vectors: Tensor, radial: RadialTerms, graph: EdgeGraph) -> tuple[Tensor, Tensor]:
        """Update numbers (atoms, width) and vectors (atoms, 3, width) of each atom by its neighbours."""
        wide = self.filters.dtype
        normal = self.before(atoms)
        # Under autocast products are in half precision; sums over edges are not.
        query, key, value = (part(normal).to(wide) for part in (self.query, self.key, self.value))
        heard = vector_attention(
            query,
            key,
            value,
            vectors,
            self.filters,
            radial.weight,
            radial.first,
            radial.scale,
            graph,
            heads=self.heads,
        )
        vectors = vectors + heard[:, 1:]
        mixed = self.mix(vectors.flatten(0, 1)).to(wide)
        left, right, moved = mixed.view(len(atoms), 3, 3 * atoms.shape[1]).chunk(3, dim=2)
        opened, turned, added = self.output(heard[:, 0]).to(wide).chunk(3, dim=1)
        x, y, z = (left * right).unbind(1)
        return atoms + turned * (x + y + z) + added, vectors + opened[:, None] * moved


class EquivariantTransformer(CrystalModel):
    """Attention that carries vectors."""

    architecture: ClassVar[str] = "equivariant_transformer"
    settings_type: ClassVar[type[Settings]] = EquivariantTransformerSettings
    settings: EquivariantTransformerSettings
    element_features: Tensor

    def __init__(self, settings: EquivariantTransformerSettings, targets: Sequence[Target]) -> None:
        super().__init__(settings, targets)
        features = torch.cat([published_features(), one_hot_features()], dim=1)
        self.basis = SplineBasis(settings.cutoff, settings.intervals, 4)
        self.register_buffer("element_features", features)
        self.embedding = Linear(features.shape[1], settings.width)
        self.surroundings = GatedConv(settings.width, self.basis.rows)
        self.joined = Linear(2 * settings.width, settings.width)
        self.layers = nn.ModuleList(
            Layer(settings.width, settings.attention_heads, self.basis.rows) for _ in range(settings.convolutions)
        )
        self.last = nn.LayerNorm(self.width)
        self.composition = nn.Parameter(torch.zeros(ELEMENTS + 1, len(targets)))
        self.heads = Heads(
            self.width,
            hidden=settings.hidden,
            layers=settings.hidden_layers,
            dropout=[0.0 for _ in targets],
            bare=True,
        )

    @property
    def neighbors(self) -> Neighbors:
        most = self.settings.max_neighbors
        return Neighbors(self.settings.cutoff, None if most == "all" else most)

    @property
    def is_smooth(self) -> bool:
        """Whether all edges within the cutoff are heard: the envelope does the rest."""
        return self.settings.max_neighbors == "all"

    @property
    def width(self) -> int:
        return 2 * self.settings.width

    @property
    def stages(self) -> tuple[tuple[str, ...], ...]:
        """What encodes: the first description of atoms, then the layers."""
        return (("element_features", "embedding", "surroundings", "joined"), *numbered("layers", self.layers))

    @torch.no_grad()
    def start_from(self, fractions: Tensor, learned: Tensor) -> None:
        """Set the terms of elements; classes, which are no sums, keep none."""
        classes = torch.tensor([target.kind == "classification" for target in self.targets])
        self.composition.copy_(best_guess(fractions, learned).masked_fill(classes, 0.0))

    def encode(self, graph: GraphTensors) -> Tensor:
        distance = graph.edge_distance()
        radial = self.basis.terms(distance)
        directed = radial._replace(scale=radial.scale * harmonics(graph.edge_vector, distance, 1))
        features: Tensor = self.embedding(self.element_features)[graph.numbers].to(self.composition.dtype)
        around = self.surroundings(features, radial, graph.edge_graph).flatten(1)
        atoms = self.joined(torch.cat([features, around], dim=1)).to(features.dtype)
        vectors = atoms.new_zeros(len(atoms), 3, atoms.shape[1])
        for layer in self.layers:
            atoms, vectors = layer(atoms, vectors, directed, graph.edge_graph)
        return lengths(torch.cat([atoms[:, None], vectors], dim=1))

    def readout(self, atoms: Tensor, graph: GraphTensors) -> Tensor:
        shares = self.heads(self.last(atoms)).to(self.composition.dtype) + self.composition[graph.numbers]
        return mean_of_atoms(shares, graph.edge_graph)
