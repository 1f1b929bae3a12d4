"""Learning from labels: a loss of each target over the crystals that have a label of it, as losses.py has it."""

from collections.abc import Mapping, Sequence
from typing import final

import torch
from torch import Tensor

from screening.arrays import Int64
from screening.models.model import CrystalModel
from screening.predictions import Target
from screening.training.assess import Assessment, assess
from screening.training.config import LoopSettings
from screening.training.labelled import LabelledGraphs
from screening.training.losses import LossSums, TargetLoss, crystal_losses, masked_sums
from screening.training.normalise import Normaliser
from screening.training.objectives.objective import Batch, Objective, Part
from screening.training.ranks import ALONE, Ranks

SELECTABLE = {
    "regression": ("mae", "rmse", "r2", "spearman"),
    "classification": ("mae", "rmse", "auc", "accuracy"),
}
LABELS = "labels"


def selectable_of(targets: Sequence[Target]) -> Mapping[str, Sequence[str]]:
    """The metrics of targets by which the best epoch may be chosen."""
    return {target.name: SELECTABLE[target.kind] for target in targets}


@final
class Properties(Objective):
    """Predict targets from crystals that have labels; a missing label takes no part."""

    def __init__(self, graphs: LabelledGraphs, normaliser: Normaliser, losses: Sequence[TargetLoss]) -> None:
        self.normaliser, self.losses = normaliser, tuple(losses)
        self._graphs = graphs
        self._labels = torch.from_numpy(normaliser.normalise(graphs.labels)).to(torch.float32)

    @property
    def weights(self) -> Mapping[str, float]:
        named = zip(self._graphs.targets, self.losses, strict=True)
        return {target.name: loss.weight for target, loss in named}

    @property
    def selectable(self) -> Mapping[str, Sequence[str]]:
        return selectable_of(self._graphs.targets)

    def gather(self, batch: Batch) -> Part:
        graph, _ = self._graphs.take(batch.own, device=batch.device)
        return Part(batch, graph, {LABELS: self._labels[batch.own].to(batch.device)})

    def sums(self, model: CrystalModel, part: Part) -> LossSums:
        return masked_sums(model(part.graph).float(), part.given[LABELS], self.losses)

    @torch.no_grad()
    def each(self, model: CrystalModel, part: Part) -> Tensor:
        losses, _ = crystal_losses(model(part.graph).float(), part.given[LABELS], self.losses)
        return losses.sum(dim=1)

    def assess(self, model: CrystalModel, rows: Int64, settings: LoopSettings, ranks: Ranks = ALONE) -> Assessment:
        return assess(
            model,
            self._graphs,
            rows,
            normaliser=self.normaliser,
            losses=self.losses,
            settings=settings,
            ranks=ranks,
        )
