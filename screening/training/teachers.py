"""What teachers say of crystals, worked out once and kept on disk: their descriptions of atoms, their predictions.

A file is named by a hash of the teachers' weights and of the crystals with the run's edges: runs of other seeds,
targets and settings on the same crystals share it, and none takes another's. tables.py says how it is made.
"""

import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from screening.arrays import Float64, Int64
from screening.errors import InputError
from screening.graphs import Neighbors
from screening.models import checkpoint
from screening.models.graph_tensors import GraphTensors
from screening.models.layers import unit_rows
from screening.models.model import CrystalModel
from screening.predictions import Target
from screening.pretrained.shipped import model_file
from screening.training.batching import ordered_batches, prefetched
from screening.training.config import LoopSettings
from screening.training.labelled import LabelledGraphs
from screening.training.material import Listener
from screening.training.tables import made_table, mapped

GraphsFor = Callable[[Neighbors], LabelledGraphs]
# Crystals of a block of a table: a quarter of a minute of CGCNN on a core, 40 MB of descriptions.
BLOCK = 8192
SAY_S = 10.0


@dataclass(frozen=True, slots=True)
class Teachers:
    """Models, in evaluation mode, that nothing trains; a hash of the weights of each, and one of all.

    `elements` are those that each has learned from, where its card tells.
    """

    models: tuple[CrystalModel, ...]
    hashes: tuple[str, ...]
    elements: tuple[Sequence[int] | None, ...]

    @classmethod
    def loaded(cls, names: Iterable[str], *, device: str, encoders: bool) -> "Teachers":
        """Load models by file, folder or shipped name; without targets too, if an encoder is enough."""
        loaded = [checkpoint.load(model_file(name), device=device, encoder=encoders) for name in names]
        models = [model for model, _ in loaded]
        for model in models:
            model.requires_grad_(False)
        states = [{n: t.detach().cpu() for n, t in model.state_dict().items()} for model in models]
        hashes = [f"{m.architecture} {checkpoint.hash_of(s)}" for m, s in zip(models, states, strict=True)]
        return cls(tuple(models), tuple(hashes), tuple(card.elements for _, card in loaded))

    def tell_of_unseen(self, graphs: LabelledGraphs, listener: Listener) -> None:
        """Say of how many crystals a teacher speaks without having seen their elements."""
        for model, elements in zip(self.models, self.elements, strict=True):
            rows = np.empty(0, np.int64) if elements is None else graphs.rows_beyond(elements)
            if len(rows):
                listener.say(
                    f"{len(rows):,} of {len(graphs):,} crystals have elements that teacher {model.architecture} was "
                    f"not trained on, such as {graphs.ids[int(rows[0])]}; what it says of them is a guess"
                )

    @property
    def hash(self) -> str:
        """Of all, in their order."""
        return hashlib.sha256("\n".join(self.hashes).encode()).hexdigest()


@dataclass(frozen=True)
class Lecture:
    """Crystals that teachers are asked of, where what they say is kept, how they are shown, and who is told.

    `made` lists the same crystals with other neighbours, if a teacher has them.
    """

    graphs: LabelledGraphs
    cache: Path
    settings: LoopSettings
    made: GraphsFor
    listener: Listener

    @cached_property
    def crystals(self) -> str:
        """A hash of the crystals with the edges of this run, whatever their labels, which are nothing to a teacher."""
        return self.graphs.for_targets(()).fingerprint(np.arange(len(self.graphs)))

    def place(self, kind: str, teacher: str) -> Path:
        """Where a file belongs."""
        name = hashlib.sha256(f"{kind} {teacher} {self.crystals}".encode()).hexdigest()[:32]
        return self.cache / f"{kind}-{name}.npy"

    def shown_to(self, model: CrystalModel) -> LabelledGraphs:
        """The crystals with the edges of a model."""
        if self.graphs.neighbors == model.neighbors:
            return self.graphs
        own = self.made(model.neighbors)
        if not np.array_equal(own.atom_offsets, self.graphs.atom_offsets):
            raise InputError("the crystals changed while they were read for the teacher; begin again")
        return own


def described_atoms(teacher: Teachers, lecture: Lecture) -> Path:
    """The file of the teacher's atoms, (atoms, width) float32 of length 1, in the order of the graphs' atoms."""
    (model,) = teacher.models

    def encode(batch: GraphTensors) -> Tensor:
        return unit_rows(model.encode(batch).float())

    ends = lecture.graphs.atom_offsets[_cuts(len(lecture.graphs))]
    asked = _Asked(lecture, model, encode)
    return made_table(lecture.place("atoms", teacher.hash), ends, model.width, np.float32, asked.block)


