"""Aspects of a crystal that can be learned from its structure alone: what each hides or asks, its loss, its metrics.

Of encoded atoms of length 1, v_i, and their mean over a crystal, z (docs/pretraining.md has the equations):
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from screening.arrays import Int64
from screening.models import across
from screening.models.element_features import published_features
from screening.models.graph_tensors import GraphTensors
from screening.models.layers import unit_rows
from screening.training.labelled import LabelledGraphs
from screening.training.objectives.draws import uniform
from screening.training.objectives.objective import Batch, Part
from screening.training.objectives.pairs import CLASSES, sampled_pairs

GROUPS = 230
# The last space group of each crystal system, from triclinic to cubic.
SYSTEM_ENDS = (2, 15, 74, 142, 167, 194, 230)
# What similarity stands for a pair that takes no part: its exponential is 0, and no gradient of it is undefined.
APART = -1e9


@dataclass(frozen=True, slots=True, eq=False)
class Described:
    """What an encoder made of a part of a batch: atoms as unit rows, and the mean of each crystal's."""

    part: Part
    atoms: Tensor
    crystals: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """The losses (items,) of what an aspect asks, of which crystal here each is, and numbers that add up to metrics."""

    losses: Tensor
    crystal: Tensor
    tally: Tensor


class Aspect(ABC):
    """One thing to learn about crystals."""

    name: ClassVar[str]
    metrics: ClassVar[tuple[str, ...]]
    # How many numbers a tally has.
    tallied: ClassVar[int]

    def __init__(self, weight: float, module: nn.Module) -> None:
        self.weight, self.module = weight, module

    @abstractmethod
    def given(self, batch: Batch, graph: GraphTensors) -> dict[str, Tensor]:
        """What is drawn or looked up for the crystals here, on the device of the graph."""

    @abstractmethod
    def measured(self, seen: Described) -> Measured:
        """Ask, and compare."""

    @abstractmethod
    def metrics_of(self, tally: list[float]) -> dict[str, float]:
        """Turn the sum of tallies into metrics; NaN where there is nothing to measure."""


@final
class NodeFeatures(Aspect):
    """The features of an atom's element, which the encoder did not see of masked atoms."""

    name: ClassVar[str] = "nodes"
    metrics: ClassVar[tuple[str, ...]] = ("accuracy",)
    tallied: ClassVar[int] = 2

    def __init__(self, weight: float, width: int, masked: float) -> None:
        features = published_features()
        super().__init__(weight, nn.Linear(width, features.shape[1]))
        self.module.register_buffer("features", features, persistent=False)
        self.masked = masked

    def given(self, batch: Batch, graph: GraphTensors) -> dict[str, Tensor]:
        draw = uniform(batch.own, _atom_counts(graph), seed=batch.seed, epoch=batch.epoch, stream=0)
        asked = draw < self.masked if self.masked else np.ones(len(draw), np.bool_)
        return {"asked": torch.from_numpy(asked).to(graph.numbers.device), "numbers": graph.numbers}

    def hidden(self, part: Part) -> Tensor:
        """Which atoms the encoder must not know."""
        asked = part.given["asked"]
        return asked if self.masked else torch.zeros_like(asked)

    def measured(self, seen: Described) -> Measured:
        asked = torch.nonzero(seen.part.given["asked"]).squeeze(1)
        features = self.module.get_buffer("features")
        right = features[seen.part.given["numbers"][asked]]
        logits = self.module(seen.atoms[asked]).float()
        losses = F.binary_cross_entropy_with_logits(logits, right, reduction="none").mean(dim=1)
        # The likeliest element: its features times the logits, for the rest of the likelihood is alike for all.
        known = features.any(dim=1)
        guess = (logits @ features.T).masked_fill(~known, -torch.inf).argmax(dim=1)
        # Some elements have the same features, and cannot be told apart.
        hits = (features[guess] == right).all(dim=1)
        return Measured(losses, seen.part.graph.crystal_of_atom[asked], _hits(hits))

    def metrics_of(self, tally: list[float]) -> dict[str, float]:
        return {"accuracy": _ratio(tally[0], tally[1])}


