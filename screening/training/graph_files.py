"""Labelled graphs in files that any number of processes map: each reads from them the crystals of its batches only.

A column is a file of plain numbers, end to end, and `index.json`, which is written last, says of what. Written a batch
at a time, so that making them takes the memory of a batch; mapped, so that ranks on one machine share the memory.
"""

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
import numpy.typing as npt

from screening.crystals.text import TextColumn
from screening.errors import FileFormatError
from screening.files.whole import write_whole, writing
from screening.graphs import Neighbors
from screening.predictions import Target
from screening.training.labelled import LabelledGraphs

INDEX_FILE = "index.json"
# Name, type and what follows the first dimension; offsets have one entry more than what they count.
COLUMNS: dict[str, tuple[type[np.generic], tuple[int, ...]]] = {
    "id_bytes": (np.uint8, ()),
    "id_offsets": (np.int64, ()),
    "folds": (np.float64, ()),
    "numbers": (np.uint8, ()),
    "atom_offsets": (np.int64, ()),
    "edge_offsets": (np.int64, ()),
    "edge_source": (np.int32, ()),
    "edge_vector": (np.float32, (3,)),
}
FORCES = "forces"
Array = npt.NDArray[Any]


class GraphWriter:
    """Writes graphs into a folder of their own, a context manager; they are there when it ends without an error."""

    def __init__(self, folder: Path, targets: Sequence[Target], neighbors: Neighbors, *, forces: bool = False) -> None:
        self._folder, self._targets, self._neighbors, self._forces = folder, tuple(targets), neighbors, forces
        self._ends = dict.fromkeys(("id_offsets", "atom_offsets", "edge_offsets"), 0)
        self._files: dict[str, IO[bytes]] = {}
        self._held: set[str] = set()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with writing(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            (self._folder / INDEX_FILE).unlink(missing_ok=True)
            for name in (*COLUMNS, "labels", *([FORCES] if self._forces else [])):
                self._files[name] = self._stack.enter_context((self._folder / name).open("wb"))
            for name in self._ends:
                self._files[name].write(np.int64(0).tobytes())
        return self

    def append(self, part: LabelledGraphs) -> None:
        """Write more crystals after those before."""
        self._held |= part.held
        ids = TextColumn.of(part.ids)
        columns: dict[str, Array] = {
            "id_bytes": ids.data[ids.offsets[0] : ids.offsets[-1]],
            "labels": part.labels,
            "folds": part.folds,
            "numbers": part.numbers,
            "edge_source": part.edge_source,
            "edge_vector": part.edge_vector,
        }
        if self._forces and part.forces is not None:
            columns[FORCES] = part.forces
        offsets = {"id_offsets": ids.offsets, "atom_offsets": part.atom_offsets, "edge_offsets": part.edge_offsets}
        with writing(self._folder):
            for name, values in columns.items():
                self._files[name].write(np.ascontiguousarray(values).data)
            for name, values in offsets.items():
                self._files[name].write((values[1:] - values[0] + self._ends[name]).astype(np.int64).data)
                self._ends[name] += int(values[-1] - values[0])

    def __exit__(self, kind: object, *_: object) -> None:
        with writing(self._folder):
            self._stack.close()
            if kind is None:
                facts = {
                    "targets": [asdict(target) for target in self._targets],
                    "neighbors": asdict(self._neighbors),
                    FORCES: self._forces,
                    "held": sorted(self._held),
                }
                write_whole(self._folder / INDEX_FILE, [json.dumps(facts).encode()])


def mapped_graphs(folder: Path) -> LabelledGraphs:
    """Give what a writer left in a folder, without reading it."""
    try:
        facts = json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))
        targets = tuple(Target(**fields) for fields in facts["targets"])
        found = {name: _mapped(folder / name, kind, more) for name, (kind, more) in COLUMNS.items()}
        held = frozenset(facts["held"])
        labels = _mapped(folder / "labels", np.float64, (len(targets),))
        if facts[FORCES]:
            found[FORCES] = _mapped(folder / FORCES, np.float32, (3,))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FileFormatError(
            f"{folder}: holds no graphs that can be used here ({error}); workers need the run's folder under one path"
        ) from error
    ids = TextColumn(found.pop("id_bytes"), found.pop("id_offsets"))
    neighbors = Neighbors(**facts["neighbors"])
    return LabelledGraphs(ids=ids, targets=targets, neighbors=neighbors, labels=labels, held=held, **found)


def _mapped(path: Path, kind: type[np.generic], more: tuple[int, ...]) -> Array:
    rows, rest = divmod(path.stat().st_size, np.dtype(kind).itemsize * int(np.prod(more, dtype=np.int64)))
    if rest:
        raise ValueError(f"{path.name} ends within a number")
    if rows == 0:
        return np.empty((0, *more), kind)
    # A plain array over the mapping: NumPy's own class for it is slower to index.
    return np.asarray(np.memmap(path, kind, "r", shape=(rows, *more)))
