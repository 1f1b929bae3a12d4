"""Learning the derivatives of an energy: from labels of energy, force and stress, or by calling back moved atoms.

Labels: the energy above the references of its source, in eV/atom; F = -dE/dr in eV/angstrom; stress = dE/dstrain / V in
eV/angstrom^3, six components. Noise: atoms of a crystal are moved by noise n without a mean, and the model's force
should be -stiffness * n: it points back to where they came from, which is what makes the learned surface a potential.
Both compare the model's own derivatives, so that the loss differentiates it twice.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

import numpy as np
import torch
from torch import Tensor

from screening.arrays import Float64, Int64
from screening.models.derivatives import energy_column, energy_forces_stress
from screening.models.model import CrystalModel
from screening.training.assess import Assessment
from screening.training.batching import ordered_batches
from screening.training.config import LoopSettings
from screening.training.forces_config import ForcesSettings
from screening.training.labelled import LabelledGraphs
from screening.training.losses import LossSums
from screening.training.mechanics import PLACES, STRESS, VOLUME
from screening.training.objectives.errors import ErrorSums, Tally
from screening.training.objectives.frozen import calm
from screening.training.objectives.objective import Batch, Objective, Part
from screening.training.ranks import ALONE, Ranks

SECTION = "derivatives"
# Validation draws its noise as if in an epoch of its own, so that it is the same whenever it is done.
VALIDATION_EPOCH = 1 << 40


@dataclass(frozen=True, slots=True, eq=False)
class Sources:
    """Which source each crystal is of, (crystals,), by number."""

    names: tuple[str, ...]
    of: Int64


class Compared(Objective):
    """An objective whose terms compare numbers of crystals and atoms; what these are, its kinds say."""

    section = SECTION
    terms: tuple[str, ...]

    def __init__(self, graphs: LabelledGraphs, sources: Sources, settings: ForcesSettings) -> None:
        self._graphs, self._sources, self._settings = graphs, sources, settings

    @abstractmethod
    def errors(self, model: CrystalModel, part: Part, *, learning: bool) -> list[ErrorSums]:
        """Compare what a model gives with what is wanted, for each term."""

    @property
    def selectable(self) -> Mapping[str, Sequence[str]]:
        return self.measured()

    @classmethod
    @final
    def measured(cls) -> Mapping[str, Sequence[str]]:
        """The metrics of each term."""
        return dict.fromkeys(cls.terms, ("mae", "rmse"))

    def sums(self, model: CrystalModel, part: Part) -> LossSums:
        found = self.errors(model, part, learning=True)
        return LossSums(
            torch.stack([error.loss.sum() for error in found]),
            torch.stack([error.count.sum() for error in found]).long(),
        )

    def each(self, model: CrystalModel, part: Part) -> Tensor:
        found = self.errors(model, part, learning=False)
        return torch.stack([error.loss for error in found], dim=1).sum(dim=1)

    def assess(self, model: CrystalModel, rows: Int64, settings: LoopSettings, ranks: Ranks = ALONE) -> Assessment:
        tally = Tally(self.terms, self._sources.names)
        batches = ordered_batches(
            self._graphs,
            rows,
            batch_size=settings.batch_size,
            max_atoms=settings.max_atoms,
            max_edges=settings.max_edges,
        )
        for batch in batches[ranks.rank :: ranks.size]:
            places = np.arange(len(batch))
            part = self.gather(Batch(batch, places, VALIDATION_EPOCH, settings.seed, settings.device))
            tally.add(self.errors(model, part, learning=False), torch.from_numpy(self._sources.of[batch]))
        tally.of_all(ranks)
        sums, counts = zip(*tally.losses().values(), strict=True)
        found = Assessment(self.mean(sums, counts), self.means(sums, counts), tally.metrics(), self.section)
        return found.of_first(ranks)


class EnergyForceStress(Compared):
    """Compare energy, forces and stress with labels; a term of weight 0 is measured, and not learned from."""

    differentiates_inputs = True
    terms = ("energy", "force", "stress")

    def __init__(
        self, graphs: LabelledGraphs, above_references: Float64, sources: Sources, settings: ForcesSettings
    ) -> None:
        super().__init__(graphs, sources, settings)
        columns = [target.name for target in graphs.targets]
        self._energy = torch.from_numpy(above_references)
        self._volume = graphs.labels[:, columns.index(VOLUME.name)]
        self._stress = torch.from_numpy(graphs.labels[:, [columns.index(target.name) for target in STRESS]])

    @property
    def weights(self) -> Mapping[str, float]:
        given = self._settings
        return {"energy": given.energy, "force": given.force, "stress": given.stress}

    def gather(self, batch: Batch) -> Part:
        own, device = batch.own, batch.device
        graph, _ = self._graphs.take(own, device=device)
        volume = torch.from_numpy(self._volume[own]).to(graph.edge_vector)
        given = {
            "energy": self._energy[own].to(device),
            "force": torch.from_numpy(self._graphs.forces_in(own)).to(device),
            "stress": self._stress[own].to(device),
        }
        return Part(batch, replace(graph, volume=volume), given)

    def errors(self, model: CrystalModel, part: Part, *, learning: bool) -> list[ErrorSums]:
        graph, given, settings = part.graph, part.given, self._settings
        calm(model)
        crystals = torch.arange(graph.crystals, device=graph.numbers.device)
        if learning and not (settings.force or settings.stress):
            column = energy_column(model)
            scaling = model.scaling[column]
            energies = model(graph)[:, column].double() * scaling.std + scaling.mean
            none = ErrorSums.of(given["stress"][:, :0], given["stress"][:, :0], crystals, graph.crystals, settings)
            return [self._one(energies[:, None], given["energy"][:, None], crystals, graph.crystals), none, none]
        found = energy_forces_stress(model, graph, differentiable=learning)
        per_atom = found.energy / graph.edge_graph.atom_offsets.diff()
        stress = torch.stack([found.stress[:, i, j] for i, j in PLACES], dim=1)
        return [
            self._one(per_atom[:, None], given["energy"][:, None], crystals, graph.crystals),
            self._one(found.forces, given["force"], graph.crystal_of_atom, graph.crystals),
            self._one(stress, given["stress"], crystals, graph.crystals),
        ]

    def _one(self, found: Tensor, wanted: Tensor, crystal: Tensor, crystals: int) -> ErrorSums:
        return ErrorSums.of(found, wanted, crystal, crystals, self._settings)