def predicting(teachers: Teachers, targets: Sequence[Target]) -> list[list[CrystalModel]]:
    """Which of the teachers predict each target; refuses those who predict none, or something else of that name."""
    able = [[m for m in teachers.models if target.name in {t.name for t in m.targets}] for target in targets]
    if not any(able):
        told = ", ".join(target.name for target in targets)
        raise InputError(f"no teacher predicts {told}; name teachers of these targets")
    for target, models in zip(targets, able, strict=True):
        _require_same(target, models)
    return able


def predictions(teachers: Teachers, targets: Sequence[Target], lecture: Lecture) -> Path:
    """The file of the teachers' mean predictions, (crystals, targets) float64; NaN for a target that none predicts."""
    told = ",".join(target.name for target in targets)
    able = predicting(teachers, targets)

    def mean(block: int) -> Float64:
        # There is one block: what takes long is in a file for each teacher.
        del block
        sums, counts = np.zeros((len(lecture.graphs), len(targets))), np.array([len(models) for models in able])
        for model, hash in zip(teachers.models, teachers.hashes, strict=True):
            columns = [t for t, models in enumerate(able) if any(model is m for m in models)]
            if columns:
                own = _predicted(model, hash, [targets[t].name for t in columns], lecture)
                sums[:, columns] += np.asarray(mapped(own, len(sums)), np.float64)
        return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)

    ends = np.array([0, len(lecture.graphs)])
    return made_table(lecture.place("predictions", f"{teachers.hash} {told}"), ends, len(targets), np.float64, mean)


def _predicted(model: CrystalModel, hash: str, names: Sequence[str], lecture: Lecture) -> Path:
    """The file of one teacher's predictions, (crystals, names)."""

    def predict(batch: GraphTensors) -> Tensor:
        values = model.predict(batch)
        return torch.stack([values[name] for name in names], dim=1)

    path = lecture.place("predicted", f"{hash} {','.join(names)}")
    asked = _Asked(lecture, model, predict)
    return made_table(path, _cuts(len(lecture.graphs)), len(names), np.float64, asked.block)


class _Asked:
    """What a model says of crystals, a block of them at a time, told now and then."""

    def __init__(self, lecture: Lecture, model: CrystalModel, apply: Callable[[GraphTensors], Tensor]) -> None:
        self._lecture, self._model, self._apply = lecture, model, apply
        self._told = time.monotonic()

    @cached_property
    def _graphs(self) -> LabelledGraphs:
        # Not before something is to be asked: to list neighbours takes long.
        return self._lecture.shown_to(self._model)

    @torch.no_grad()
    def block(self, number: int) -> npt.NDArray[np.generic]:
        graphs, settings, listener = self._graphs, self._lecture.settings, self._lecture.listener
        cuts = _cuts(len(graphs))
        batches = ordered_batches(
            graphs,
            np.arange(cuts[number], cuts[number + 1]),
            batch_size=settings.batch_size,
            max_atoms=settings.max_atoms,
            max_edges=settings.max_edges,
        )
        found = []
        for rows, (graph, _) in prefetched(batches, lambda rows: graphs.take(rows, device=settings.device)):
            listener.check()
            said = self._apply(graph)
            if not torch.isfinite(said).all():
                raise InputError(
                    f"a teacher's {self._model.architecture} gives no finite numbers for crystals "
                    f"{graphs.ids[int(rows[0])]} to {graphs.ids[int(rows[-1])]}; leave them out, or choose another "
                    "teacher"
                )
            found.append(said.cpu().numpy())
        self._tell(int(cuts[number + 1]), len(graphs))
        return np.concatenate(found)

    def _tell(self, done: int, all_of_them: int) -> None:
        if done == all_of_them or time.monotonic() - self._told >= SAY_S:
            self._told = time.monotonic()
            self._lecture.listener.say(f"teacher {self._model.architecture}: {done:,} of {all_of_them:,} crystals")


def _cuts(crystals: int) -> Int64:
    """Where blocks of crystals end."""
    return np.append(np.arange(0, crystals, BLOCK), crystals).astype(np.int64)


def _require_same(target: Target, models: Sequence[CrystalModel]) -> None:
    for model in models:
        (own,) = [t for t in model.targets if t.name == target.name]
        if (own.unit, own.kind) != (target.unit, target.kind):
            raise InputError(
                f"a teacher's {target.name} is a {own.kind} in {own.unit or 'no unit'}, this run's a {target.kind} in "
                f"{target.unit or 'no unit'}; choose other teachers"
            )
