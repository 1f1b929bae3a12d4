"""What a training run is: its data, targets, model and schedule, as a TOML file says it.

[data]                                     files, and how they are split
[model]                                    architecture and its own settings
[targets.formation_energy_per_atom]        one table per head, in the order of the heads
[training]                                 the loop; [training.optimiser] and [training.schedule] within it
"""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from screening.config import Settings
from screening.crystals.labels import canonical, unit_of
from screening.predictions import Scale, Target, TargetKind

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]


class LossName(StrEnum):
    """How far a prediction is from a label; `bce` is the cross entropy of a classification."""

    MSE = "mse"
    L1 = "l1"
    HUBER = "huber"
    SMOOTH_L1 = "smooth_l1"
    BCE = "bce"


class TargetSettings(Settings):
    """One head: what it predicts, and what its error costs.

    `delta` is where huber and smooth_l1 turn linear, in deviations of the training labels. On the scale log10 a label
    that is not positive counts as missing.
    """

    kind: TargetKind = "regression"
    scale: Scale = "linear"
    unit: str | None = None
    loss: LossName | None = None
    delta: PositiveFloat = 1.0
    weight: NonNegativeFloat = 1.0

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        classes = self.kind == "classification"
        if classes and (self.scale != "linear" or self.loss not in (None, LossName.BCE)):
            raise ValueError("a classification has scale = 'linear' and loss = 'bce'")
        if self.loss is LossName.BCE and not classes:
            raise ValueError("bce is the loss of a classification; set kind = 'classification' or another loss")
        return self

    @property
    def resolved_loss(self) -> LossName:
        """The loss asked for, or the usual one of the kind."""
        return self.loss or (LossName.BCE if self.kind == "classification" else LossName.MSE)

    def target(self, name: str) -> Target:
        """The target as a checkpoint stores it."""
        unit = "1" if self.kind == "classification" else unit_of(name)
        return Target(canonical(name), unit if self.unit is None else self.unit, self.kind, self.scale)


class ModelChoice(Settings):
    """An architecture by its registered name, and its settings, which it checks itself."""

    architecture: str = "cgcnn"
    settings: dict[str, Any] = Field(default_factory=dict)


class SplitSettings(Settings):
    """How crystals are divided.

    `files`: validation and test are files of their own; without test files, `held_formulas` of the training crystals,
    no formula of which is trained on, are the test set. `random`: fractions. `formula`: fractions, no reduced formula
    on two sides. `folds`: the label `fold` of the crystals says in which fold each is tested. With `folds` set
    (`random` and `formula`) or with the given ones, a run is repeated per fold, each in turn the test set, and
    `validation` is taken from the rest; `fold` runs a single one.
    """

    by: Literal["files", "random", "formula", "folds"] = "random"
    validation: Fraction = 0.1
    test: Fraction = 0.0
    held_formulas: Fraction = 0.0
    folds: Annotated[int, Field(ge=2)] | None = None
    fold: Annotated[int, Field(ge=0)] | None = None
    seed: int = 0

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.validation + self.test >= 1.0:
            raise ValueError("validation and test leave nothing to train on: their sum must be below 1")
        if self.held_formulas and self.by != "files":
            raise ValueError("held_formulas is for by = 'files'; by = 'formula' with test = F holds formulas out too")
        if self.folds is not None and self.by not in ("random", "formula"):
            raise ValueError("folds = N is for by = 'random' or 'formula'; by = 'folds' takes the label `fold`")
        if self.fold is not None and not self.in_folds:
            raise ValueError("fold = K chooses one fold; set folds = N or by = 'folds'")
        if self.fold is not None and self.folds is not None and self.fold >= self.folds:
            raise ValueError(f"fold must be below folds = {self.folds}, counted from 0")
        return self

    @property
    def in_folds(self) -> bool:
        """Whether each fold is a run of its own."""
        return self.folds is not None or self.by == "folds"


class DataSettings(Settings):
    """Files to read, of any format, relative to the current folder.

    `fraction` keeps that part of the training crystals; `workers` processes read them.
    """

    train: Annotated[tuple[Path, ...], Field(min_length=1)]
    validation: tuple[Path, ...] = ()
    test: tuple[Path, ...] = ()
    split: SplitSettings = SplitSettings()
    fraction: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    workers: PositiveInt = 1

    @model_validator(mode="after")
    def _files_fit_the_split(self) -> Self:
        if self.split.by == "files" and not self.validation:
            raise ValueError("split.by = 'files' needs validation = [files]")
        if self.split.by != "files" and (self.validation or self.test):
            raise ValueError("validation and test files need split.by = 'files'")
        if self.split.held_formulas and self.test:
            raise ValueError("there is one test set: give test files or split.held_formulas")
        return self


