"""Learning from labels and from teachers: their descriptions of atoms, their predictions where labels are missing.

    loss = (1 - alpha) * property + alpha * mean over crystals of mean over atoms of |p(v_i) - t_i|^2

v_i and t_i are the student's and the teacher's atom i, of length 1, and p a linear map where their widths differ. A
target's part of property is one mean over its labels and the predictions in place of missing ones, of which each counts
`weight` times a label.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from screening.arrays import Float64, Int64
from screening.models.layers import mean_of_atoms, unit_rows
from screening.models.model import CrystalModel
from screening.training.assess import Assessment
from screening.training.config import LoopSettings
from screening.training.distillation_config import NODES, OF_TEACHERS
from screening.training.labelled import LabelledGraphs
from screening.training.losses import LossSums, crystal_losses, masked_sums
from screening.training.objectives.objective import Batch, Objective, Part
from screening.training.objectives.properties import LABELS, Properties
from screening.training.ranks import ALONE, Ranks

ATOMS, TAUGHT = "teacher", "taught"


@dataclass(frozen=True, slots=True, eq=False)
class TaughtAtoms:
    """A teacher's atoms, (atoms, width) of length 1, in the order of the graphs' atoms, and their weight alpha."""

    atoms: npt.NDArray[np.generic]
    alpha: float


@dataclass(frozen=True, slots=True, eq=False)
class TaughtLabels:
    """Teachers' predictions in units, (crystals, targets), NaN where there is none; `weight` against a real label."""

    labels: Float64
    weight: float


@final
class Distillation(Objective):
    """Properties, and what teachers say."""

    def __init__(
        self,
        graphs: LabelledGraphs,
        properties: Properties,
        model: CrystalModel,
        *,
        atoms: TaughtAtoms | None,
        labels: TaughtLabels | None,
    ) -> None:
        self._graphs, self.properties, self._atoms, self._labels = graphs, properties, atoms, labels
        self._taught: Tensor | None = None
        if labels is not None:
            missing = np.where(np.isnan(graphs.labels), labels.labels, np.nan)
            self._taught = torch.from_numpy(properties.normaliser.normalise(missing)).to(torch.float32)
        if atoms is not None and atoms.atoms.shape[1] != model.width:
            self.modules = nn.ModuleDict({"projection": nn.Linear(model.width, atoms.atoms.shape[1])})

    @property
    def weights(self) -> Mapping[str, float]:
        alpha = 0.0 if self._atoms is None else self._atoms.alpha
        own = self.properties.weights
        share = (1 - alpha) / sum(own.values())
        found = {name: share * weight for name, weight in own.items()}
        if self._labels is not None:
            # Part of the terms above; told apart in the journal.
            found |= {f"{name}{OF_TEACHERS}": 0.0 for name in own}
        return found | ({NODES: alpha} if self._atoms is not None else {})

    @property
    def selectable(self) -> Mapping[str, Sequence[str]]:
        return self.properties.selectable

    def gather(self, batch: Batch) -> Part:
        part = self.properties.gather(batch)
        given = dict(part.given)
        if self._taught is not None:
            given[TAUGHT] = self._taught[batch.own].to(batch.device)
        if self._atoms is not None:
            rows = self._atoms.atoms[self._graphs.atoms_of(batch.own)]
            given[ATOMS] = torch.from_numpy(np.ascontiguousarray(rows)).to(batch.device)
        return Part(batch, part.graph, given)

    def sums(self, model: CrystalModel, part: Part) -> LossSums:
        atoms = model.encode(part.graph)
        outputs = model.readout(atoms, part.graph).float()
        found = [masked_sums(outputs, part.given[LABELS], self.properties.losses)]
        if self._labels is not None:
            taught = masked_sums(outputs, part.given[TAUGHT], self.properties.losses)
            found = [_pooled(found[0], taught, self._labels.weight), taught]
        if ATOMS in part.given:
            apart = self._apart(atoms, part)
            found.append(LossSums(apart.sum()[None], found[0].counts.new_tensor([part.graph.crystals])))
        return LossSums(torch.cat([one.sums for one in found]), torch.cat([one.counts for one in found]))

    @torch.no_grad()
    def each(self, model: CrystalModel, part: Part) -> Tensor:
        atoms = model.encode(part.graph)
        outputs = model.readout(atoms, part.graph).float()
        labels = [part.given[name] for name in (LABELS, TAUGHT) if name in part.given]
        losses = sum(crystal_losses(outputs, each, self.properties.losses)[0].sum(dim=1) for each in labels)
        found = losses if isinstance(losses, Tensor) else outputs.new_zeros(part.graph.crystals)
        return found + self._apart(atoms, part) if ATOMS in part.given else found

    def assess(self, model: CrystalModel, rows: Int64, settings: LoopSettings, ranks: Ranks = ALONE) -> Assessment:
        return self.properties.assess(model, rows, settings, ranks)

    def _apart(self, atoms: Tensor, part: Part) -> Tensor:
        """The mean squared distance of a crystal's atoms from the teacher's, (crystals,)."""
        own = atoms.float()
        if self.modules is not None:
            own = self.modules.get_submodule("projection")(own).float()
        squared = (unit_rows(own) - part.given[ATOMS]).square().sum(dim=1, keepdim=True)
        return mean_of_atoms(squared, part.graph.edge_graph).squeeze(1)


def _pooled(labels: LossSums, taught: LossSums, weight: float) -> LossSums:
    counts = labels.counts.double() + weight * taught.counts.double()
    return LossSums(labels.sums + weight * taught.sums, counts)
