"""What the study shares: where crystals are, how long runs are, how each architecture is built and trained."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PositiveFloat, PositiveInt

from screening.config import Settings


class CrystalSettings(Settings):
    """Files of crystals. `enumeration` is a specification; `pools` are how many crystals encoders learn from."""

    train: Path
    validation: Path
    unlabelled: tuple[Path, ...]
    phonons: Path
    enumeration: Path
    enumeration_settings: tuple[str, ...] = ()
    pools: dict[str, PositiveInt]
    workers: PositiveInt = 2


class LengthSettings(Settings):
    """How long runs are: epochs, and for pre-training about how many crystals are seen in all, in whole epochs."""

    pretraining_crystals: PositiveInt
    subset: PositiveInt
    whole: PositiveInt
    fifth: PositiveInt
    moduli: PositiveInt
    phonons: PositiveInt


class ArchitectureSettings(Settings):
    """An architecture as students are: its sizes, its batch, and the rate it learns at, where that is not tuned."""

    settings: dict[str, Any] = Field(default_factory=dict)
    rate: PositiveFloat = 4e-3
    batch_size: PositiveInt = 64
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0


class TuningSettings(Settings):
    """What is tried on the subset with seed 0, per kind of run; the best on validation is used everywhere.

    Vanilla runs try rates. What starts or learns from an encoder takes the rate that was best for them, and tries as
    many values of its own at most.
    """

    rates: tuple[PositiveFloat, ...] = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
    encoder_rates: tuple[PositiveFloat, ...] = (0.3, 1.0)
    alphas: tuple[PositiveFloat, ...] = (0.02, 0.1, 0.5)


class StudySettings(Settings):
    """The whole study."""

    crystals: CrystalSettings
    lengths: LengthSettings
    architectures: dict[str, ArchitectureSettings]
    teacher: ArchitectureSettings
    tuning: TuningSettings = TuningSettings()
    seeds: tuple[int, ...] = (0, 1)
    whole_seeds: tuple[int, ...] = (0, 1, 2)
    pool: str = "60k"
    threads: PositiveInt = 1
    device: str = "cpu"
