"""`screening train`: targets from labels."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from screening.models.model import CrystalModel, Scaling
from screening.predictions import Target
from screening.training.config import RunSettings, TrainingConfig
from screening.training.judge import judge
from screening.training.labelled import LabelledGraphs
from screening.training.lessons.lesson import C, Lesson, Start, Work
from screening.training.losses import TargetLoss
from screening.training.material import Listener
from screening.training.normalise import Normaliser
from screening.training.objectives.frozen import rebase
from screening.training.objectives.properties import Properties, selectable_of
from screening.training.ranks import Ranks
from screening.training.splits import Split
from screening.training.tuning import INIT, NOTHING, Tuning, located, origins_of, require_startable, started


class LabelLesson(Lesson[C]):
    """What all runs share that learn targets from labels."""

    config: Any

    @property
    def labels(self) -> tuple[Target, ...]:
        heads: tuple[Target, ...] = self.config.heads
        return heads

    @property
    def targets(self) -> tuple[Target, ...]:
        return self.labels

    @property
    def selectable(self) -> Mapping[str, Sequence[str]]:
        return selectable_of(self.labels)

    def check(self) -> None:
        """Refuse a checkpoint to start from that does not fit, too."""
        super().check()
        require_startable(self.new_model(), self.config.init)

    def prepare(self, graphs: LabelledGraphs, folder: Path, listener: Listener) -> dict[str, str]:
        """Find the checkpoint to start from, if there is one."""
        del graphs, folder, listener
        return located(self.config.init)

    def origins(self, work: Work) -> tuple[str, ...]:
        """A hash of that checkpoint."""
        return origins_of(work.files)

    def judged(self, work: Work, epoch: int) -> dict[str, Any]:
        del epoch
        model, found = self.loaded(work), {}
        for name, rows in (("validation", work.split.validation), ("test", work.split.test)):
            if len(rows):
                plot = work.folder / f"parity-{name}.png" if work.ranks.writes() else None
                metrics = judge(model, work.graphs, rows, self.config.training, plot=plot, ranks=work.ranks)
                found[name] = {"targets": metrics}
        return found


class PropertyLesson(LabelLesson[TrainingConfig]):
    """A training run."""

    command: ClassVar[str] = "train"
    settings_type: ClassVar[type[RunSettings]] = TrainingConfig
    config: TrainingConfig

    def start(self, work: Work) -> Start:
        model, objective = supervised(self.config, self.new_model(), work)
        return Start(model, objective, Tuning.of(self.config.init))


def supervised(config: TrainingConfig, model: CrystalModel, work: Work) -> tuple[CrystalModel, Properties]:
    """Prepare a model and the objective of its labels: scales, terms that start from composition, a checkpoint."""
    graphs, split, ranks = work.graphs, work.split, work.ranks
    normaliser = measured(graphs, split, ranks)
    if ranks.is_first:
        work.listener.say(described(graphs, split))
        learned = normaliser.normalise(graphs.labels[split.train])
        # Composition without a label says nothing, and there may be a million such crystals.
        some = ~np.isnan(learned).all(axis=1)
        model.start_from(torch.from_numpy(graphs.fractions(split.train[some])), torch.from_numpy(learned[some]))
    if config.init is not None:
        taken = started(model, config.init, work.files[INIT]) if ranks.is_first else NOTHING
        if taken.calm:
            rebase(model, taken.calm, graphs, split.train, config.training)
        normaliser = _taken_over(normaliser, taken.scaling, ranks)
    model.set_scaling(normaliser.mean.tolist(), normaliser.std.tolist())
    losses = [TargetLoss(t.resolved_loss, t.weight, t.delta) for t in config.targets.values()]
    return model, Properties(graphs, normaliser, losses)


def measured(graphs: LabelledGraphs, split: Split, ranks: Ranks) -> Normaliser:
    """Measure the labels; ranks take the first one's numbers."""
    return _of_first(Normaliser.fit(graphs.labels[split.train], graphs.targets), ranks)


def _taken_over(normaliser: Normaliser, kept: Mapping[str, Scaling], ranks: Ranks) -> Normaliser:
    scales = [kept.get(target.name) for target in normaliser.targets]
    mean = [m if s is None else s.mean for m, s in zip(normaliser.mean.tolist(), scales, strict=True)]
    std = [d if s is None else s.std for d, s in zip(normaliser.std.tolist(), scales, strict=True)]
    return _of_first(Normaliser(normaliser.targets, np.array(mean), np.array(std)), ranks)


def _of_first(found: Normaliser, ranks: Ranks) -> Normaliser:
    if ranks.size == 1:
        return found
    mean, std = json.loads(ranks.told(json.dumps([found.mean.tolist(), found.std.tolist()]).encode()))
    return Normaliser(found.targets, np.array(mean), np.array(std))


def described(graphs: LabelledGraphs, split: Split) -> str:
    """Say how many crystals and labels there are."""
    counts = (~np.isnan(graphs.labels[split.train])).sum(axis=0).tolist()
    labels = ", ".join(f"{target.name} {count:,}" for target, count in zip(graphs.targets, counts, strict=True))
    return f"{sizes(graphs, split)}; training labels: {labels}"


def sizes(graphs: LabelledGraphs, split: Split) -> str:
    """Say how many crystals are for what, and how many atoms to train on have no neighbour, if some have none."""
    told = f"{len(split.train):,} to train, {len(split.validation):,} to validate, {len(split.test):,} to test"
    lonely, atoms = graphs.lonely_atoms(split.train), int(graphs.atom_counts[split.train].sum())
    if not lonely:
        return told
    return (
        f"{told}; {100 * lonely / atoms:.3g} % of the atoms to train on have no neighbour within "
        f"{graphs.neighbors.cutoff:g} angstrom: is model.settings.cutoff right?"
    )