@final
class Connectivity(Aspect):
    """How many edges lead from an atom to another, of pairs that are bonded and pairs drawn at random."""

    name: ClassVar[str] = "connectivity"
    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "recall")
    tallied: ClassVar[int] = 2 * CLASSES

    def __init__(self, weight: float, width: int, pairs: int, class_weights: Tensor) -> None:
        super().__init__(weight, PairClasses(width, class_weights))
        self.pairs = pairs

    def given(self, batch: Batch, graph: GraphTensors) -> dict[str, Tensor]:
        return pairs_of(batch, graph, self.pairs)

    def measured(self, seen: Described) -> Measured:
        given = seen.part.given
        centre, right = given["centre"], given["edges"]
        logits = self.module(seen.atoms, centre, given["other"]).float()
        losses = F.cross_entropy(logits, right, reduction="none") * self.module.get_buffer("weights")[right]
        classes = F.one_hot(right, CLASSES).double()
        hits = classes * (logits.argmax(dim=1) == right)[:, None]
        tally = torch.cat([hits.sum(0), classes.sum(0)])
        return Measured(losses, seen.part.graph.crystal_of_atom[centre], tally)

    def metrics_of(self, tally: list[float]) -> dict[str, float]:
        hits, counts = tally[:CLASSES], tally[CLASSES:]
        recalls = [hit / count for hit, count in zip(hits, counts, strict=True) if count]
        return {"accuracy": _ratio(sum(hits), sum(counts)), "recall": _ratio(sum(recalls), len(recalls))}


class PairClasses(nn.Module):
    """A form of two atoms for each class, and a linear map of these: the published decoder."""

    def __init__(self, width: int, class_weights: Tensor) -> None:
        super().__init__()
        bound = 1 / math.sqrt(width)
        self.form = nn.Parameter(torch.empty(CLASSES, width, width).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(CLASSES).uniform_(-bound, bound))
        self.mix = nn.Linear(CLASSES, CLASSES)
        self.register_buffer("weights", class_weights.float(), persistent=False)

    def forward(self, atoms: Tensor, centre: Tensor, other: Tensor) -> Tensor:
        """Score each class of each pair, (pairs, classes)."""
        # Half of the product once an atom, not once a pair: torch's bilinear layer takes twice as long as all of CGCNN.
        halves = torch.einsum("ai,kij->akj", atoms, self.form).index_select(0, centre)
        forms = (halves * atoms.index_select(0, other)[:, None, :]).sum(dim=2) + self.bias
        found: Tensor = self.mix(forms)
        return found


@final
class SpaceGroup(Aspect):
    """Which space group a crystal has; one without takes no part."""

    name: ClassVar[str] = "space_group"
    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "accuracy_5")
    tallied: ClassVar[int] = 3

    def __init__(self, weight: float, width: int, groups: Int64) -> None:
        super().__init__(weight, nn.Linear(width, GROUPS))
        self.groups = groups

    def given(self, batch: Batch, graph: GraphTensors) -> dict[str, Tensor]:
        return {"group": torch.from_numpy(self.groups[batch.own]).to(graph.numbers.device)}

    def measured(self, seen: Described) -> Measured:
        group = seen.part.given["group"]
        asked = torch.nonzero(group > 0).squeeze(1)
        logits = self.module(seen.crystals[asked]).float()
        right = group[asked] - 1
        near = logits.topk(5, dim=1).indices == right[:, None]
        tally = torch.stack([near[:, 0].sum(), near.any(dim=1).sum(), right.new_tensor(len(right))]).double()
        return Measured(F.cross_entropy(logits, right, reduction="none"), asked, tally)

    def metrics_of(self, tally: list[float]) -> dict[str, float]:
        return {"accuracy": _ratio(tally[0], tally[2]), "accuracy_5": _ratio(tally[1], tally[2])}


