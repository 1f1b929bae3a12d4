"""Sieve, this project's own network: gated convolutions that see distances and angles, perceptrons between them.

What differs from CGCNN, and why: splines of the distance under a smooth envelope (no jump at the cutoff, 4 table rows
an edge instead of 8), messages summed with harmonics of their directions too (the lengths of these sums know the
angles, for a third more time an edge), atoms normalised before a convolution instead of edges within it (no
second pass over the edges, and two derivatives), residual sums (depth without decay), a perceptron per atom after each
convolution (capacity where it costs no edges), whole shells of neighbours (no order of atoms decides), and outputs that
are a sum: heads over means of atoms, plain and gated, which see the crystal whole, what each atom adds, which is how
energies are made, and a term for each element that starts as the best guess from composition alone.
"""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from screening.config import Settings
from screening.graphs import Neighbors
from screening.models.angular import harmonics, lengths
from screening.models.composition import best_guess
from screening.models.element_features import ELEMENTS, one_hot_features, published_features
from screening.models.graph_tensors import GraphTensors
from screening.models.layers import GatedConv, Heads, Linear, Moments, SiLU, mean_of_atoms
from screening.models.model import CrystalModel, numbered
from screening.models.radial import RadialTerms, SplineBasis
from screening.ops import steady
from screening.ops.message_graph import EdgeGraph
from screening.predictions import Target


class SieveSettings(Settings):
    """Sizes of the network: `intervals` of the splines, `expansion` of the width inside the perceptrons.

    With `max_neighbors = "all"` an atom hears all others within the cutoff, which makes the model smooth.
    """

    width: PositiveInt = 64
    convolutions: PositiveInt = 4
    hidden: PositiveInt = 128
    hidden_layers: PositiveInt = 2
    cutoff: PositiveFloat = 6.0
    max_neighbors: PositiveInt | Literal["all"] = 16
    intervals: PositiveInt = 24
    expansion: PositiveInt = 2
    degree: Literal[0, 1, 2] = 2
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1


class Block(nn.Module):
    """v + W silu(BN(messages of LN(v))), then v + perceptron(BN(v))."""

    def __init__(self, width: int, radial_rows: int, expansion: int, degree: int) -> None:
        super().__init__()
        self.before = nn.LayerNorm(width)
        self.messages = GatedConv(width, radial_rows)
        self.moments = Moments(width * (degree + 1))
        self.mix = Linear(width * (degree + 1), width)
        self.perceptron = nn.Sequential(
            Moments(width),
            Linear(width, expansion * width),
            SiLU(),
            Linear(expansion * width, width),
        )

    def forward(self, atoms: Tensor, radial: RadialTerms, graph: EdgeGraph) -> Tensor:
        """Update each atom by its neighbours."""
        heard = lengths(self.messages(self.before(atoms), radial, graph))
        atoms = atoms + self.mix(self.moments.silu(heard))
        updated: Tensor = atoms + self.perceptron(atoms)
        return updated


class Sieve(CrystalModel):
    """The project's own network."""

    architecture: ClassVar[str] = "sieve"
    settings_type: ClassVar[type[Settings]] = SieveSettings
    settings: SieveSettings

    def __init__(self, settings: SieveSettings, targets: Sequence[Target]) -> None:
        super().__init__(settings, targets)
        features = torch.cat([published_features(), one_hot_features()], dim=1)
        self.basis = SplineBasis(settings.cutoff, settings.intervals, 4)
        self.register_buffer("element_features", features)
        self.embedding = Linear(features.shape[1], settings.width)
        self.blocks = nn.ModuleList(
            Block(settings.width, self.basis.rows, settings.expansion, settings.degree)
            for _ in range(settings.convolutions)
        )
        self.last = Moments(settings.width)
        self.gate = Linear(settings.width, 2 * settings.width)
        self.composition = nn.Parameter(torch.zeros(ELEMENTS + 1, len(targets)))
        self.atomic = nn.Sequential(
            Linear(2 * settings.width, settings.hidden), SiLU(), Linear(settings.hidden, len(targets))
        )
        self.heads = Heads(
            2 * settings.width,
            hidden=settings.hidden,
            layers=settings.hidden_layers,
            dropout=[settings.dropout for _ in targets],
        )

    @property
    def neighbors(self) -> Neighbors:
        most = self.settings.max_neighbors
        return Neighbors(self.settings.cutoff, None if most == "all" else most)

    @property
    def is_smooth(self) -> bool:
        """Whether all edges within the cutoff are heard: the envelope does the rest."""
        return self.settings.max_neighbors == "all"

    @torch.no_grad()
    def start_from(self, fractions: Tensor, learned: Tensor) -> None:
        """Set the terms of elements; classes, which are no sums, keep none."""
        classes = torch.tensor([target.kind == "classification" for target in self.targets])
        self.composition.copy_(best_guess(fractions, learned).masked_fill(classes, 0.0))

    @property
    def width(self) -> int:
        return self.settings.width

    @property
    def stages(self) -> tuple[tuple[str, ...], ...]:
        """The embedding, then each convolution."""
        return (("element_features", "embedding"), *numbered("blocks", self.blocks))

    def encode(self, graph: GraphTensors) -> Tensor:
        distance = graph.edge_distance()
        radial = self.basis.terms(distance)
        radial = radial._replace(scale=radial.scale * harmonics(graph.edge_vector, distance, self.settings.degree))
        atoms: Tensor = self.embedding(self.element_features)[graph.numbers]
        for block in self.blocks:
            atoms = block(atoms, radial, graph.edge_graph)
        return atoms

    def readout(self, atoms: Tensor, graph: GraphTensors) -> Tensor:
        atoms = self.last(atoms)
        opened, value = self.gate(atoms).chunk(2, dim=1)
        described = torch.cat([atoms, steady.sigmoid(opened) * steady.softplus(value)], dim=1)
        outputs: Tensor = self.heads(mean_of_atoms(described, graph.edge_graph))
        shares = self.atomic(described) + self.composition[graph.numbers]
        return outputs + mean_of_atoms(shares, graph.edge_graph)
