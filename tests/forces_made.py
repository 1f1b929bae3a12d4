"""Crystals with energies, forces and stress, and what tests make of them."""

import numpy as np
import torch
from made import PERIODIC_KINDS, made_crystals
from sizes import SMOOTH, small

from screening.crystals.batch import Crystals
from screening.crystals.crystal import Crystal
from screening.models.model import CrystalModel
from screening.models.registry import build
from screening.training.labelled import LabelledGraphs
from screening.training.lessons.forces import ENERGY, LEARNED
from screening.training.material import Listener
from screening.training.mechanics import STRESS, VOLUME
from screening.training.objectives.forces import Sources
from screening.training.objectives.objective import Batch


def labelled(count: int, *, seed: int, prefix: str = "made", missing: float = 0.2) -> list[Crystal]:
    return made_crystals(
        count,
        seed=seed,
        kinds=PERIODIC_KINDS,
        max_atoms=4,
        labels=("energy",),
        missing=missing,
        forces=True,
        prefix=prefix,
    )


def small_sieve(**more: object) -> CrystalModel:
    torch.manual_seed(1)
    return build("sieve", small("sieve") | SMOOTH["sieve"] | more, (LEARNED,))


def graphs_of(crystals: list[Crystal], model: CrystalModel) -> LabelledGraphs:
    labels = (ENERGY, VOLUME, *STRESS)
    return LabelledGraphs.of([Crystals.of(crystals)], labels, model.neighbors, forces=True)


def alone(crystals: int) -> Sources:
    return Sources(("one",), np.zeros(crystals, np.int64))


SILENT = Listener(lambda text: None, lambda progress: None)


def batch(*rows: int, epoch: int = 0) -> Batch:
    return Batch(np.array(rows), np.arange(len(rows)), epoch, 7, "cpu")
