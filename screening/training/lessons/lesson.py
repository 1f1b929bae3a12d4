"""What one kind of run does in its own way; recipe.py does the rest alike for all kinds.

A lesson says what is read of the crystals, which model is trained on what objective, and how good the result is. Its
`command` is the command line's name for it, and what tells the processes of ranks which lesson theirs is.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar, final

import numpy as np
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from screening.graphs import Neighbors
from screening.models import checkpoint, registry
from screening.models.model import CrystalModel
from screening.predictions import Target
from screening.pretrained.shipped import RUN_MODEL
from screening.training.config import RunSettings, SplitSettings
from screening.training.labelled import LabelledGraphs
from screening.training.loop import require_metric
from screening.training.material import Files, Listener, Material
from screening.training.objectives.objective import Objective
from screening.training.ranks import Ranks
from screening.training.splits import Split, split_in_folds, split_once
from screening.training.tuning import WHOLE, Tuning

C = TypeVar("C", bound=RunSettings)


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """Where a run is at work, on what, who is told of it, and with whom.

    `folder` is that of the fold, if there are folds. `files` are what `prepare` found, as all ranks find them.
    """

    graphs: LabelledGraphs
    split: Split
    folder: Path
    listener: Listener
    ranks: Ranks
    files: Mapping[str, str]


@dataclass(frozen=True, slots=True, eq=False)
class Start:
    """What a run starts from."""

    model: CrystalModel
    objective: Objective
    tuning: Tuning = WHOLE


class Lesson(ABC, Generic[C]):
    """A kind of run, of one configuration."""

    command: ClassVar[str]
    settings_type: ClassVar[type[RunSettings]]
    # Whether the forces on atoms are kept beside the graphs.
    keeps_forces: ClassVar[bool] = False

    def __init__(self, config: C) -> None:
        self.config = config

    @property
    @abstractmethod
    def labels(self) -> tuple[Target, ...]:
        """What is looked up of each crystal."""

    @property
    @abstractmethod
    def targets(self) -> tuple[Target, ...]:
        """What the model predicts in the end."""

    @abstractmethod
    def start(self, work: Work) -> Start:
        """Make the model and the objective; all ranks do, and go on with the weights of the first."""

    @abstractmethod
    def judged(self, work: Work, epoch: int) -> dict[str, Any]:
        """Measure what came out, as it lies on disk: the model of that epoch."""

    @property
    @abstractmethod
    def selectable(self) -> Mapping[str, Sequence[str]]:
        """The metrics by which the best epoch may be chosen, as `Objective` has them."""

    def check(self) -> None:
        """Refuse what can be known to fail without any crystal; called before these are read, which may take hours."""
        require_metric(self.config.training.select, self.selectable)

    @property
    def maps_graphs(self) -> bool:
        """Whether graphs lie in files of the run's folder even when one process learns from them."""
        return False

    @property
    def parts(self) -> Mapping[str, tuple[Path, ...]]:
        """The files to read, by what they are for."""
        given = self.config.data
        return {"train": given.train, "validation": given.validation, "test": given.test}

    def prepare(self, graphs: LabelledGraphs, folder: Path, listener: Listener) -> dict[str, str]:
        """Work out what else the run needs, before any rank is at work; the files it lies in, by full name.

        Ranks may be in other folders than whoever wrote the configuration.
        """
        del graphs, folder, listener
        return {}

    def origins(self, work: Work) -> tuple[str, ...]:
        """What tells models that a run starts from, or learns from, from others in files of the same names."""
        del work
        return ()

    def references(self, work: Work) -> Mapping[str, Mapping[str, float]]:
        """Energies of elements that labels were taken above, by source; most kinds have none."""
        return {}

    @property
    def limits(self) -> str:
        """What models of this kind are not good for, whatever they are trained on."""
        return ""

    def splits(self, material: Material) -> list[Split]:
        """Divide the crystals as the configuration says; with folds, once for each."""
        settings, fraction, seed = self.config.data.split, self.config.data.fraction, self.config.data.split.seed
        graphs = material.graphs
        if settings.by == "files":
            return [split_of_files(settings, material).thinned(fraction, seed=seed)]
        if settings.in_folds:
            found = split_in_folds(settings, graphs.formulas, graphs.folds)
            return [split.thinned(fraction, seed=seed) for split in found]
        return [split_once(settings, graphs.formulas).thinned(fraction, seed=seed)]

    @final
    @property
    def files(self) -> Files:
        """The files of all parts, in order."""
        return tuple(self.parts.values())

    @final
    @property
    def neighbors(self) -> Neighbors:
        """Which edges crystals have."""
        return self.new_model().neighbors

    @final
    def new_model(self) -> CrystalModel:
        """A new model; its weights depend on the seed alone."""
        torch.manual_seed(self.config.training.seed)
        choice = self.config.model
        return registry.build(choice.architecture, choice.settings, self.targets)

    @final
    def loaded(self, work: Work) -> CrystalModel:
        """The best model, from the first rank's disk to the others."""
        device, ranks = self.config.training.device, work.ranks
        if ranks.is_first:
            model, _ = checkpoint.load(work.folder / RUN_MODEL, device=device, encoder=True)
            ranks.told(save_tensors(model.state_dict()) if ranks.size > 1 else b"")
            return model
        model = self.new_model()
        model.load_state_dict(load_tensors(ranks.told(b"")))
        return model.to(device).eval()


def split_of_files(settings: SplitSettings, material: Material) -> Split:
    """Take each part from its files, and what is held out by formula from the training crystals."""
    train, validation, test = np.split(np.arange(sum(material.sizes[:3])), np.cumsum(material.sizes)[:2])
    if settings.held_formulas:
        drawing = SplitSettings(by="formula", validation=0.0, test=settings.held_formulas, seed=settings.seed)
        # Training crystals come first, so that rows among them are rows among all.
        drawn = split_once(drawing, material.graphs.formulas[: len(train)])
        train, test = drawn.train, drawn.test
    return Split(train, validation, test)
