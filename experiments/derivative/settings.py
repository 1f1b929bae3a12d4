"""What the study shares: where crystals are, how models are built and trained, which rates are tried."""

from pathlib import Path
from typing import Any

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from screening.config import Settings
from screening.training.config import Fraction


class PretrainingSettings(Settings):
    """How every kind of pre-training runs."""

    epochs: PositiveInt
    rate: PositiveFloat
    batch_size: PositiveInt
    ema_decay: Fraction


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
    """The whole study; `data` is the folder of the data sets, `tuning` the rates that each architecture tries."""

    data: Path
    models: dict[str, dict[str, Any]]
    pretraining: PretrainingSettings
    finetuning: FinetuningSettings
    tuning: dict[str, tuple[PositiveFloat, ...]]
    threads: PositiveInt = 1
    device: str = "cpu"
