"""CGCNN as published (Xie and Grossman, arXiv:1710.10324), with one head per target (MT-CGCNN, arXiv:1811.05660).

The one difference is at atoms with fewer neighbours than the limit: the original fills their rows with edges of 9
angstrom from the first atom of the crystal, whichever that is in its file; here a row holds the edges that there are.
"""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from screening.config import Settings
from screening.graphs import Neighbors
from screening.models.element_features import one_hot_features, published_features
from screening.models.graph_tensors import GraphTensors
from screening.models.layers import Heads, Linear, Moments, NormalisedGatedConv, in_classifications, mean_of_atoms
from screening.models.model import CrystalModel, numbered
from screening.models.radial import GaussianBasis, RadialTerms
from screening.ops import steady
from screening.ops.message_graph import EdgeGraph
from screening.predictions import Target


class CGCNNSettings(Settings):
    """Sizes of the network; the defaults are those of the original code.

    `elements` is what the model is told of an element: `published` 92 features, or `one_hot`. `dropout` acts in the
    heads of classifications.
    """

    width: PositiveInt = 64
    convolutions: PositiveInt = 3
    hidden: PositiveInt = 128
    hidden_layers: PositiveInt = 1
    elements: Literal["published", "one_hot"] = "published"
    cutoff: PositiveFloat = 8.0
    max_neighbors: PositiveInt = 12
    gaussian_step: PositiveFloat = 0.2
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.5


class Convolution(nn.Module):
    """One round of messages: softplus(v + BN(sum of messages))."""

    def __init__(self, width: int, radial_rows: int) -> None:
        super().__init__()
        self.messages = NormalisedGatedConv(width, radial_rows)
        self.moments = Moments(width)

    def forward(self, atoms: Tensor, radial: RadialTerms, graph: EdgeGraph) -> Tensor:
        """Update each atom by its neighbours."""
        return steady.softplus(atoms + self.moments(self.messages(atoms, radial, graph).squeeze(1)))


class CGCNN(CrystalModel):
    """The crystal graph convolutional network."""

    architecture: ClassVar[str] = "cgcnn"
    settings_type: ClassVar[type[Settings]] = CGCNNSettings
    settings: CGCNNSettings
    element_features: Tensor

    def __init__(self, settings: CGCNNSettings, targets: Sequence[Target]) -> None:
        super().__init__(settings, targets)
        features = published_features() if settings.elements == "published" else one_hot_features()
        step = settings.gaussian_step
        self.basis = GaussianBasis(stop=settings.cutoff, step=step, width=step)
        self.register_buffer("element_features", features)
        self.embedding = Linear(features.shape[1], settings.width)
        self.convolutions = nn.ModuleList(
            Convolution(settings.width, self.basis.rows) for _ in range(settings.convolutions)
        )
        self.heads = Heads(
            settings.width,
            hidden=settings.hidden,
            layers=settings.hidden_layers,
            dropout=in_classifications(settings.dropout, targets),
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
        return (("element_features", "embedding"), *numbered("convolutions", self.convolutions))

    def encode(self, graph: GraphTensors) -> Tensor:
        radial = self.basis.terms(graph.edge_distance())
        atoms: Tensor = self.embedding(self.element_features)[graph.numbers]
        for convolution in self.convolutions:
            atoms = convolution(atoms, radial, graph.edge_graph)
        return atoms

    def readout(self, atoms: Tensor, graph: GraphTensors) -> Tensor:
        outputs: Tensor = self.heads(mean_of_atoms(atoms, graph.edge_graph))
        return outputs
