"""`screening train`: targets from labels."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from screening.arrays import Float64
from screening.errors import InputError
from screening.models.model import CrystalModel, Scaling
from screening.predictions import Target
from screening.training.config import RunSettings, TrainingConfig
from screening.training.judge import judge
from screening.training.labelled import LabelledGraphs
from screening.training.lessons.lesson import C, Lesson, Start, Work
from screening.training.losses import TargetLoss
from screening.training.material import Listener
from screening.training.normalise import Normaliser, learned_labels
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


def supervised(
    config: TrainingConfig, model: CrystalModel, work: Work, *, taught: Float64 | None = None
) -> tuple[CrystalModel, Properties]:
    """Prepare a model and the objective of its labels: scales, terms that start from composition, a checkpoint.

    What is `taught` of a target, (crystals, targets), stands for its labels where no training crystal has one.
    """
    graphs, split, ranks = work.graphs, work.split, work.ranks
    labels = _stood_in(graphs, split, taught)
    normaliser = _of_first(Normaliser.fit(labels, graphs.targets, graphs.held), ranks)
    _require_judges(graphs, split)
    if ranks.is_first:
        work.listener.say(described(graphs, split, taught))
        learned = normaliser.normalise(labels)
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


def _require_judges(graphs: LabelledGraphs, split: Split) -> None:
    """Refuse validation crystals without any label: every epoch would be as good as the first."""
    if len(split.validation) and np.isnan(learned_labels(graphs.labels[split.validation], graphs.targets)).all():
        raise InputError(
            f"none of {len(split.validation):,} validation crystals has a label of these targets; choose others, or "
            "set data.split.by to random and data.split.validation to 0, so that the last epoch is kept"
        )


def _stood_in(graphs: LabelledGraphs, split: Split, taught: Float64 | None) -> Float64:
    """Labels of the training crystals; of a target of which there are none, what is taught."""
    labels: Float64 = graphs.labels[split.train]
    if taught is None:
        return labels
    absent = np.isnan(learned_labels(labels, graphs.targets)).all(axis=0)
    return np.where(absent, taught[split.train], labels)


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


def described(graphs: LabelledGraphs, split: Split, taught: Float64 | None = None) -> str:
    """Say how many crystals there are, labels that can be learned, and predictions that stand for missing ones."""
    labels = graphs.labels[split.train]
    told = f"{sizes(graphs, split)}; training labels: {_counted(labels, graphs.targets)}"
    if taught is None:
        return told
    missing = np.where(np.isnan(labels), taught[split.train], np.nan)
    return f"{told}; predictions in place of missing ones: {_counted(missing, graphs.targets)}"


def _counted(labels: Float64, targets: tuple[Target, ...]) -> str:
    counts = (~np.isnan(learned_labels(labels, targets))).sum(axis=0).tolist()
    return ", ".join(f"{target.name} {count:,}" for target, count in zip(targets, counts, strict=True))


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
