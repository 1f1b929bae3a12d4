"""What a model gives for labelled crystals, and how good it is: the loss it is trained with, and metrics in units."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from screening.arrays import Float64, Int64
from screening.errors import ScreeningError
from screening.models.model import CrystalModel
from screening.training.batching import ordered_batches, prefetched
from screening.training.config import LoopSettings
from screening.training.labelled import LabelledGraphs
from screening.training.losses import TargetLoss, masked_loss
from screening.training.metrics import UPWARDS, Metrics, all_metrics, finite_or_none
from screening.training.normalise import Normaliser
from screening.training.ranks import ALONE, Ranks

NAMED_IDS = 10


@dataclass(frozen=True, slots=True)
class Assessment:
    """Loss and metrics over some crystals; `losses` are the terms' unweighted mean losses.

    `section` is what journals call the metrics.
    """

    loss: float
    losses: Mapping[str, float]
    metrics: Mapping[str, Metrics]
    section: str = "targets"

    def score(self, select: str) -> float:
        """The number to make small: the loss, or a metric with the sign that makes less better; NaN if undefined."""
        if select == "loss":
            return self.loss
        name, _, metric = select.rpartition(".")
        value = self.metrics[name][metric]
        return -value if metric in UPWARDS else value

    def of_first(self, ranks: Ranks) -> "Assessment":
        """What the first rank measured, so that no rank's rounding decides otherwise; NaN stays what it is."""
        if ranks.size == 1:
            return self
        told = ranks.told(json.dumps([self.loss, dict(self.losses), dict(self.metrics)]).encode())
        loss, losses, metrics = json.loads(told)
        return Assessment(loss, losses, metrics, self.section)

    def as_json(self) -> dict[str, Any]:
        """As journals and result files hold it."""
        return {"loss": self.loss, "losses": dict(self.losses), self.section: finite_or_none(self.metrics)}


@torch.no_grad()
def normalised_outputs(
    model: CrystalModel, graphs: LabelledGraphs, rows: Int64, settings: LoopSettings, ranks: Ranks = ALONE
) -> Float64:
    """Run a model in its evaluation mode over crystals, (crystals, targets) on the scale that it learns.

    Ranks take batches in turn, and all get all outputs.
    """
    model.eval()
    batches = ordered_batches(
        graphs, rows, batch_size=settings.batch_size, max_atoms=settings.max_atoms, max_edges=settings.max_edges
    )
    ends = np.cumsum([len(batch) for batch in batches], dtype=np.int64)[ranks.rank :: ranks.size].tolist()
    outputs: Float64 = np.zeros((len(rows), len(graphs.targets)))
    made = prefetched(batches[ranks.rank :: ranks.size], lambda part: graphs.take(part, device=settings.device))
    for end, (part, (graph, _)) in zip(ends, made, strict=True):
        outputs[end - len(part) : end] = model(graph).double().cpu().numpy()
    outputs = ranks.total(torch.from_numpy(outputs)).numpy()
    wrong = np.flatnonzero(~np.isfinite(outputs).all(axis=1))
    if len(wrong):
        advice = "check these crystals" if len(wrong) < len(rows) else "its weights have diverged, train it more slowly"
        raise ScreeningError(f"predictions are not finite for {named(graphs, rows[wrong])}; {advice}")
    return outputs


def assess(
    model: CrystalModel,
    graphs: LabelledGraphs,
    rows: Int64,
    *,
    normaliser: Normaliser,
    losses: Sequence[TargetLoss],
    settings: LoopSettings,
    ranks: Ranks = ALONE,
) -> Assessment:
    """Measure a model on crystals with labels."""
    outputs = normalised_outputs(model, graphs, rows, settings, ranks)
    labels = graphs.labels[rows]
    parts = masked_loss(torch.from_numpy(outputs), torch.from_numpy(normaliser.normalise(labels)), losses)
    found = Assessment(
        loss=float(parts.total),
        losses=mean_losses(normaliser, parts.sums, parts.counts),
        metrics=all_metrics(in_units(model, outputs), labels, graphs.targets),
    )
    return found.of_first(ranks)


def in_units(model: CrystalModel, outputs: Float64) -> dict[str, Float64]:
    """Turn learned values into predictions, as the model itself does."""
    return {name: column.numpy() for name, column in model.in_units(torch.from_numpy(outputs)).items()}


def mean_losses(normaliser: Normaliser, sums: Tensor, counts: Tensor) -> dict[str, float]:
    """Mean loss by target, of those that have labels."""
    named_sums = zip(normaliser.targets, sums.tolist(), counts.tolist(), strict=True)
    return {target.name: total / count for target, total, count in named_sums if count}


def named(graphs: LabelledGraphs, rows: Int64) -> str:
    """Name crystals for a message, the first ten of them."""
    listed = ", ".join(graphs.ids[r] for r in rows[:NAMED_IDS].tolist())
    return listed if len(rows) <= NAMED_IDS else f"{listed} and {len(rows) - NAMED_IDS} more"
