"""Where the rows of a view lie: in `results.h5`, in a shard, or, when packing refused them, in the packed input."""

import contextlib
import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Protocol, Self

import h5py
import numpy as np
import numpy.typing as npt

from screening.crystals.packed import PackedCrystals
from screening.errors import FileFormatError, InputError
from screening.files.hdf5 import reading
from screening.store import failures
from screening.store.cover import Piece
from screening.store.record import RELAXED, RunRecord
from screening.store.rejected import rejected_columns
from screening.store.relaxed import has_atoms
from screening.store.relaxed_writer import FINGERPRINT
from screening.store.schema import (
    EMBEDDING,
    NOTE_COLUMNS,
    READ_VERSIONS,
    RELAXATION,
    RELAXED_COLUMNS,
    RESULTS_FORMAT,
    VERSIONS,
    Array,
    ShardNote,
    Stamp,
    plain_attributes,
)
from screening.store.shard import ShardFile, require_stamp

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]
CURE = "it is damaged or of another kind: copy it again, or make it again with `screening merge`"
# So many refused crystals are read for the sake of one.
REFUSED_BLOCK = 1 << 13
# Relaxed crystals that lie in one block of their file are read together.
RELAXED_BLOCK = 1 << 10


@dataclass(frozen=True, slots=True)
class Reasons:
    """Why rows are not ok: their places, ascending, with codes and sentences."""

    places: Int64
    reasons: Array
    messages: Sequence[str]


class Atoms(NamedTuple):
    """Where the atoms of a relaxed crystal are: positions (atoms, 3) and lattice (3, 3), angstrom."""

    positions: Float64
    lattice: Float64


class Part(Protocol):
    """Some consecutive rows of a view that lie in one file; places count from its first."""

    def __len__(self) -> int: ...

    def read(self, names: Sequence[str], start: int, stop: int) -> dict[str, Array]:
        """Read columns at places [start, stop)."""
        ...

    def take(self, name: str, places: Int64) -> Array:
        """Read a column at some places, ascending."""
        ...

    def relaxed(self, places: Int64) -> "list[Atoms | None]":
        """Read where the relaxation of some rows, ascending, left their atoms; None where there is no such crystal."""
        ...

    def reasons(self) -> Reasons:
        """Read why rows are not ok."""
        ...

    def notes(self) -> list[ShardNote]:
        """Read how the rows came about."""
        ...


