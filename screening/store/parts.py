"""Where the rows of a view lie: in `results.h5`, in a shard, or, when packing refused them, in the packed input."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, Protocol, Self

import h5py
import numpy as np

from screening.arrays import Bool, Float64, Int64
from screening.crystals.packed import PackedCrystals
from screening.crystals.text import SURROGATES
from screening.errors import FileFormatError, InputError
from screening.files.hdf5 import reading
from screening.store import failures
from screening.store.cover import Piece
from screening.store.failures import SPREAD
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
    Status,
    plain_attributes,
)
from screening.store.shard import ShardFile, require_stamp

CURE = "it is damaged or of another kind: copy it again, or make it again with `screening merge`"
STATUS_BLOCK = 1 << 18
# Sentences with no more than this between them are read at once.
NEAR_BYTES = 1 << 18
# Refused crystals that lie in one block are read together.
REFUSED_BLOCK = 1 << 13
# Relaxed crystals that lie in one block of their file are read together.
RELAXED_BLOCK = 1 << 10


class Atoms(NamedTuple):
    """Where the atoms of a relaxed crystal are: positions (atoms, 3) and lattice (3, 3), angstrom."""

    positions: Float64
    lattice: Float64


class Part(Protocol):
    """Some consecutive rows of a view that lie in one file; places count from its first.

    Names of columns are those of files, and those of `SPREAD`: why rows are not ok.
    """

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
            return {
                name: self._why(name, np.arange(start, stop)) if name in SPREAD else self._file[name][start:stop]
                for name in names
            }

    def take(self, name: str, places: Int64) -> Array:
        """Read a column at some places, each chunk that holds any of them once."""
        with _reading(self.path):
            return self._why(name, places) if name in SPREAD else self._taken(name, places)

    def _taken(self, name: str, places: Int64) -> Array:
        column = self._file[name]
        size = column.chunks[0]
        found = np.empty((len(places), *column.shape[1:]), column.dtype)
        for chunk, inside in _by_block(places, size):
            found[inside] = column[chunk * size : (chunk + 1) * size][places[inside] - chunk * size]
        return found

    def _why(self, name: str, places: Int64) -> Array:
        """Read why rows are not ok, at some places."""
        at = self._failures_at(places)
        bad = at >= 0
        at = at[bad]
        if name == failures.CODE:
            return failures.spread(name, len(places), bad, {failures.REASON: self._taken(failures.REASON, at)})
        sentences = np.full(len(places), None, object)
        sentences[bad] = self._sentences(at)
        return sentences

    def _sentences(self, at: Int64) -> list[str]:
        """Read the sentences of some failures; those that lie near each other together."""
        starts, stops = self._taken(failures.OFFSETS, at), self._taken(failures.OFFSETS, at + 1)
        found: list[str] = []
        for near in np.split(np.arange(len(at)), np.flatnonzero(starts[1:] - stops[:-1] > NEAR_BYTES) + 1):
            if len(near):
                first = int(starts[near[0]])
                data = self._file[failures.MESSAGES][first : int(stops[near[-1]])].tobytes()
                cuts = zip((starts[near] - first).tolist(), (stops[near] - first).tolist(), strict=True)
                found += [data[a:b].decode("utf-8", SURROGATES) for a, b in cuts]
        return found

    def _failures_at(self, places: Int64) -> Int64:
        """Which failure each place has; -1 for those that are ok. A row that is not ok has one, in the same order."""
        found = np.full(len(places), -1)
        for block, inside in _by_block(places, STATUS_BLOCK):
            bad = self._bad(block)
            own = places[inside] - block * STATUS_BLOCK
            found[inside] = np.where(bad[own], self._failures_before[block] + np.cumsum(bad)[own] - 1, -1)
        return found

    def _bad(self, block: int) -> Bool:
        status = self._file["status"][block * STATUS_BLOCK : (block + 1) * STATUS_BLOCK]
        return np.asarray(status != Status.OK)

    @cached_property
    def _failures_before(self) -> Int64:
        """How many failures come before each block of statuses."""
        counts = [np.count_nonzero(self._bad(block)) for block in range(-(-self._rows // STATUS_BLOCK))]
        return np.cumsum([0, *counts])

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
            return {
                name: self._why(file, name, start, stop)
                if name in SPREAD
                else file.column(name)[self._piece.inside][start:stop]
                for name in names
            }

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

    def _why(self, file: ShardFile, name: str, start: int, stop: int) -> Array:
        """Read why rows are not ok, at places [start, stop)."""
        columns = {column: file.column(column) for column in failures.NAMES}
        first = self._piece.start + start
        own = failures.failed_part(columns, first, self._piece.start + stop)
        return failures.spread(name, stop - start, own[failures.ROW] - first, own)

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
        plain = [name for name in names if name not in SPREAD]
        found = rejected_columns(self._crystals, start, stop, self._stamp, self._embedding, plain)
        return found | {name: self._why(name, start, stop) for name in names if name in SPREAD}

    def _why(self, name: str, start: int, stop: int) -> Array:
        """Read why crystals were refused, at places [start, stop)."""
        needed = (failures.REASON,) if name == failures.CODE else (failures.MESSAGES, failures.OFFSETS)
        columns = rejected_columns(self._crystals, start, stop, self._stamp, names=needed)
        return failures.spread(name, stop - start, np.arange(stop - start), columns)

    def take(self, name: str, places: Int64) -> Array:
        """Work a column out at some places, those that lie in one block together."""
        found = []
        for _, inside in _by_block(places, REFUSED_BLOCK):
            own = places[inside]
            start, stop = int(own[0]), int(own[-1]) + 1
            found.append(self.read([name], start, stop)[name][own - start])
        return np.concatenate(found) if found else self.read([name], 0, 0)[name]

    def relaxed(self, places: Int64) -> list[Atoms | None]:
        """Nothing: what was refused was not relaxed."""
        return [None] * len(places)

    def notes(self) -> list[ShardNote]:
        """Nothing: no shard holds them."""
        return []


def _by_block(places: Int64, size: int) -> Iterator[tuple[int, slice]]:
    """The blocks of so many rows that some places, ascending, lie in, each with the slice of those that do."""
    blocks, firsts = np.unique(places // size, return_index=True)
    ends = [*firsts.tolist(), len(places)]
    for block, (first, end) in zip(blocks.tolist(), pairwise(ends), strict=True):
        yield block, slice(first, end)


def _reading(path: Path, verb: str = "read") -> AbstractContextManager[None]:
    return reading(path, "results", CURE, verb)
