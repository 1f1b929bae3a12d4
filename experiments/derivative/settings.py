"""What the study shares: where crystals are, how long runs are, on how many threads."""

from pathlib import Path

from pydantic import PositiveInt

from screening.config import Settings


class EpochSettings(Settings):
    """Epochs of pre-training, the same for every kind, and of fine-tuning by task."""

    pretraining: PositiveInt
    phonons: PositiveInt
    moduli: PositiveInt
    mp2000: PositiveInt
    whole: PositiveInt


class StudySettings(Settings):
    """The whole study; `data` is the folder of the data sets."""

    data: Path
    epochs: EpochSettings
    threads: PositiveInt = 1
    device: str = "cpu"