class Merged:
    """All rows, in `results.h5`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with contextlib.ExitStack() as undo, _reading(path, "open"):
            self._file = h5py.File(path, "r", locking=False)
            undo.callback(self._file.close)
            self.attributes = plain_attributes(self._file)
            found, version = self.attributes.get("format"), self.attributes.get("schema_version")
            if found != RESULTS_FORMAT:
                raise FileFormatError(
                    f"{path}: an HDF5 file, but not of results (format {found!r}, expected {RESULTS_FORMAT!r}); name "
                    "the folder of a run, or the results.h5 in it"
                )
            if version not in VERSIONS:
                raise FileFormatError(
                    f"{path}: written with schema version {version}, this release reads {READ_VERSIONS}; update "
                    "crystal-screening"
                )
            content = json.loads(self.attributes["run"])
            self.stamp = Stamp.of(self.attributes)
            self.record = RunRecord(path.parent, self.stamp, content["input"], content["rows"], content)
            self._rows = int(self._file["row"].shape[0])
            self.embedding_width = int(self._file[EMBEDDING].shape[1]) if EMBEDDING in self._file else 0
            undo.pop_all()

    def __len__(self) -> int:
        return self._rows

    def read(self, names: Sequence[str], start: int, stop: int) -> dict[str, Array]:
        """Read columns at places [start, stop)."""
        with _reading(self.path):
            return {name: self._file[name][start:stop] for name in names}

    def take(self, name: str, places: Int64) -> Array:
        """Read a column at some places, each chunk that holds any of them once."""
        with _reading(self.path):
            column = self._file[name]
            size = column.chunks[0]
            chunks, firsts = np.unique(places // size, return_index=True)
            ends = [*firsts[1:].tolist(), len(places)]
            found = np.empty((len(places), *column.shape[1:]), column.dtype)
            for chunk, a, b in zip(chunks.tolist(), firsts.tolist(), ends, strict=True):
                found[a:b] = column[chunk * size : (chunk + 1) * size][places[a:b] - chunk * size]
            return found

    def relaxed(self, places: Int64) -> list[Atoms | None]:
        """Read relaxed crystals from the packed file beside this one."""
        if self.stamp.relaxation is None:
            return [None] * len(places)
        there, rows = self._row_of_relaxed[places] >= 0, self._row_of_relaxed[places]
        found: list[Atoms | None] = [None] * len(places)
        with self._relaxed_file() as packed:
            for block in np.split(np.flatnonzero(there), np.flatnonzero(np.diff(rows[there] // RELAXED_BLOCK)) + 1):
                if len(block):
                    first = int(rows[block[0]])
                    batch = packed.atoms(first, int(rows[block[-1]]) + 1)
                    for k in block.tolist():
                        crystal = batch[int(rows[k]) - first]
                        found[k] = Atoms(crystal.positions, crystal.lattice)
        return found

    @cached_property
    def _row_of_relaxed(self) -> Int64:
        """The row that each place has in the file of relaxed crystals; -1 for those that are not there."""
        with _reading(self.path):
            held = has_atoms(self._file[RELAXATION][()])
        return np.where(held, np.cumsum(held) - 1, -1)

    def _relaxed_file(self) -> PackedCrystals:
        path = self.path.with_name(RELAXED)
        if not path.exists():
            raise InputError(
                f"{path}: is not there, and has the relaxed crystals of {self.path.name}; keep the two together, or "
                "make both again with `screening merge`"
            )
        packed = PackedCrystals(path)
        if packed.fingerprint != self.attributes[FINGERPRINT]:
            packed.close()
            raise FileFormatError(
                f"{path}: is of other results than {self.path}; make both again with `screening merge`"
            )
        return packed

    def reasons(self) -> Reasons:
        """Read why rows are not ok."""
        with _reading(self.path):
            columns = {name: self._file[name][()] for name in failures.NAMES}
            row = columns[failures.ROW]
            accepted = self._rows - int((row < 0).sum())
            places = np.where(row < 0, accepted - 1 - row, row)
            return Reasons(places, columns[failures.REASON], failures.messages_in(columns))

    def notes(self) -> list[ShardNote]:
        """Read how the shards that were merged came about."""
        with _reading(self.path):
            start, stop, written, worker, timing = (self._file[column.name][()].tolist() for column in NOTE_COLUMNS)
            held = zip(start, stop, written, worker, timing, strict=True)
            return [ShardNote(a, b, at, who.decode(), json.loads(took)) for a, b, at, who, took in held]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


class InShard:
    """The rows of a piece, in a file that is open while it is read."""

    def __init__(self, piece: Piece, stamp: Stamp) -> None:
        self._piece, self._stamp = piece, stamp

    def __len__(self) -> int:
        return len(self._piece)

    def read(self, names: Sequence[str], start: int, stop: int) -> dict[str, Array]:
        """Read columns at places [start, stop)."""
        with ShardFile(self._piece.path) as file:
            require_stamp(file, self._stamp)
            return {name: file.column(name)[self._piece.inside][start:stop] for name in names}

    def take(self, name: str, places: Int64) -> Array:
        """Read a column at some places."""
        return np.asarray(self.read([name], 0, len(self))[name][places])

    def relaxed(self, places: Int64) -> list[Atoms | None]:
        """Read relaxed crystals from the shard."""
        if self._stamp.relaxation is None:
            return [None] * len(places)
        with ShardFile(self._piece.path) as file:
            require_stamp(file, self._stamp)
            row, offsets, lattice, positions = (file.column(column.name) for column in RELAXED_COLUMNS)
        at = np.searchsorted(row, places + self._piece.start)
        there = np.isin(places + self._piece.start, row)
        ends = offsets.tolist()
        return [
            Atoms(positions[ends[k] : ends[k + 1]], lattice[k]) if known else None
            for k, known in zip(at.tolist(), there.tolist(), strict=True)
        ]

    def reasons(self) -> Reasons:
        """Read why rows are not ok."""
        with ShardFile(self._piece.path) as file:
            columns = {name: file.column(name) for name in failures.NAMES}
        own = failures.failed_part(columns, self._piece.start, self._piece.stop)
        places = own[failures.ROW] - self._piece.start
        return Reasons(places, own[failures.REASON], failures.messages_in(own))

    def notes(self) -> list[ShardNote]:
        """Read how the shard came about."""
        with ShardFile(self._piece.path) as file:
            return [file.note]


class Refused:
    """The crystals that packing refused, from the packed input."""

    def __init__(self, crystals: PackedCrystals, stamp: Stamp, embedding: int) -> None:
        self._crystals, self._stamp, self._embedding = crystals, stamp, embedding

    def __len__(self) -> int:
        return self._crystals.rejected

    def read(self, names: Sequence[str], start: int, stop: int) -> dict[str, Array]:
        """Work columns out for places [start, stop)."""
        return rejected_columns(self._crystals, start, stop, self._stamp, self._embedding, names)

    def take(self, name: str, places: Int64) -> Array:
        """Work a column out at some places, block by block of those that hold any of them."""
        blocks, firsts = np.unique(places // REFUSED_BLOCK, return_index=True)
        found = []
        for block, chosen in zip(blocks.tolist(), np.split(places, firsts[1:]), strict=True):
            start = block * REFUSED_BLOCK
            stop = min(start + REFUSED_BLOCK, len(self))
            found.append(self.read([name], start, stop)[name][chosen - start])
        return np.concatenate(found) if found else self.read([name], 0, 0)[name]

    def relaxed(self, places: Int64) -> list[Atoms | None]:
        """Nothing: what was refused was not relaxed."""
        return [None] * len(places)

    def reasons(self) -> Reasons:
        """Read why rows are not ok."""
        columns = rejected_columns(self._crystals, 0, len(self), self._stamp, names=failures.NAMES)
        return Reasons(np.arange(len(self)), columns[failures.REASON], failures.messages_in(columns))

    def notes(self) -> list[ShardNote]:
        """Nothing: no shard holds them."""
        return []


def _reading(path: Path, verb: str = "read") -> AbstractContextManager[None]:
    return reading(path, "results", CURE, verb)
