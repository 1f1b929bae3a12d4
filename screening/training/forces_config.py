"""What a run that learns forces is: crystals, a smooth model, and what its derivatives are compared with.

[data]          files; each entry of `train` is a source with a zero of energy of its own
[model]         architecture and its own settings; it must be smooth
[forces]        labels or noise, and how much each term counts
[training]      the loop, as for `screening train`
"""

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator

from screening.config import Settings
from screening.training.config import CardSettings, DataSettings, InitSettings, LoopSettings, ModelChoice, RunSettings

DEFAULT, SMOOTH = "sieve", {"cutoff": 5.0, "max_neighbors": "all"}


class ForcesSettings(Settings):
    """What is learned: `labels`, `denoising` by the derivative of an energy, or `denoising_by_head`.

    With labels, `energy` (of eV/atom), `force` (of eV/angstrom) and `stress` (of eV/angstrom^3) are the weights of the
    mean errors; a weight of 0 leaves that label unused. With noise, atoms are moved by numbers of deviation `sigma`
    (angstrom): the derivative should pull each back with `stiffness` (eV/angstrom^2) times the way; the head, a vector
    an atom that is not kept, should say the way. `loss` is of each number; huber turns linear at `delta`.
    """

    learn: Literal["labels", "denoising", "denoising_by_head"] = "labels"
    energy: NonNegativeFloat = 1.0
    force: NonNegativeFloat = 1.0
    stress: NonNegativeFloat = 10.0
    sigma: PositiveFloat = 0.1
    stiffness: PositiveFloat = 1.0
    loss: Literal["l1", "mse", "huber"] = "l1"
    delta: PositiveFloat = 0.1

    @model_validator(mode="after")
    def _some(self) -> Self:
        if not (self.energy or self.force or self.stress):
            raise ValueError("energy, force and stress have weight 0; give one of them a weight")
        return self

    @property
    def learns_energies(self) -> bool:
        """Whether labels of energy count."""
        return self.learn == "labels" and bool(self.energy)

    @property
    def differentiates_twice(self) -> bool:
        """Whether the loss is of derivatives: neither energies alone are, nor what a head says."""
        return self.learn == "denoising" or (self.learn == "labels" and bool(self.force or self.stress))


class SmoothModel(ModelChoice):
    """An architecture that is smooth: by default `sieve`, which hears all within 5 angstrom unless told otherwise."""

    architecture: str = DEFAULT

    @model_validator(mode="before")
    @classmethod
    def _smooth_by_default(cls, given: Any) -> Any:
        if not isinstance(given, Mapping) or given.get("architecture", DEFAULT) != DEFAULT:
            return given
        settings = given.get("settings", {})
        return {**given, "settings": {**SMOOTH, **settings}} if isinstance(settings, Mapping) else given


class ForcesConfig(RunSettings):
    """A whole run that learns forces."""

    data: DataSettings
    forces: ForcesSettings = ForcesSettings()
    model: SmoothModel = Field(default_factory=SmoothModel)
    training: LoopSettings = LoopSettings()
    card: CardSettings = CardSettings()
    init: InitSettings | None = None

    @model_validator(mode="after")
    def _divided_by_source(self) -> Self:
        if self.data.split.by not in ("random", "formula") or self.data.split.in_folds:
            raise ValueError("each source is split alike; set data.split.by to random or formula, without folds")
        if self.training.precision != "float32" and self.forces.differentiates_twice:
            raise ValueError("second derivatives lose too much in half precision; set training.precision to float32")
        return self
