"""CrysXPP, GATGNN and ALIGNN in plain PyTorch, obvious and edge by edge, from their papers' equations.

Each takes a model of ours for its weights: products are of concatenated rows, as the papers write them, and every
tensor of edges or pairs of edges exists. What they compute is the definition of right for screening/models.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from screening.models.graph_tensors import GraphTensors
from screening.ops.message_graph import EdgeGraph


def rows_of(offsets: Tensor) -> Tensor:
    """The row that each entry of a CSR array is in."""
    return torch.repeat_interleave(torch.arange(len(offsets) - 1), offsets.diff().long())


def summed(values: Tensor, rows: Tensor, count: int) -> Tensor:
    """Sums of the values of each row."""
    return values.new_zeros(count, *values.shape[1:]).index_add(0, rows, values)


def softmax(scores: Tensor, rows: Tensor, count: int) -> Tensor:
    """e^score over the sum of those of its row."""
    raised = torch.exp(scores)
    return raised / summed(raised, rows, count)[rows]


def gaussians(values: Tensor, start: float, stop: float, step: float, width: float) -> Tensor:
    """exp(-((v - c) / width)^2) for centres c from start to stop."""
    centres = torch.linspace(start, stop, round((stop - start) / step) + 1, dtype=values.dtype)
    return torch.exp(-(((values[:, None] - centres) / width) ** 2))


def normalised(rows: Tensor, moments: Any) -> Tensor:
    """Batch normalisation: by the moments of the batch in training, by running ones in evaluation."""
    return functional.batch_norm(
        rows,
        moments.running_mean,
        moments.running_var,
        moments.weight,
        moments.bias,
        moments.training,
        moments.momentum,
        moments.epsilon,
    )


def headed(crystals: Tensor, heads: Any) -> Tensor:
    """Perceptrons with softplus, one a target."""
    columns = []
    for target in range(heads.output.weight.shape[0]):
        hidden = crystals
        for layer in heads.hidden:
            hidden = functional.softplus(hidden @ layer.weight[target] + layer.bias[target])
        columns.append(hidden @ heads.output.weight[target] + heads.output.bias[target])
    return torch.cat(columns, dim=1)


def crystal_means(atoms: Tensor, graph: GraphTensors) -> Tensor:
    """The mean of the atoms of each crystal."""
    counts: Tensor = graph.edge_graph.atom_offsets.diff()[:, None]
    return summed(atoms, graph.crystal_of_atom, graph.crystals) / counts


def plain_crysxpp(model: Any, graph: GraphTensors) -> Tensor:
    """Learned values of CrysXPP."""
    source, centre = graph.edge_graph.edge_source.long(), rows_of(graph.edge_graph.edge_offsets)
    edges = gaussians(graph.edge_distance(), 0.0, 8.0, 0.2, 0.2)
    atoms = (model.element_features[graph.numbers] * model.selector) @ model.embedding.weight.T
    for layer in model.convolutions:
        messages = layer.messages
        joined = torch.cat([atoms[centre], atoms[source], edges], dim=1)
        weight = torch.cat([messages.centre, messages.source, messages.table.T], dim=1)
        gate, core = normalised(joined @ weight.T + messages.bias, messages.moments).chunk(2, dim=1)
        heard = summed(torch.sigmoid(gate) * functional.softplus(core), centre, len(atoms))
        atoms = functional.softplus(atoms + normalised(heard, layer.moments))
    return headed(crystal_means(functional.normalize(atoms, dim=1), graph), model.heads)


def plain_gatgnn(model: Any, graph: GraphTensors) -> Tensor:
    """Learned values of GATGNN."""
    source, centre = graph.edge_graph.edge_source.long(), rows_of(graph.edge_graph.edge_offsets)
    edges = functional.leaky_relu(model.edge_embedding(gaussians(graph.edge_distance(), 0.0, 8.0, 0.2, 0.2)), 0.2)
    atoms = model.embedding(model.element_features[graph.numbers])
    for update in model.rounds:
        atoms = functional.softplus(
            normalised(_attended(update.attention, atoms, edges, centre, source), update.moments)
        )
    fractions = crystal_means(functional.one_hot(graph.numbers, 119).to(atoms)[:, 1:104], graph)
    attention = model.attention
    weight = torch.cat([attention.of_atom, attention.of_element.T], dim=1)
    hidden = torch.cat([atoms, fractions[graph.crystal_of_atom]], dim=1) @ weight.T + attention.bias
    scores = functional.softplus(hidden) @ attention.score.weight.T + attention.score.bias
    weights = softmax(scores, graph.crystal_of_atom, graph.crystals)
    return headed(summed(atoms * weights, graph.crystal_of_atom, graph.crystals), model.heads)


def _attended(layer: Any, atoms: Tensor, edges: Tensor, centre: Tensor, source: Tensor) -> Tensor:
    shape = len(edges), layer.heads, atoms.shape[1]
    weight = torch.cat([layer.of_atoms, layer.of_edges], dim=1).T
    here = functional.softplus(torch.cat([atoms[centre], edges], dim=1) @ weight).view(shape)
    there = functional.softplus(torch.cat([atoms[source], edges], dim=1) @ weight).view(shape)
    scores = functional.softplus((here * layer.to_centre + there * layer.to_source).sum(dim=2))
    weights = softmax(functional.softplus(normalised(scores, layer.moments)), centre, len(atoms))
    found: Tensor = summed(weights[:, :, None] * there, centre, len(atoms)).mean(dim=1) + layer.bias
    return found


def plain_alignn(model: Any, graph: GraphTensors) -> Tensor:
    """Learned values of ALIGNN."""
    source, centre = graph.edge_graph.edge_source.long(), rows_of(graph.edge_graph.edge_offsets)
    into, out_of = shared_atoms(source, centre) if graph.line is None else ends_of(graph.line)
    vector, distance = graph.edge_vector, graph.edge_distance()
    # Edge e leads from its source to its centre, and its vector from the centre to the source.
    cosine = (vector[into] * -vector[out_of]).sum(dim=1) / (distance[into] * distance[out_of])
    atoms = _embedded(model.element_features[graph.numbers], [model.atom_embedding])
    edges = _embedded(_expanded(distance, 0.0, 8.0, 80), model.edge_embedding)
    pairs = _embedded(_expanded(cosine, -1.0, 1.0, 40), model.pair_embedding)
    for layer in model.lines:
        atoms, edges = _gated(layer.on_graph, atoms, edges, source, centre)
        edges, pairs = _gated(layer.on_line, edges, pairs, into, out_of)
    for convolution in model.convolutions:
        atoms, edges = _gated(convolution, atoms, edges, source, centre)
    found: Tensor = crystal_means(atoms, graph) @ model.heads.weight.T + model.heads.bias
    return found


def shared_atoms(source: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs of edges of which the first leads to where the second begins."""
    second, first = (source[:, None] == centre[None, :]).nonzero(as_tuple=True)
    return first, second


def ends_of(graph: EdgeGraph) -> tuple[Tensor, Tensor]:
    """Where each edge leads from, and where to."""
    return graph.edge_source.long(), rows_of(graph.edge_offsets)


def _expanded(values: Tensor, start: float, stop: float, number: int) -> Tensor:
    step = (stop - start) / (number - 1)
    return gaussians(values, start, stop, step, step**0.5)


def _embedded(rows: Tensor, layers: Any) -> Tensor:
    for linear, moments, _ in layers:
        rows = functional.silu(normalised(rows @ linear.weight.T + linear.bias, moments))
    return rows


def _gated(layer: Any, nodes: Tensor, edges: Tensor, source: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
    gates = layer.centre_gate(nodes)[centre] + layer.source_gate(nodes)[source] + layer.edge_gate(edges)
    opened = torch.sigmoid(gates)
    total = summed(opened, centre, len(nodes)) + 1e-6
    heard = summed(opened * layer.value(nodes)[source], centre, len(nodes)) / total
    updated = nodes + functional.silu(normalised(layer.own(nodes) + heard, layer.moments))
    if layer.edge_moments is not None:
        edges = edges + functional.silu(normalised(gates, layer.edge_moments))
    return updated, edges