@final
class Contrast(Aspect):
    """NT-Xent: each crystal is drawn to those of its crystal system, against all of other systems in the batch."""

    name: ClassVar[str] = "contrast"
    metrics: ClassVar[tuple[str, ...]] = ("accuracy",)
    tallied: ClassVar[int] = 2

    def __init__(self, weight: float, temperature: float, groups: Int64) -> None:
        super().__init__(weight, nn.Module())
        self.temperature = temperature
        self.systems = systems_of(groups)

    def given(self, batch: Batch, graph: GraphTensors) -> dict[str, Tensor]:
        device = graph.numbers.device
        # Of the whole batch, which all ranks know; atoms are those here.
        systems = torch.from_numpy(self.systems[batch.rows]).to(device)
        return {"systems": systems, "places": torch.from_numpy(batch.places).to(device)}

    def measured(self, seen: Described) -> Measured:
        systems, places = seen.part.given["systems"], seen.part.given["places"]
        with torch.autocast(seen.crystals.device.type, enabled=False):
            own = unit_rows(seen.crystals.float())
            empty = own.new_zeros(len(systems), own.shape[1])
            every = across.total(empty.index_copy(0, places, own))
            alike = own @ every.T / self.temperature
        here, known = systems[places][:, None], systems[None, :] >= 0
        same = (here == systems) & known & (here >= 0)
        itself = places[:, None] == torch.arange(len(systems), device=places.device)
        other = (here != systems) & known & (here >= 0)
        against = torch.logsumexp(alike.masked_fill(~other, APART), dim=1)
        anchor, positive = torch.nonzero(same & ~itself & other.any(dim=1)[:, None], as_tuple=True)
        losses = F.softplus(against[anchor] - alike[anchor, positive])
        nearest = alike.masked_fill(itself | ~known, -torch.inf).argmax(dim=1)
        # With no other system in the batch, whoever is nearest is of the same.
        counted = (same & ~itself).any(dim=1) & other.any(dim=1)
        hits = systems[nearest] == here[:, 0]
        return Measured(losses, anchor, _hits(hits[counted]))

    def metrics_of(self, tally: list[float]) -> dict[str, float]:
        return {"accuracy": _ratio(tally[0], tally[1])}


def systems_of(groups: Int64) -> Int64:
    """The crystal system of each space group, 0 to 6; -1 for a crystal without a group."""
    found: Int64 = np.where(groups > 0, np.searchsorted(SYSTEM_ENDS, groups), -1).astype(np.int64)
    return found


def pairs_of(batch: Batch, graph: GraphTensors, pairs: int) -> dict[str, Tensor]:
    """Draw pairs of atoms, half of them bonded, and count the edges of each: `centre`, `other`, `edges`."""
    counts = _atom_counts(graph)
    draws = [
        torch.from_numpy(uniform(batch.own, counts, seed=batch.seed, epoch=batch.epoch, stream=1 + k))
        for k in range(2 * pairs)
    ]
    device = graph.numbers.device
    return sampled_pairs(graph, [d.to(device) for d in draws[:pairs]], [d.to(device) for d in draws[pairs:]])


def class_weights(graphs: LabelledGraphs, rows: Int64, *, pairs: int, balance: float, most: int = 2048) -> Tensor:
    """Weigh classes by how rare they are among pairs of some crystals; 1 on average over pairs."""
    shown = rows[np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(np.int64)]
    counts = torch.zeros(CLASSES, dtype=torch.float64)
    for start in range(0, len(shown), 128):
        part = shown[start : start + 128]
        graph, _ = graphs.take(part)
        batch = Batch(part, np.arange(len(part)), epoch=0, seed=0, device="cpu")
        counts += torch.bincount(pairs_of(batch, graph, pairs)["edges"], minlength=CLASSES)
    often = counts / counts.sum().clamp(min=1)
    # A class that was not seen weighs as one that was seen once.
    weights = (often.clamp(min=1 / float(counts.sum().clamp(min=1)))) ** -balance
    return weights / (often * weights).sum().clamp(min=1e-12)


def _atom_counts(graph: GraphTensors) -> Int64:
    counts: Int64 = graph.edge_graph.atom_offsets.diff().cpu().numpy().astype(np.int64)
    return counts


def _hits(hits: Tensor) -> Tensor:
    return torch.stack([hits.sum(), hits.new_tensor(len(hits), dtype=torch.int64)]).double()


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")
