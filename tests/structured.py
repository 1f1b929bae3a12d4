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


def encoder(architecture: str = "cgcnn", dtype: torch.dtype = torch.float32) -> CrystalModel:
    """An encoder with random weights, the same in every process."""
    torch.manual_seed(0)
    return build(architecture, SIZES, ()).to(dtype).train()


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
    """The loss and the gradient of batches, in float64."""
    model = encoder(dtype=torch.float64)
    task = structure_task(model, nodes={"masked": 0.3})
    objective = task.objective
    learned = objective.learner(model).double()
    parameters, found = list(learned.parameters()), []
    for rows in (np.arange(30), np.array([3, 17, 21]), np.array([5])):
        part = objective.gather(Batch(rows, ranks.places(task.graphs, rows), epoch=2, seed=7, device="cpu"))
        with ranks.sharing(part.batch.places, len(rows), "cpu"):
            own = objective.sums(_Wide(model), part)
        loss = whole_loss(own, list(objective.weights.values()), ranks)
        differentiate(loss, None, parameters, GradScaler("cpu", enabled=False), ranks)
        numbers = [loss.value, *loss.sums, *loss.counts]
        found.append({"loss": np.array(numbers), "gradient": flattened(parameters).clone().numpy()})
    return found


class _Wide:
    """A model whose graphs are in float64 when it sees them."""

    def __init__(self, model: CrystalModel) -> None:
        self._model = model

    def encode(self, graph: Any) -> torch.Tensor:
        from dataclasses import replace

        return self._model.encode(replace(graph, edge_vector=graph.edge_vector.double()))
