"""What teachers say of crystals, worked out once and kept on disk: their descriptions of atoms, their predictions.

A file is named by a hash of the teachers' weights and of the crystals, so that runs of other seeds, targets and
settings on the same crystals share it, and none takes another's. It is there when it is whole.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from screening.errors import FileFormatError, InputError, ResourceError
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

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
GraphsFor = Callable[[Neighbors], LabelledGraphs]


@dataclass(frozen=True, slots=True)
class Teachers:
    """Models, in evaluation mode, that nothing trains; `hash` is of their weights."""

    models: tuple[CrystalModel, ...]
    hash: str

    @classmethod
    def loaded(cls, names: Iterable[str], *, device: str, encoders: bool) -> "Teachers":
        """Load models by file, folder or shipped name; without targets too, if an encoder is enough."""
        models = [checkpoint.load(model_file(name), device=device, encoder=encoders)[0] for name in names]
        for model in models:
            model.requires_grad_(False)
        states = [{n: t.detach().cpu() for n, t in model.state_dict().items()} for model in models]
        hashes = [f"{m.architecture} {checkpoint.hash_of(s)}" for m, s in zip(models, states, strict=True)]
        return cls(tuple(models), hashlib.sha256("\n".join(hashes).encode()).hexdigest())


def described_atoms(
    teacher: Teachers, graphs: LabelledGraphs, cache: Path, settings: LoopSettings, made: GraphsFor
) -> Path:
    """The file of the teacher's atoms, (atoms, width) float32 of length 1, in the order of the graphs' atoms.

    `made` lists the same crystals with other neighbours, if the teacher has them.
    """
    (model,) = teacher.models
    path = _place(cache, "atoms", teacher.hash, graphs)

    def fill(table: npt.NDArray[np.generic]) -> None:
        def encode(batch: GraphTensors) -> Tensor:
            return unit_rows(model.encode(batch).float())

        _fill(table, model, encode, _for(model, graphs, made), settings, by_atom=True)

    return _written(path, (len(graphs.numbers), model.width), np.float32, fill)


def predictions(
    teachers: Teachers,
    targets: Sequence[Target],
    graphs: LabelledGraphs,
    cache: Path,
    settings: LoopSettings,
    made: GraphsFor,
) -> Path:
    """The file of the teachers' mean predictions, (crystals, targets) float64; NaN for a target that none predicts."""
    told = ",".join(target.name for target in targets)
    path = _place(cache, "predictions", f"{teachers.hash} {told}", graphs)
    able = [[m for m in teachers.models if target.name in {t.name for t in m.targets}] for target in targets]
    if not any(able):
        raise InputError(f"no teacher predicts {told}; name teachers of these targets")
    for target, models in zip(targets, able, strict=True):
        _require_same(target, models)

    def fill(table: npt.NDArray[np.generic]) -> None:
        table[:] = np.nan
        for model in teachers.models:
            columns = [t for t, models in enumerate(able) if any(model is m for m in models)]
            if not columns:
                continue
            own = np.zeros((len(table), len(columns)))

            def predict(batch: GraphTensors, model: CrystalModel = model, columns: list[int] = columns) -> Tensor:
                values = model.predict(batch)
                return torch.stack([values[targets[t].name] for t in columns], dim=1)

            _fill(own, model, predict, _for(model, graphs, made), settings, by_atom=False)
            shares = np.array([len(able[t]) for t in columns])
            table[:, columns] = np.nan_to_num(table[:, columns]) + own / shares

    return _written(path, (len(graphs), len(targets)), np.float64, fill)


def mapped(path: Path, rows: int) -> npt.NDArray[np.generic]:
    """Map a file of so many rows, without reading it."""
    try:
        table = np.load(path, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise FileFormatError(f"{path}: cannot be read as what a teacher says ({error}); delete it") from error
    if len(table) != rows:
        raise FileFormatError(f"{path}: has {len(table)} rows, expected {rows}; delete it")
    return np.asarray(table)


def _for(model: CrystalModel, graphs: LabelledGraphs, made: GraphsFor) -> LabelledGraphs:
    if graphs.neighbors == model.neighbors:
        return graphs
    own = made(model.neighbors)
    if not np.array_equal(own.atom_offsets, graphs.atom_offsets):
        raise InputError("the crystals changed while they were read for the teacher; begin again")
    return own


@torch.no_grad()
def _fill(
    table: npt.NDArray[np.generic],
    model: CrystalModel,
    apply: Callable[[GraphTensors], Tensor],
    graphs: LabelledGraphs,
    settings: LoopSettings,
    *,
    by_atom: bool,
) -> None:
    batches = ordered_batches(
        graphs,
        np.arange(len(graphs)),
        batch_size=settings.batch_size,
        max_atoms=settings.max_atoms,
        max_edges=settings.max_edges,
    )
    for rows, (graph, _) in prefetched(batches, lambda rows: graphs.take(rows, device=settings.device)):
        found = apply(graph)
        if not torch.isfinite(found).all():
            raise InputError(
                f"a teacher's {model.architecture} gives no finite numbers for crystals {graphs.ids[int(rows[0])]} to "
                f"{graphs.ids[int(rows[-1])]}; leave them out, or choose another teacher"
            )
        first = int(graphs.atom_offsets[rows[0]]) if by_atom else int(rows[0])
        table[first : first + len(found)] = found.cpu().numpy()


def _require_same(target: Target, models: Sequence[CrystalModel]) -> None:
    for model in models:
        (own,) = [t for t in model.targets if t.name == target.name]
        if (own.unit, own.kind) != (target.unit, target.kind):
            raise InputError(
                f"a teacher's {target.name} is a {own.kind} in {own.unit or 'no unit'}, this run's a {target.kind} in "
                f"{target.unit or 'no unit'}; choose other teachers"
            )


def _place(cache: Path, kind: str, teacher: str, graphs: LabelledGraphs) -> Path:
    # Whatever the labels: these are of no interest to a teacher.
    crystals = graphs.for_targets(()).fingerprint(np.arange(len(graphs)))
    return cache / f"{kind}-{hashlib.sha256(f'{kind} {teacher} {crystals}'.encode()).hexdigest()[:32]}.npy"


def _written(
    path: Path, shape: tuple[int, int], dtype: npt.DTypeLike, fill: Callable[[npt.NDArray[np.generic]], None]
) -> Path:
    if path.exists():
        return path
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        table = np.lib.format.open_memmap(part, "w+", dtype, shape)
        fill(table)
        table.flush()
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise ResourceError(f"{path}: cannot be written ({error.strerror or error}); check the disk") from error
    return path
