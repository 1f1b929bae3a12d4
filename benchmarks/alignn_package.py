"""The package `alignn` (its part in pure PyTorch, without DGL) as a peer of benchmarks/students.py.

Same features, widths and layers as a model of ours, and the same edges and pairs of edges. Its pure PyTorch normalises
each row by itself (LayerNorm), where the paper and ours normalise over the batch: its weights are its own, and its
predictions are not compared, but its parameters are counted.
"""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from screening.models.alignn import ALIGNN, cosines
from screening.models.graph_tensors import GraphTensors


def is_installed() -> bool:
    """Tell whether the extra `peers` is there."""
    return find_spec("alignn") is not None


def network(model: ALIGNN) -> torch.nn.Module:
    """The package's network of our model's sizes; an error if it has other numbers of parameters."""
    from alignn.models.alignn_atomwise_pure import ALIGNNAtomWisePure, ALIGNNAtomWisePureConfig

    sizes = model.settings
    theirs: torch.nn.Module = ALIGNNAtomWisePure(
        ALIGNNAtomWisePureConfig(
            name="alignn_atomwise_pure",
            alignn_layers=sizes.convolutions,
            gcn_layers=sizes.graph_convolutions,
            atom_input_features=model.element_features.shape[1],
            edge_input_features=sizes.distances,
            triplet_input_features=sizes.angles,
            embedding_features=sizes.embedding,
            hidden_features=sizes.width,
            # What it can compute besides one number a crystal is switched off.
            gradwise_weight=0.0,
            calculate_gradient=False,
            lg_on_fly=False,
            use_penalty=False,
            energy_mult_natoms=False,
        )
    )
    ours, unused = _count(model), 2 * 2 * sizes.width  # the last normalisation of edges and of pairs of edges
    if _count(theirs) != ours + unused:
        raise ValueError(
            f"alignn: {_count(theirs):,} parameters, expected our {ours:,} and {unused:,} that it never uses"
        )
    return theirs


def call(theirs: torch.nn.Module, model: ALIGNN, graph: GraphTensors) -> Callable[[], Tensor]:
    """What computes a batch of ours with the package's network; all that it takes is made beforehand."""
    from alignn.torch_graph_builder import TorchGraph

    edges, line = graph.edge_graph, graph.line
    if line is None:
        raise ValueError("alignn: the batch has no line graph; prepare it by the model")
    atoms, pairs = (
        TorchGraph(len(one.edge_offsets) - 1, one.edge_source.long(), _centres(one.edge_offsets))
        for one in (edges, line)
    )
    atoms.ndata["atom_features"] = model.element_features[graph.numbers]
    atoms.edata["r"] = -graph.edge_vector  # ours leads from the atom that hears
    atoms.batch_num_nodes = edges.atom_offsets.diff().long()
    pairs.edata["h"] = cosines(graph.edge_vector, graph.edge_distance(), line)
    given = (atoms, pairs, torch.eye(3))

    def computed() -> Tensor:
        found: dict[str, Any] = theirs(given)
        out: Tensor = found["out"]
        return out

    return computed


def _centres(offsets: Tensor) -> Tensor:
    return torch.repeat_interleave(torch.arange(len(offsets) - 1), offsets.diff().long())


def _count(network: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())
