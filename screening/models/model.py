"""The contract of every model: graphs in, one column per target out."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, NamedTuple, final

import torch
from torch import Tensor, nn

from screening.config import Settings
from screening.crystals.labels import lowest_of
from screening.errors import InputError
from screening.graphs import Neighbors
from screening.models.graph_tensors import GraphTensors
from screening.models.layers import mean_of_atoms
from screening.ops import steady
from screening.predictions import Target


class Scaling(NamedTuple):
    """Mean and deviation of what is learned of a target."""

    mean: float
    std: float


class CrystalModel(nn.Module, ABC):
    """A network that maps a batch of graphs to targets; without targets, an encoder that nothing was read from yet.

    It gives *learned values*: per target a logit, or a quantity (its log10, if the target says so) less a mean and
    divided by a deviation, the target's `Scaling`. Scalings are no part of the weights: they keep their full precision
    whatever the model's, and a checkpoint has them in its header.
    """

    architecture: ClassVar[str]
    settings_type: ClassVar[type[Settings]]

    def __init__(self, settings: Settings, targets: Sequence[Target]) -> None:
        super().__init__()
        names = [target.name for target in targets]
        if len(set(names)) < len(names):
            raise InputError(f"a model needs each target only once, got {names}")
        self.settings = settings
        self.targets = tuple(targets)
        self.scaling = tuple(Scaling(0.0, 1.0) for _ in names)

    @property
    @abstractmethod
    def neighbors(self) -> Neighbors:
        """Which edges the model's graphs have."""

    @property
    @abstractmethod
    def width(self) -> int:
        """How many numbers describe an atom."""

    @property
    def is_smooth(self) -> bool:
        """Whether its outputs and their slopes are continuous in positions, also when an edge crosses the cutoff.

        That takes all edges within the cutoff, for a limited number of neighbours changes by jumps, and an envelope
        under which they fade out. Only of a smooth model the derivatives are forces.
        """
        return False

    @property
    def stages(self) -> tuple[tuple[str, ...], ...]:
        """What encodes, from the input on: names of modules, parameters and buffers by depth; the rest is readout.

        An architecture that names none cannot be started from a checkpoint, nor frozen in part.
        """
        return ()

    def prepared(self, graph: GraphTensors) -> GraphTensors:
        """Add to a graph what the model derives from it in sizes that its data decide; most architectures add nothing.

        A model does so itself where it is missing, but torch.compile takes a model whole only with a prepared graph.
        """
        return graph

    @abstractmethod
    def encode(self, graph: GraphTensors) -> Tensor:
        """Describe each atom in its surroundings, (atoms, width)."""

    @abstractmethod
    def readout(self, atoms: Tensor, graph: GraphTensors) -> Tensor:
        """Turn the atoms of each crystal into learned values, (crystals, targets)."""

    def start_from(self, fractions: Tensor, learned: Tensor) -> None:
        """Set weights by what training crystals are made of, before the first step; most architectures set none.

        `fractions` (crystals, elements + 1): the part of a crystal's atoms that each atomic number has; `learned`
        (crystals, targets) float64: labels as learned values (0 or 1 for classes), NaN where missing.
        """

    def penalty(self) -> Tensor | None:
        """What training adds to the loss of every batch besides errors, a scalar; most architectures add nothing."""
        return None

    def forward(self, graph: GraphTensors) -> Tensor:
        """Compute learned values, (crystals, targets)."""
        return self.readout(self.encode(graph), graph)

    @final
    def embed(self, atoms: Tensor, graph: GraphTensors) -> Tensor:
        """Describe each crystal by the mean of its encoded atoms, (crystals, width)."""
        return mean_of_atoms(atoms, graph.edge_graph)

    @final
    def predict(self, graph: GraphTensors) -> dict[str, Tensor]:
        """Predict each target in its unit, (crystals,) float64; a classification gives the probability of yes."""
        return self.in_units(self(graph))

    @final
    def in_units(self, learned: Tensor) -> dict[str, Tensor]:
        """Turn learned values, (crystals, targets), into predictions, (crystals,) float64 each.

        None is below what its target can be by definition: no gap is negative.
        """
        columns = zip(self.targets, self.scaling, learned.double().unbind(dim=1), strict=True)
        return {target.name: _in_unit(target, scaling, column) for target, scaling, column in columns}

    @final
    def set_scaling(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Set what learned values are multiplied by and added to; it means nothing for classifications."""
        complete = len(mean) == len(std) == len(self.targets)
        if not complete or not all(map(math.isfinite, [*mean, *std])) or not min(std, default=1.0) > 0:
            raise InputError(
                f"scaling needs a mean and a positive deviation for each of {len(self.targets)} targets, "
                f"got {list(mean)} and {list(std)}"
            )
        self.scaling = tuple(Scaling(float(m), float(s)) for m, s in zip(mean, std, strict=True))

    @final
    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @final
    @property
    def dtype(self) -> torch.dtype:
        """The precision of the weights."""
        return next(self.parameters()).dtype


def _in_unit(target: Target, scaling: Scaling, learned: Tensor) -> Tensor:
    if target.kind == "classification":
        return steady.sigmoid(learned)
    value = learned * scaling.std + scaling.mean
    value = steady.power_of_ten(value) if target.scale == "log10" else value
    return value.clamp(min=lowest_of(target.name))


def numbered(name: str, layers: nn.ModuleList) -> tuple[tuple[str, ...], ...]:
    """A stage for each layer of a list."""
    return tuple((f"{name}.{number}",) for number in range(len(layers)))
