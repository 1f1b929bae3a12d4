"""Energy, forces and stress: the derivatives of a model's energy with respect to where atoms are and to strain.

Positions enter a model through the vectors of its edges alone, r_e = r_j - r_i + S @ lattice, and a strain turns each
of them into r_e (1 + strain). So with g_e = dE / dr_e

    forces_i = -dE / dr_i  = sum of g_e over edges into i - sum of g_e over edges from i
    stress   = dE / dstrain / volume = sum over edges of r_e g_e, symmetric, / volume

and no vector has to be worked out anew from positions. Signs and units are those of docs/conventions.md.
"""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from screening.errors import InputError
from screening.models.graph_tensors import GraphTensors
from screening.models.model import CrystalModel
from screening.models.potential_files import energy_among, without_forces
from screening.ops import message
from screening.ops.message_graph import EdgeGraph


class Derivatives(NamedTuple):
    """`energy` (crystals,) float64 eV, of the whole cell; `forces` (atoms, 3) eV/angstrom; `stress` (crystals, 3, 3).

    Stress is in eV/angstrom^3, tension positive, and NaN for a crystal that is not periodic in all directions.
    """

    energy: Tensor
    forces: Tensor
    stress: Tensor


class Slopes(NamedTuple):
    """Forces (atoms, 3), and the derivatives with respect to strain (crystals, 3, 3), of some sum over crystals."""

    forces: Tensor
    of_strain: Tensor


def energy_column(model: CrystalModel) -> int:
    """Which of a model's targets is the energy whose derivatives are forces; refuse a model that has no forces."""
    found = energy_among(model.targets)
    if found is None:
        raise InputError(f"this model {without_forces(model.targets)}")
    require_smooth(model)
    return model.targets.index(found)


def require_smooth(model: CrystalModel) -> None:
    """Refuse a model whose outputs jump when atoms move."""
    if not model.is_smooth:
        raise InputError(
            f"this {model.architecture} with {model.neighbors.words} is not smooth: its energy jumps when a neighbour "
            'comes or goes, so it has no forces. Use sieve with max_neighbors = "all", or another with an envelope'
        )


def energy_forces_stress(model: CrystalModel, graph: GraphTensors, *, differentiable: bool = False) -> Derivatives:
    """Predict the energy of each crystal, and its derivatives; these in turn are `differentiable` if asked.

    The graph must know its crystals' volumes. The model decides by its mode whether it is in training.

    >>> found = energy_forces_stress(model, GraphTensors.of(graphs, device="cpu", dtype=torch.float32))
    """
    column = energy_column(model)
    if graph.volume is None:
        raise InputError("this graph does not know the volumes of its crystals, which stress needs; make it with them")
    with torch.enable_grad():
        moving = replace(graph, edge_vector=graph.edge_vector.detach().requires_grad_())
        learned: Tensor = model(moving)[:, column]
        scaling = model.scaling[column]
        atoms = graph.edge_graph.atom_offsets.diff()
        energy = atoms * (learned.double() * scaling.std + scaling.mean)
        slopes = slopes_of(energy.sum(), moving, differentiable=differentiable)
    # Divided by 1 where there is no volume, so that no NaN enters a gradient.
    volume = graph.volume[:, None, None]
    stress = torch.where(volume.isnan(), volume, slopes.of_strain / volume.nan_to_num(1.0))
    if not differentiable:
        energy = energy.detach()
    return Derivatives(energy, slopes.forces, stress)


def slopes_of(total: Tensor, graph: GraphTensors, *, differentiable: bool) -> Slopes:
    """Differentiate a scalar with respect to positions (with the sign of a force) and strain.

    It was worked out from the vectors of this graph, which require a gradient.
    """
    (of_vector,) = torch.autograd.grad(total, graph.edge_vector, create_graph=differentiable, materialize_grads=True)
    forces = _into(of_vector, graph.edge_graph) - _from(of_vector, graph.edge_graph)
    vector = graph.edge_vector if differentiable else graph.edge_vector.detach()
    products = (vector[:, :, None] * of_vector[:, None, :]).flatten(1)
    of_strain = message.segment_sum(products, crystal_edges(graph.edge_graph)).view(-1, 3, 3)
    return Slopes(forces, (of_strain + of_strain.mT) / 2)


def crystal_edges(graph: EdgeGraph) -> Tensor:
    """Where the edges of each crystal begin, (crystals + 1,) int32."""
    ends: Tensor = graph.edge_offsets[graph.atom_offsets.long()]
    return ends


def _into(rows: Tensor, graph: EdgeGraph) -> Tensor:
    return message.segment_sum(rows, graph.edge_offsets)


def _from(rows: Tensor, graph: EdgeGraph) -> Tensor:
    """Sum rows of edges over those that leave each atom, in the order of edges, whatever else is in the batch."""
    order = torch.argsort(graph.edge_source, stable=True)
    ends = torch.zeros_like(graph.edge_offsets)
    ends[1:] = torch.bincount(graph.edge_source, minlength=len(ends) - 1).cumsum(0)
    return message.segment_sum(rows[order], ends)
