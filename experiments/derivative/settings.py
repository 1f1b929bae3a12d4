"""What the study shares: where crystals are, how models are built and trained, which rates are tried."""

from pathlib import Path
from typing import Any, Self

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from screening.config import Settings
from screening.training.config import Fraction


class PretrainingSettings(Settings):
    """How every kind of pre-training runs, at the rate of these that does best in so many `trial_epochs`."""

    epochs: PositiveInt
    trial_epochs: PositiveInt
    rates: dict[str, tuple[PositiveFloat, ...]]
    batch_size: PositiveInt
    ema_decay: Fraction

    @model_validator(mode="after")
    def _shorter(self) -> Self:
        if self.trial_epochs >= self.epochs:
            raise ValueError(f"trial_epochs is {self.trial_epochs}, not less than epochs, {self.epochs}")
        return self


class EpochSettings(Settings):
    """Epochs of fine-tuning by task."""

    phonons: PositiveInt
    moduli: PositiveInt
    mp2000: PositiveInt
    whole: PositiveInt


class FinetuningSettings(Settings):
    """How fine-tuning runs, at the rates that tuning finds. On all crystals the recipe of the shipped model holds."""

    batch_size: PositiveInt
    weight_decay: NonNegativeFloat
    warmup: Fraction
    ema_decay: Fraction
    epochs: EpochSettings


class StudySettings(Settings):
    """The whole study; `data` is the folder of the data sets, `tuning` the rates that fine-tuning tries."""

    data: Path
    models: dict[str, dict[str, Any]]
    pretraining: PretrainingSettings
    finetuning: FinetuningSettings
    tuning: dict[str, tuple[PositiveFloat, ...]]
    threads: PositiveInt = 1
    device: str = "cpu"
