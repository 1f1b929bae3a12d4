"""Learning from structure alone: aspects of crystals that need no label, on one encoding of each batch."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import final

import numpy as np
import torch
from torch import Tensor, nn

from screening.arrays import Int64
from screening.errors import InputError, ScreeningError
from screening.models.layers import mean_of_atoms, unit_rows
from screening.models.model import CrystalModel
from screening.training.assess import Assessment, named
from screening.training.batching import ordered_batches, prefetched
from screening.training.config import LoopSettings
from screening.training.labelled import LabelledGraphs
from screening.training.losses import LossSums
from screening.training.objectives.aspects import (
    Aspect,
    Connectivity,
    Contrast,
    Described,
    Measured,
    NodeFeatures,
    SpaceGroup,
    class_weights,
)
from screening.training.objectives.objective import Batch, Objective, Part
from screening.training.pretraining_config import ObjectivesSettings
from screening.training.ranks import ALONE, Ranks

# What is drawn to measure a model is the same after every epoch, and is drawn in none.
MEASURING = 1 << 40
SECTION = "objectives"


@final
class Structure(Objective):
    """Features of masked atoms, edges between atoms, space groups, and what crystals of one system have in common."""

    def __init__(
        self, graphs: LabelledGraphs, groups: Int64, rows: Int64, settings: ObjectivesSettings, width: int
    ) -> None:
        self._graphs = graphs
        self.aspects = _aspects(graphs, groups, rows, settings, width)
        self.modules = nn.ModuleDict({aspect.name: aspect.module for aspect in self.aspects})

    @property
    def weights(self) -> Mapping[str, float]:
        return {aspect.name: aspect.weight for aspect in self.aspects}

    @property
    def selectable(self) -> Mapping[str, Sequence[str]]:
        return {aspect.name: aspect.metrics for aspect in self.aspects}

    def gather(self, batch: Batch) -> Part:
        graph, _ = self._graphs.take(batch.own, device=batch.device)
        given: dict[str, Tensor] = {}
        for aspect in self.aspects:
            given |= aspect.given(batch, graph)
        part = Part(batch, graph, given)
        for aspect in self.aspects:
            if isinstance(aspect, NodeFeatures):
                # Atomic number 0 is no element: its features are zero in every architecture.
                part = replace(part, graph=replace(graph, numbers=graph.numbers.masked_fill(aspect.hidden(part), 0)))
        return part

    def sums(self, model: CrystalModel, part: Part) -> LossSums:
        found = self._measured(model, part)
        counts = torch.tensor([len(one.losses) for one in found], device=part.graph.numbers.device)
        return LossSums(torch.stack([one.losses.sum() for one in found]), counts)

    @torch.no_grad()
    def each(self, model: CrystalModel, part: Part) -> Tensor:
        found = torch.zeros(part.graph.crystals, dtype=torch.float64)
        for one in self._measured(model, part):
            where, losses = one.crystal.cpu(), one.losses.double().cpu()
            counts = torch.zeros_like(found).index_add(0, where, torch.ones_like(losses))
            found += torch.zeros_like(found).index_add(0, where, losses) / counts.clamp(min=1)
        return found

    @torch.no_grad()
    def assess(self, model: CrystalModel, rows: Int64, settings: LoopSettings, ranks: Ranks = ALONE) -> Assessment:
        model.eval()
        limits = {"max_atoms": settings.max_atoms, "max_edges": settings.max_edges}
        # Files often hold like crystals side by side, and crystals are compared with others of their batch.
        mixed = np.random.default_rng(MEASURING).permutation(rows)
        batches = ordered_batches(self._graphs, mixed, batch_size=settings.batch_size, **limits)
        numbers = torch.zeros(sum(2 + aspect.tallied for aspect in self.aspects), dtype=torch.float64)
        wrong: list[int] = []
        for own, part in prefetched(batches[ranks.rank :: ranks.size], lambda rows: self._whole(rows, settings)):
            described = self._described(model, part)
            wrong += own[~torch.isfinite(described.crystals).all(dim=1).cpu().numpy()].tolist()
            numbers += _packed([aspect.measured(described) for aspect in self.aspects])
        wrong = sorted(ranks.joined(wrong))
        if wrong:
            advice = (
                "check these crystals" if len(wrong) < len(rows) else "the weights have diverged, train it more slowly"
            )
            raise ScreeningError(f"encoded atoms are not finite in {named(self._graphs, np.array(wrong))}; {advice}")
        return self._assessment(ranks.total(numbers).tolist()).of_first(ranks)

    def _whole(self, rows: Int64, settings: LoopSettings) -> Part:
        return self.gather(Batch(rows, np.arange(len(rows)), MEASURING, settings.seed, settings.device))

    def _described(self, model: CrystalModel, part: Part) -> Described:
        atoms = unit_rows(model.encode(part.graph).float())
        return Described(part, atoms, mean_of_atoms(atoms, part.graph.edge_graph))

    def _measured(self, model: CrystalModel, part: Part) -> list[Measured]:
        described = self._described(model, part)
        return [aspect.measured(described) for aspect in self.aspects]

    def _assessment(self, numbers: list[float]) -> Assessment:
        sums, counts, metrics, place = [], [], {}, 0
        for aspect in self.aspects:
            total, count, *tally = numbers[place : place + 2 + aspect.tallied]
            sums.append(total)
            counts.append(round(count))
            metrics[aspect.name] = {"count": count} | aspect.metrics_of(tally)
            place += 2 + aspect.tallied
        return Assessment(self.mean(sums, counts), self.means(sums, counts), metrics, SECTION)


def _aspects(
    graphs: LabelledGraphs, groups: Int64, rows: Int64, settings: ObjectivesSettings, width: int
) -> list[Aspect]:
    """Those that have a weight."""
    if settings.need_groups and not (groups[rows] > 0).any():
        raise InputError(
            "no training crystal has a space group; make the files with `screening pack --space-groups`, or set "
            "objectives.space_group.weight and objectives.contrast.weight to 0"
        )
    nodes, connectivity = settings.nodes, settings.connectivity
    space_group, contrast = settings.space_group, settings.contrast
    found: list[Aspect] = []
    if nodes.weight:
        found.append(NodeFeatures(nodes.weight, width, nodes.masked))
    if connectivity.weight:
        weights = class_weights(graphs, rows, pairs=connectivity.pairs, balance=connectivity.balance)
        found.append(Connectivity(connectivity.weight, width, connectivity.pairs, weights))
    if space_group.weight:
        found.append(SpaceGroup(space_group.weight, width, groups))
    if contrast.weight:
        found.append(Contrast(contrast.weight, contrast.temperature, groups))
    return found


def selectable_of(settings: ObjectivesSettings) -> Mapping[str, Sequence[str]]:
    """The metrics by which the best epoch may be chosen, of the aspects that have a weight."""
    kinds: tuple[type[Aspect], ...] = (NodeFeatures, Connectivity, SpaceGroup, Contrast)
    return {kind.name: kind.metrics for kind in kinds if getattr(settings, kind.name).weight}


def _packed(found: Sequence[Measured]) -> Tensor:
    parts = [
        torch.cat([one.losses.double().sum()[None], one.losses.new_tensor([len(one.losses)]).double(), one.tally])
        for one in found
    ]
    return torch.cat(parts).cpu()
