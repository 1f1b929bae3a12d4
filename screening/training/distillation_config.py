"""What a distillation run is: a training run, and teachers.

As for `screening train`, and

[distillation]           a teacher's description of atoms, which the student's are drawn to
[predictions]            teachers' predictions, which stand for labels that are missing
"""

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, PositiveFloat, model_validator

from screening.config import Settings
from screening.crystals.labels import canonical
from screening.training.config import TrainingConfig

NODES, OF_TEACHERS = "nodes", " taught"
"""The journal's names of what atoms cost, and of what is added to a target's name for what predictions cost."""


class DistillationSettings(Settings):
    """A teacher (a model file, the folder of a run, a shipped model's name) whose atoms the student's should resemble.

    loss = (1 - alpha) * property + alpha * |student's atoms - teacher's atoms|^2, both of length 1; a projection lies
    between where their widths differ.
    """

    teacher: str
    alpha: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1


class PredictionSettings(Settings):
    """Teachers whose mean prediction of a target stands for its label where that is missing.

    So it is on `crystals`, files of any number of crystals, on which the student learns beside the training crystals;
    and on the training crystals. `weight` is that of such a label against a real one in the mean over both.
    """

    teachers: Annotated[tuple[str, ...], Field(min_length=1)]
    crystals: tuple[Path, ...] = ()
    weight: PositiveFloat = 1.0


class DistillationConfig(TrainingConfig):
    """A whole distillation run. What teachers say is kept in `cache`, by default in the folder of the run."""

    distillation: DistillationSettings | None = None
    predictions: PredictionSettings | None = None
    cache: Path | None = None

    @model_validator(mode="after")
    def _some_teacher(self) -> Self:
        if self.distillation is None and self.predictions is None:
            raise ValueError("nobody teaches; add [distillation] with teacher = MODEL, or [predictions] with teachers")
        if any(name == NODES or name.endswith(OF_TEACHERS) for name in map(canonical, self.targets)):
            raise ValueError(f"the journal calls other terms '{NODES}' and '...{OF_TEACHERS}'; rename that target")
        return self
