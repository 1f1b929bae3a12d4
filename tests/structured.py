"""Small crystals with made-up space groups, an encoder of them, and the objective of structure on both."""

from typing import Any

import numpy as np
import torch
from made import PERIODIC_KINDS, made_crystals
from torch.amp.grad_scaler import GradScaler

from screening.crystals.batch import Crystals
from screening.models.model import CrystalModel
from screening.models.registry import build
from screening.predictions import Target
from screening.training.gradient import differentiate, whole_loss
from screening.training.labelled import LabelledGraphs
from screening.training.loop import Task
from screening.training.objectives.objective import Batch
from screening.training.objectives.structure import Structure
from screening.training.pretraining_config import ObjectivesSettings
from screening.training.ranks import ALONE, Ranks, flattened
from screening.training.splits import Split

# One of each crystal system, some more often, and crystals without a group.
GROUPS = np.array([225, 221, 62, 14, 0, 194, 166, 139, 2, 225])
LABEL = Target("spacegroup_number", "1")
SIZES: dict[str, Any] = {"width": 8, "convolutions": 2, "hidden": 8, "cutoff": 5.0}


def encoder(architecture: str = "cgcnn") -> CrystalModel:
    """An encoder with random weights, the same in every process."""
    torch.manual_seed(0)
    return build(architecture, SIZES, ()).train()


def structure_task(model: CrystalModel, *, count: int = 40, **settings: Any) -> Task:
    """Crystals with groups, ten of them to validate."""
    crystals = Crystals.of(made_crystals(count, seed=1, kinds=PERIODIC_KINDS, max_atoms=6))
    graphs = LabelledGraphs.of([crystals], (LABEL,), model.neighbors)
    split = Split(np.arange(count - 10), np.arange(count - 10, count), np.arange(0))
    groups = GROUPS[np.arange(count) % len(GROUPS)]
    chosen = ObjectivesSettings.model_validate(settings)
    torch.manual_seed(1)
    return Task(graphs, split, Structure(graphs, groups, split.train, chosen, model.width))


def structured(ranks: Ranks, folder: Any) -> list[list[dict[str, Any]]]:
    """Gradients of a batch of many crystals, of few, and of fewer than ranks: by all ranks, and by this one alone."""
    del folder
    return [gradients(who) for who in (ranks, ALONE)]


def gradients(ranks: Ranks) -> list[dict[str, Any]]:
    """The loss and the gradient of batches."""
    model = encoder()
    task = structure_task(model, nodes={"masked": 0.3})
    objective = task.objective
    parameters, found = list(objective.learner(model).parameters()), []
    for rows in (np.arange(30), np.array([3, 17, 21]), np.array([5])):
        part = objective.gather(Batch(rows, ranks.places(task.graphs, rows), epoch=2, seed=7, device="cpu"))
        with ranks.sharing(part.batch.places, len(rows), "cpu"):
            own = objective.sums(model, part)
        loss = whole_loss(own, list(objective.weights.values()), ranks)
        differentiate(loss, None, parameters, GradScaler("cpu", enabled=False), ranks)
        numbers = [loss.value, *loss.sums, *loss.counts]
        found.append({"loss": np.array(numbers), "gradient": flattened(parameters).clone().numpy()})
    return found
