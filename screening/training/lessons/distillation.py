"""`screening distil`: targets from labels and from what teachers say."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from screening.graphs import Neighbors
from screening.training.config import RunSettings
from screening.training.distillation_config import DistillationConfig
from screening.training.graph_files import GraphWriter, mapped_graphs
from screening.training.judge import read_crystals
from screening.training.labelled import LabelledGraphs
from screening.training.lessons.lesson import Start, Work
from screening.training.lessons.properties import LabelLesson, supervised
from screening.training.material import Listener, Material
from screening.training.objectives.distillation import Distillation, TaughtAtoms, TaughtLabels
from screening.training.splits import Split
from screening.training.tables import mapped
from screening.training.teachers import Lecture, Teachers, described_atoms, predicting, predictions
from screening.training.tuning import Tuning

UNLABELLED, LABELLED_PARTS = "unlabelled", 3
CACHE, TEACHER_GRAPHS = "teacher", "graphs-of-teacher"
SAID = ATOMS, PREDICTIONS = "atoms", "predictions"


class DistillationLesson(LabelLesson[DistillationConfig]):
    """A distillation run."""

    command: ClassVar[str] = "distil"
    settings_type: ClassVar[type[RunSettings]] = DistillationConfig
    config: DistillationConfig

    @property
    def maps_graphs(self) -> bool:
        """There may be millions of crystals without labels."""
        return bool(self.parts[UNLABELLED])

    @property
    def parts(self) -> Mapping[str, tuple[Path, ...]]:
        """Crystals without labels too, after those with."""
        given = self.config.predictions
        return {**super().parts, UNLABELLED: () if given is None else given.crystals}

    def splits(self, material: Material) -> list[Split]:
        """Divide the crystals with labels; those without are all trained on."""
        self._labelled = sum(material.sizes[:LABELLED_PARTS])
        labelled = Material(material.graphs.first(self._labelled), material.files, material.sizes)
        more = np.arange(self._labelled, len(material.graphs))
        return [
            Split(np.concatenate([split.train, more]), split.validation, split.test)
            for split in super().splits(labelled)
        ]

    def check(self) -> None:
        """Refuse teachers that are not there or cannot say what they are asked, too."""
        super().check()
        if self.config.distillation is not None:
            Teachers.loaded([self.config.distillation.teacher], device="cpu", encoders=True)
        if self.config.predictions is not None:
            predicting(Teachers.loaded(self.config.predictions.teachers, device="cpu", encoders=False), self.labels)

    def prepare(self, graphs: LabelledGraphs, folder: Path, listener: Listener) -> dict[str, str]:
        """Have the teachers say what they know, if they have not."""
        device = self.config.training.device
        if device.partition(":")[0] == "cuda" and not torch.cuda.is_available():
            listener.say("there is no GPU here, on the machine of the cluster's driver: teachers are asked on the CPU")
            device = "cpu"
        settings = self.config.training.model_copy(update={"device": device})
        found = super().prepare(graphs, folder, listener)

        def made(neighbors: Neighbors) -> LabelledGraphs:
            return self._listed(neighbors, folder / TEACHER_GRAPHS, listener)

        lecture = Lecture(graphs, self.config.cache or folder / CACHE, settings, made, listener)
        try:
            if self.config.distillation is not None:
                teacher = Teachers.loaded([self.config.distillation.teacher], device=device, encoders=True)
                teacher.tell_of_unseen(graphs, listener)
                found[ATOMS] = str(described_atoms(teacher, lecture).resolve())
            if self.config.predictions is not None:
                several = Teachers.loaded(self.config.predictions.teachers, device=device, encoders=False)
                several.tell_of_unseen(graphs, listener)
                found[PREDICTIONS] = str(predictions(several, self.labels, lecture).resolve())
        finally:
            # In the folder of this run, which is nobody else's, as `cache` may be.
            shutil.rmtree(folder / TEACHER_GRAPHS, ignore_errors=True)
        return found

    def origins(self, work: Work) -> tuple[str, ...]:
        """What teachers say, too, by names of files that are hashes of teachers and crystals."""
        return (*super().origins(work), *(Path(work.files[what]).name for what in SAID if what in work.files))

    def start(self, work: Work) -> Start:
        atoms = labels = taught = None
        if self.config.predictions is not None:
            taught = np.array(mapped(Path(work.files[PREDICTIONS]), len(work.graphs)), np.float64)
            labels = TaughtLabels(taught, self.config.predictions.weight)
        model, properties = supervised(self.config, self.new_model(), work, taught=taught)
        if work.ranks.is_first:
            self._tell_of_labels(work)
        if self.config.distillation is not None:
            table = mapped(Path(work.files[ATOMS]), len(work.graphs.numbers))
            atoms = TaughtAtoms(table, self.config.distillation.alpha)
        objective = Distillation(work.graphs, properties, model, atoms=atoms, labels=labels)
        return Start(model, objective, Tuning.of(self.config.init))

    def _tell_of_labels(self, work: Work) -> None:
        """Say that crystals that are there for predictions have labels, where some have: these count as any."""
        count = int((~np.isnan(work.graphs.labels[self._labelled :])).any(axis=1).sum())
        if count:
            work.listener.say(f"{count:,} of predictions.crystals have labels too, which are learned as labels")

    def _listed(self, neighbors: Neighbors, place: Path, listener: Listener) -> LabelledGraphs:
        """The same crystals with other neighbours."""
        with GraphWriter(place, self.labels, neighbors) as writer:
            for what, paths in self.parts.items():
                if paths:
                    stream = read_crystals(paths, workers=self.config.data.workers, name=what, say=listener.say)
                    for part in LabelledGraphs.parts(stream, self.labels, neighbors):
                        listener.check()
                        writer.append(part)
        return mapped_graphs(place)
