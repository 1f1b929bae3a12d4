"""What a pre-training run is: crystals without labels, an encoder, and the objectives that need nothing but structure.

[data]                    files, packed with --space-groups
[model]                   architecture and its own settings; the encoder of it is what learns
[objectives.nodes]        and connectivity, space_group, contrast: a weight each, and settings of their own
[training]                the loop, as for `screening train`
"""

from typing import Annotated, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from screening.config import Settings
from screening.training.config import CardSettings, DataSettings, LoopSettings, ModelChoice, RunSettings


class NodesSettings(Settings):
    """Features of atoms, reconstructed: of the fraction `masked` of atoms, which the encoder sees as no element.

    `masked = 0` hides nothing and reconstructs all, which an encoder can do without looking at neighbours.
    """

    weight: NonNegativeFloat = 0.25
    masked: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.15


class ConnectivitySettings(Settings):
    """How many edges lead from one atom to another, 0 to 5 or more: of `pairs` bonded and as many random pairs an atom.

    A class weighs 1 / (how frequent it is)^`balance`: 0 counts all pairs alike, 1 all classes.
    """

    weight: NonNegativeFloat = 0.25
    pairs: PositiveInt = 1
    balance: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5


class SpaceGroupSettings(Settings):
    """Which of the 230 space groups a crystal has."""

    weight: NonNegativeFloat = 0.25


class ContrastSettings(Settings):
    """Crystals of one crystal system are alike, others not: NT-Xent over a batch at a `temperature`."""

    weight: NonNegativeFloat = 0.25
    temperature: PositiveFloat = 0.07


class ObjectivesSettings(Settings):
    """The objectives; one of weight 0 is left out."""

    nodes: NodesSettings = NodesSettings()
    connectivity: ConnectivitySettings = ConnectivitySettings()
    space_group: SpaceGroupSettings = SpaceGroupSettings()
    contrast: ContrastSettings = ContrastSettings()

    @model_validator(mode="after")
    def _some(self) -> Self:
        if not any(settings.weight for settings in (self.nodes, self.connectivity, self.space_group, self.contrast)):
            raise ValueError("every objective has weight 0; give one of them a weight")
        return self

    @property
    def need_groups(self) -> bool:
        """Whether crystals must know their space groups."""
        return self.space_group.weight > 0 or self.contrast.weight > 0


class PretrainingConfig(RunSettings):
    """A whole pre-training run."""

    data: DataSettings
    model: ModelChoice = ModelChoice()
    objectives: ObjectivesSettings = ObjectivesSettings()
    training: LoopSettings = LoopSettings()
    card: CardSettings = CardSettings()

    @model_validator(mode="after")
    def _one_split(self) -> Self:
        if self.data.split.in_folds:
            raise ValueError("pre-training has no folds; set data.split.by to random, formula or files")
        return self
