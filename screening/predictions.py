"""What a model predicts and what predicting gives: plain data, without torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, get_args

from screening.arrays import Float32, Float64
from screening.errors import InputError

TargetKind = Literal["regression", "classification"]
Scale = Literal["linear", "log10"]


class FailureReason(StrEnum):
    """Why a crystal has no prediction. The values are stored in files: add, never rename."""

    MODEL_ERROR = "model_error"
    NON_FINITE_PREDICTION = "non_finite_prediction"
    OUT_OF_MEMORY = "out_of_memory"
    KILLED_WORKER = "killed_worker"
    TIMED_OUT = "timed_out"
    RELAXATION_DIVERGED = "relaxation_diverged"


@dataclass(frozen=True, slots=True)
class Target:
    """One output of a model: a quantity in `unit`, or the probability that the answer is yes.

    `scale` says what is learned of a quantity, its value or the logarithm of its value; predictions and labels are in
    `unit` either way. The labels are those of the target's name, except that a classification `is_metal` also learns
    from `band_gap`: a crystal is a metal exactly when that label is 0.
    """

    name: str
    unit: str
    kind: TargetKind = "regression"
    scale: Scale = "linear"

    def __post_init__(self) -> None:
        if not self.name:
            raise InputError("a target needs a name, such as formation_energy_per_atom")
        for what, choice, choices in (("kind", self.kind, TargetKind), ("scale", self.scale, Scale)):
            if choice not in get_args(choices):
                raise InputError(
                    f"target {self.name}: {what} is {choice!r}; expected {' or '.join(map(repr, get_args(choices)))}"
                )
        if self.kind == "classification" and self.scale != "linear":
            raise InputError(f"target {self.name} is a classification, so its scale is 'linear', got {self.scale!r}")


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """Predictions for crystals in the order they came: one float64 column (crystals,) per target, in its unit.

    `embedding` (crystals, width), where it was asked for, is what the model made of each crystal.
    """

    ids: Sequence[str]
    targets: tuple[Target, ...]
    values: Mapping[str, Float64]
    embedding: Float32 | None = None

    def __len__(self) -> int:
        return len(self.ids)
