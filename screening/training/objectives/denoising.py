"""Calling moved atoms back, without any label: by the derivative of an energy, or by a head that says the way.

Both are measured by what they say of the noise, in angstrom. A crystal's edges are those of its atoms at rest: one that
noise brings within the cutoff is missing, where the envelope is next to nothing.
"""

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from screening.arrays import Float64, Int64
from screening.models.angular import harmonics
from screening.models.derivatives import energy_column, require_smooth, slopes_of
from screening.models.graph_tensors import GraphTensors
from screening.models.layers import GatedConv, Linear, mean_of_atoms
from screening.models.model import CrystalModel
from screening.models.radial import SplineBasis
from screening.ops import message
from screening.training.forces_config import ForcesSettings
from screening.training.labelled import LabelledGraphs
from screening.training.objectives.draws import uniform
from screening.training.objectives.errors import ErrorSums
from screening.training.objectives.forces import Compared, Sources
from screening.training.objectives.frozen import calm
from screening.training.objectives.objective import Batch, Part

NOISE = "noise"
# Streams of uniform numbers, two for each normal one.
FIRST_STREAM = 100


class Denoising(Compared):
    """Compare what a model says of the noise with the noise."""

    section = "denoising"
    terms = (NOISE,)

    @property
    def weights(self) -> Mapping[str, float]:
        return {NOISE: 1.0}

    def gather(self, batch: Batch) -> Part:
        own = batch.own
        graph, _ = self._graphs.take(own, device=batch.device)
        numbers = normal(own, self._graphs.atom_counts[own], seed=batch.seed, epoch=batch.epoch)
        drawn = torch.from_numpy(self._settings.sigma * numbers).to(graph.edge_vector)
        noise = drawn - message.segment_rows(
            mean_of_atoms(drawn, graph.edge_graph), graph.edge_graph.atom_offsets, len(drawn)
        )
        return Part(batch, moved(graph, noise), {NOISE: noise})

    def _compared(self, said: Tensor, part: Part) -> list[ErrorSums]:
        graph = part.graph
        return [ErrorSums.of(said, part.given[NOISE], graph.crystal_of_atom, graph.crystals, self._settings)]


class DenoisingByDerivative(Denoising):
    """The force should be -stiffness * noise."""

    differentiates_inputs = True

    def errors(self, model: CrystalModel, part: Part, *, learning: bool) -> list[ErrorSums]:
        calm(model)
        column = energy_column(model)
        with torch.enable_grad():
            moving = replace(part.graph, edge_vector=part.graph.edge_vector.detach().requires_grad_())
            scaling = model.scaling[column]
            per_atom = model(moving)[:, column].double() * scaling.std + scaling.mean
            energy = (per_atom * moving.edge_graph.atom_offsets.diff()).sum()
            forces = slopes_of(energy, moving, differentiable=learning).forces
        return self._compared(-forces / self._settings.stiffness, part)


class DenoisingByHead(Denoising):
    """A head, which is not kept, should say the noise."""

    def __init__(self, graphs: LabelledGraphs, sources: Sources, settings: ForcesSettings, model: CrystalModel) -> None:
        require_smooth(model)
        super().__init__(graphs, sources, settings)
        self.head = NoiseHead(model.width, graphs.neighbors.cutoff)
        self.modules = self.head

    def errors(self, model: CrystalModel, part: Part, *, learning: bool) -> list[ErrorSums]:
        with torch.set_grad_enabled(learning):
            return self._compared(self.head(model.encode(part.graph), part.graph), part)


class NoiseHead(nn.Module):
    """A vector an atom, which turns with the crystal: a weighed sum of the directions to its neighbours."""

    def __init__(self, width: int, cutoff: float) -> None:
        super().__init__()
        self.before = nn.LayerNorm(width)
        self.basis = SplineBasis(cutoff, 24, 4)
        self.messages = GatedConv(width, self.basis.rows)
        self.output = Linear(width, 1, bias=False)

    def forward(self, atoms: Tensor, graph: GraphTensors) -> Tensor:
        """Say where each atom came from, (atoms, 3)."""
        distance = graph.edge_distance()
        radial = self.basis.terms(distance)
        directed = radial._replace(scale=radial.scale * harmonics(graph.edge_vector, distance, 1))
        heard = self.messages(self.before(atoms), directed, graph.edge_graph)[:, 1:]
        said: Tensor = self.output(heard.flatten(0, 1)).view(-1, 3)
        return said


def moved(graph: GraphTensors, noise: Tensor) -> GraphTensors:
    """The same edges after each atom was moved by its noise, (atoms, 3)."""
    edges = graph.edge_graph
    here = message.segment_rows(noise, edges.edge_offsets, len(graph.edge_vector))
    return replace(graph, edge_vector=graph.edge_vector + noise[edges.edge_source.long()] - here)


def normal(rows: Int64, counts: Int64, *, seed: int, epoch: int) -> Float64:
    """Draw three normal numbers for each of the `counts[c]` atoms of each crystal `rows[c]`, (atoms, 3).

    They belong to seed, epoch, crystal and atom, whatever else is drawn.
    """
    columns = []
    for axis in range(3):
        first, second = (
            uniform(rows, counts, seed=seed, epoch=epoch, stream=FIRST_STREAM + 2 * axis + k) for k in range(2)
        )
        # Box and Muller; 1 - u lies in (0, 1].
        columns.append(np.sqrt(-2 * np.log1p(-first)) * np.cos(2 * math.pi * second))
    return np.stack(columns, axis=1)