class OptimiserSettings(Settings):
    """The update rule. Weight decay spares biases, scales and other vectors."""

    name: Literal["adamw", "adam", "sgd"] = "adamw"
    rate: PositiveFloat = 1e-3
    weight_decay: NonNegativeFloat = 0.0
    momentum: Fraction = 0.9
    beta2: Fraction = 0.999


class ScheduleSettings(Settings):
    """How the learning rate moves over the run, as a factor of the optimiser's rate.

    `one_cycle`: rises over the fraction `warmup` from 1 / `start_div` to 1, falls to 1 / `end_div`, both as a cosine.
    `cosine`: a linear rise over `warmup`, then a cosine to 1 / `end_div`. `multistep`: times `factor` at each
    milestone, a fraction of the run.
    """

    name: Literal["constant", "one_cycle", "cosine", "multistep"] = "one_cycle"
    warmup: Fraction = 0.3
    start_div: Annotated[float, Field(ge=1.0)] = 25.0
    end_div: Annotated[float, Field(ge=1.0)] = 1e4
    milestones: tuple[Annotated[float, Field(gt=0.0, lt=1.0)], ...] = (0.5, 0.75)
    factor: Annotated[float, Field(gt=0.0, le=1.0)] = 0.1


class LoopSettings(Settings):
    """The loop. A batch has about `batch_size` crystals, fewer when they exceed `max_atoms` or `max_edges`.

    `select` is the validation metric by which the best epoch is chosen and patience is counted: `loss`, or
    `target.metric`, such as `band_gap.mae`; auc, r2, spearman, accuracies and recall count upwards. Without validation
    crystals the last epoch is kept.
    """

    epochs: PositiveInt = 30
    batch_size: PositiveInt = 128
    max_atoms: PositiveInt = 50_000
    max_edges: PositiveInt = 1_000_000
    optimiser: OptimiserSettings = OptimiserSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    ema_decay: Fraction | None = None
    clip_norm: PositiveFloat | None = None
    patience: PositiveInt | None = None
    select: str = "loss"
    device: str = "cpu"
    precision: Literal["float32", "bf16", "fp16"] = "float32"
    threads: PositiveInt | None = None
    seed: int = 0
    save_every_s: NonNegativeFloat = 120.0


class CardSettings(Settings):
    """What the model's card says of it beyond what is measured; a title is made of architecture and targets."""

    title: str = ""
    description: str = ""
    licence: str = ""
    limits: str = ""


class InitSettings(Settings):
    """What a model starts from: a model file, the folder of a run, or a shipped model's name.

    Its encoder is taken over whole. So are its readout and the heads of targets that have the same names, except
    `new_heads`; `readout = false` starts all that follows the encoder anew, as does a checkpoint without targets.
    The first `frozen` stages of the encoder stay as they are (`all`: the whole of it, and only what follows learns). A
    stage learns at `decay` times the rate of the one after it, the last at `rate` times that of what follows.
    """

    checkpoint: str
    readout: bool = True
    new_heads: tuple[str, ...] = ()
    frozen: NonNegativeInt | Literal["all"] = 0
    rate: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    decay: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0


class RunSettings(Settings):
    """What every kind of run has; each declares the fields in the order in which its file is written."""

    if TYPE_CHECKING:
        data: DataSettings
        model: ModelChoice
        training: LoopSettings
        card: CardSettings


class TrainingConfig(RunSettings):
    """A whole run."""

    data: DataSettings
    targets: Annotated[dict[str, TargetSettings], Field(min_length=1)]
    model: ModelChoice = ModelChoice()
    training: LoopSettings = LoopSettings()
    card: CardSettings = CardSettings()
    init: InitSettings | None = None

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        names = [canonical(name) for name in self.targets]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"targets {', '.join(twice)} are named twice, once by another name")
        if not any(settings.weight for settings in self.targets.values()):
            raise ValueError("every target has weight 0; give one of them a weight")
        unknown = sorted(set(map(canonical, self.init.new_heads if self.init else ())) - set(names))
        if unknown:
            raise ValueError(f"init.new_heads names {', '.join(unknown)}, which is no target of this run")
        return self

    @property
    def heads(self) -> tuple[Target, ...]:
        """The targets in the order of the model's heads."""
        return tuple(settings.target(name) for name, settings in self.targets.items())
