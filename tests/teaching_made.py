"""Small models that teach, and crystals that they are asked of."""

from pathlib import Path
from typing import Any

import torch
from made import PERIODIC_KINDS, made_crystals

from screening.crystals.batch import Crystals
from screening.models import checkpoint
from screening.models.header import Card
from screening.models.model import CrystalModel
from screening.models.registry import build
from screening.predictions import Target
from screening.training.config import LoopSettings
from screening.training.labelled import LabelledGraphs

ENERGY, GAP = Target("formation_energy_per_atom", "eV/atom"), Target("band_gap", "eV")
SETTINGS = LoopSettings(batch_size=7)
SIZES: dict[str, Any] = {"width": 8, "convolutions": 1, "hidden": 8, "cutoff": 5.0}


def made(*targets: Target, seed: int = 0, **sizes: Any) -> CrystalModel:
    torch.manual_seed(seed)
    return build("cgcnn", SIZES | sizes, targets).train()


def labelled(neighbors: Any = None, count: int = 20, seed: int = 3) -> LabelledGraphs:
    crystals = Crystals.of(made_crystals(count, seed=seed, kinds=PERIODIC_KINDS, max_atoms=5))
    return LabelledGraphs.of([crystals], (ENERGY, GAP), neighbors or made(GAP).neighbors)


GRAPHS = labelled()


def never(neighbors: object) -> LabelledGraphs:
    raise AssertionError("the edges are those of the student")


def saved(folder: Path, *targets: Target, seed: int = 0, **sizes: Any) -> str:
    folder.mkdir(exist_ok=True)
    checkpoint.save(made(*targets, seed=seed, **sizes), folder / "model.safetensors", Card())
    return str(folder)
