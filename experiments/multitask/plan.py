"""Which runs the study is made of, and in which order: plain data."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from screening.errors import InputError
from screening.training.config import TargetSettings, TrainingConfig

FORMATION, GAP, FERMI, METAL = "formation_energy_per_atom", "band_gap", "efermi", "is_metal"
SHORT = {FORMATION: "formation", GAP: "gap", FERMI: "fermi", METAL: "metal"}

Targets = tuple[str, ...]

PAIR: Targets = (FORMATION, GAP)
SINGLES: tuple[Targets, ...] = ((FORMATION,), (GAP,), (FERMI,))
SET_UPS: tuple[Targets, ...] = (PAIR, (FORMATION, FERMI), (GAP, FERMI), (FORMATION, GAP, FERMI))
CLASSIFIED: tuple[Targets, ...] = ((METAL,), (*PAIR, METAL))

# The single tasks end with this ratio of squared errors, as parts of each target's variance: the gap's 0.118 over the
# formation energy's 0.0074. Weighed so, both are half of the loss of the pair.
EVEN = 16.0
# What is learned together, and the weight of the formation energy in it.
LEARNED: tuple[tuple[Targets, float], ...] = (*((targets, 1.0) for targets in SET_UPS), (PAIR, EVEN))

WHOLE = 100
PERCENTS = (10, 25, 50, WHOLE)
SEEDS = (0, 1, 2)


@dataclass(frozen=True, slots=True)
class Run:
    """One training run: these targets, on this part of the training crystals, with this seed.

    The seed also draws the formulas that are held out and the part, so that runs of one seed differ in nothing else.
    `weight` is that of the formation energy in the loss, beside 1 of any other target.
    """

    targets: Targets
    percent: int
    seed: int
    weight: float = 1.0

    @property
    def name(self) -> str:
        """Name of the run's folder."""
        weight = "" if self.weight == 1.0 else f"-weight{self.weight:g}"
        return f"{short(self.targets)}-{self.percent}-seed{self.seed}{weight}"

    @property
    def length(self) -> float:
        """Epochs as a multiple of those on the whole training set.

        Half the crystals in as many epochs would be half the steps, and a learning curve would show both. In as many
        steps it would overfit and cost the same. This is half way: crystals times epochs go with the root of the part.
        """
        return math.sqrt(WHOLE / self.percent)

    @property
    def work(self) -> float:
        """Crystals to learn from, times epochs, as a multiple of a run on the whole training set."""
        return self.length * self.percent / WHOLE


def planned(seeds: Sequence[int] = SEEDS) -> list[Run]:
    """All runs, the whole study of one seed before the next; in a seed what the main question needs comes first.

    Last of all what asks for the cause: the pair with weights that make its targets even.
    """
    first = [(FORMATION,), (GAP,), PAIR, (FERMI,), *SET_UPS[1:]]
    curves = [(targets, percent) for percent in (50, 25, 10) for targets in (*SINGLES[:2], PAIR)]
    of_a_seed = [*((targets, WHOLE) for targets in first), *curves, *((targets, WHOLE) for targets in CLASSIFIED)]
    published = [Run(targets, percent, seed) for seed in seeds for targets, percent in of_a_seed]
    return [*published, *(Run(PAIR, WHOLE, seed, EVEN) for seed in seeds)]


def config_of(run: Run, study: TrainingConfig) -> TrainingConfig:
    """The configuration of a run: the study's, narrowed to the run."""
    absent = [target for target in run.targets if target not in study.targets]
    if absent:
        raise InputError(f"the study's configuration has no target {', '.join(absent)}; add [targets.{absent[0]}]")
    split = study.data.split.model_copy(update={"seed": run.seed})
    epochs = round(study.training.epochs * run.length)
    return study.model_copy(
        update={
            "data": study.data.model_copy(update={"fraction": run.percent / WHOLE, "split": split}),
            "targets": {target: _weighed(study.targets[target], target, run) for target in run.targets},
            "training": study.training.model_copy(update={"epochs": epochs, "seed": run.seed}),
        }
    )


def _weighed(settings: TargetSettings, target: str, run: Run) -> TargetSettings:
    return settings.model_copy(update={"weight": settings.weight * run.weight}) if target == FORMATION else settings


def short(targets: Targets, weight: float = 1.0) -> str:
    """Name targets as folders, tables and figures do; with the weight of the formation energy where it is not 1."""
    times = {FORMATION: "" if weight == 1.0 else f"{weight:g} x "}
    return "+".join(times.get(target, "") + SHORT[target] for target in targets)
