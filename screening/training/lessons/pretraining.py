"""`screening pretrain`: an encoder from structures alone."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from screening.crystals.symmetry import GROUP_LABEL
from screening.predictions import Target
from screening.training.config import RunSettings
from screening.training.journal import validation_of
from screening.training.lessons.lesson import Lesson, Start, Work
from screening.training.lessons.properties import sizes
from screening.training.loop import JOURNAL_FILE
from screening.training.objectives.structure import SECTION, Structure, selectable_of
from screening.training.pretraining_config import PretrainingConfig


class PretrainingLesson(Lesson[PretrainingConfig]):
    """A pre-training run; its model has no targets."""

    command: ClassVar[str] = "pretrain"
    settings_type: ClassVar[type[RunSettings]] = PretrainingConfig
    config: PretrainingConfig

    @property
    def maps_graphs(self) -> bool:
        """There may be millions of crystals."""
        return True

    @property
    def labels(self) -> tuple[Target, ...]:
        return (Target(GROUP_LABEL, "1"),)

    @property
    def targets(self) -> tuple[Target, ...]:
        return ()

    @property
    def selectable(self) -> Mapping[str, Sequence[str]]:
        return selectable_of(self.config.objectives)

    def start(self, work: Work) -> Start:
        graphs, split = work.graphs, work.split
        model = self.new_model()
        groups = np.nan_to_num(np.asarray(graphs.labels[:, 0])).astype(np.int64)
        objective = Structure(graphs, groups, split.train, self.config.objectives, model.width)
        if work.ranks.is_first:
            known = int((groups[split.train] > 0).sum())
            work.listener.say(f"{sizes(graphs, split)}; {known:,} crystals to train on have a space group")
        return Start(model, objective)

    def judged(self, work: Work, epoch: int) -> dict[str, Any]:
        """The validation metrics of the epoch that was kept; the heads that they need are not."""
        text = b""
        if work.ranks.is_first:
            text = json.dumps(validation_of(work.folder / JOURNAL_FILE, epoch)).encode()
        found = json.loads(work.ranks.told(text))
        return {"validation": {"loss": found["loss"], SECTION: found[SECTION]}} if found else {}
