"""CrysXPP, the property predictor (Das et al., npj Computational Materials 8, 43, 2022, arXiv:2104.10869).

CGCNN's convolutions between a selector of element features, which a penalty on its size makes sparse and so tells which
of the features count, and perceptrons on the mean of atoms as unit vectors. Layers and sizes are those of the
authors' code (github.com/kdmsit/crysxpp, `Property_prediction_deep`), whose encoder is pre-trained as an autoencoder.
The convolution is CGCNN's, in cgcnn.py; as there a row holds the edges that there are, and no filling. `--init` takes
the embedding over too, which the authors learn anew.
"""

from collections.abc import Sequence
from typing import Annotated, ClassVar

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from screening.config import Settings
from screening.graphs import Neighbors
from screening.models.cgcnn import Convolution
from screening.models.element_features import published_features
from screening.models.graph_tensors import GraphTensors
from screening.models.layers import Heads, Linear, in_classifications, mean_of_atoms, unit_rows
from screening.models.model import CrystalModel, numbered
from screening.models.radial import GaussianBasis
from screening.predictions import Target


class CrysXPPSettings(Settings):
    """Sizes of the network; the defaults are those of the authors' code.

    `sparsity` is the weight of the penalty: the mean size of the selector's 92 factors. `dropout` acts in the heads of
    classifications.
    """

    width: PositiveInt = 64
    convolutions: PositiveInt = 3
    hidden: PositiveInt = 64
    hidden_layers: PositiveInt = 2
    cutoff: PositiveFloat = 8.0
    max_neighbors: PositiveInt = 12
    gaussian_step: PositiveFloat = 0.2
    sparsity: NonNegativeFloat = 0.01
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0


class CrysXPP(CrystalModel):
    """The explainable property predictor."""

    architecture: ClassVar[str] = "crysxpp"
    settings_type: ClassVar[type[Settings]] = CrysXPPSettings
    settings: CrysXPPSettings
    element_features: Tensor

    def __init__(self, settings: CrysXPPSettings, targets: Sequence[Target]) -> None:
        super().__init__(settings, targets)
        features = published_features()
        step = settings.gaussian_step
        self.basis = GaussianBasis(stop=settings.cutoff, step=step, width=step)
        self.register_buffer("element_features", features)
        # It selects what counts for a target: the authors' encoder, which is pre-trained without one, has none.
        self.selector = nn.Parameter(torch.ones(features.shape[1]), requires_grad=bool(targets))
        self.embedding = Linear(features.shape[1], settings.width, bias=False)
        self.convolutions = nn.ModuleList(
            Convolution(settings.width, self.basis.rows) for _ in range(settings.convolutions)
        )
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

    def penalty(self) -> Tensor | None:
        """Press the selector towards zero, where it is learned."""
        return self.settings.sparsity * self.selector.abs().mean() if self.targets else None

    @property
    def stages(self) -> tuple[tuple[str, ...], ...]:
        """The embedding, then each convolution."""
        return (("element_features", "selector", "embedding"), *numbered("convolutions", self.convolutions))

    def encode(self, graph: GraphTensors) -> Tensor:
        radial = self.basis.terms(graph.edge_distance())
        atoms: Tensor = self.embedding(self.element_features * self.selector)[graph.numbers]
        for convolution in self.convolutions:
            atoms = convolution(atoms, radial, graph.edge_graph)
        return atoms

    def readout(self, atoms: Tensor, graph: GraphTensors) -> Tensor:
        outputs: Tensor = self.heads(mean_of_atoms(unit_rows(atoms), graph.edge_graph))
        return outputs
